"""Division of a volume into non-overlapping regions, and sums over them."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

Edges = tuple[int, ...]
"""The cuts of one axis: region r covers voxels `edges[r]` to `edges[r + 1] - 1`."""


def region_edges(
    space: Sequence[int], *, grid: int | Sequence[int] | None = None, region_size: int | Sequence[int] | None = None
) -> tuple[Edges, ...]:
    """Cuts every axis into balanced regions that cover each voxel once.

    Region r of n over a side of s voxels covers `floor(r s / n)` to `floor((r + 1) s / n) - 1`, so that sides that
    do not divide get regions that differ by at most one voxel.

    Args:
        space: voxels per axis, `(z, y, x)` or `(y, x)`.
        grid: regions per axis, one number for all axes or one for each (the paper: 16). With neither this nor
            `region_size` the volume is one region.
        region_size: largest region side in voxels, instead of `grid`.

    Returns:
        The cuts of each axis, one tuple of `regions + 1` increasing voxel indices per axis.

    Raises:
        ValueError: both divisions given, a number below 1, a wrong count of numbers, or more regions than voxels.
    """
    if grid is not None and region_size is not None:
        raise ValueError(f"grid (={grid}) and region_size (={region_size}) both divide the volume; give one of them")
    if region_size is not None:
        counts = [
            math.ceil(side / size)
            for side, size in zip(space, _per_axis(region_size, space, "region_size"), strict=True)
        ]
    else:
        counts = _per_axis(1 if grid is None else grid, space, "grid")
    for axis, (side, count) in enumerate(zip(space, counts, strict=True)):
        if count > side:
            raise ValueError(
                f"grid (={grid}) asks for {count} regions along spatial axis {axis} of {side} voxels; "
                f"use a grid of at most {side} there, or region_size"
            )
    return tuple(
        tuple(region * side // count for region in range(count + 1)) for side, count in zip(space, counts, strict=True)
    )


def sum_over_regions(x: jax.Array, edges: Sequence[Edges]) -> jax.Array:
    """Sums `x` over each region.

    Equal regions are a reshape and one sum, the fastest form measured and one that shards over devices; unequal ones
    are a product with a 0/1 membership matrix per axis.

    Args:
        x: `[b, *space, ...]`.
        edges: the cuts of each spatial axis, from `region_edges`.

    Returns:
        `[b, *grid, ...]`, in the type of `x`.
    """
    if all(len(set(np.diff(cuts))) == 1 for cuts in edges):
        split = [size for cuts in edges for size in (len(cuts) - 1, cuts[1] - cuts[0])]
        within = tuple(range(2, 2 + len(split), 2))
        return x.reshape(x.shape[0], *split, *x.shape[1 + len(edges) :]).sum(within)
    for axis, cuts in enumerate(edges, start=1):
        x = jnp.moveaxis(jnp.tensordot(_membership(cuts, x.dtype), x, (1, axis), precision="highest"), 0, axis)
    return x


def _membership(cuts: Edges, dtype: jnp.dtype) -> np.ndarray:
    """Returns the 0/1 matrix [region, voxel] of one axis."""
    voxel = np.arange(cuts[-1])
    starts, stops = np.asarray(cuts[:-1])[:, None], np.asarray(cuts[1:])[:, None]
    return ((voxel >= starts) & (voxel < stops)).astype(dtype)


def _per_axis(value: int | Sequence[int], space: Sequence[int], name: str) -> list[int]:
    numbers = [value] * len(space) if isinstance(value, int) else list(value)
    if len(numbers) != len(space) or any(number < 1 for number in numbers):
        raise ValueError(f"{name} (={value}) must be a positive integer or {len(space)} of them, one per spatial axis")
    return numbers
