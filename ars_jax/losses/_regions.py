"""Division of a volume into regions, and sums over them."""

import dataclasses
import math
import operator
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ars_jax.losses._checks import ArgumentError
from ars_jax.losses._objective import RegionSize

Bounds = tuple[tuple[int, int], ...]
"""The regions of one axis: region r covers voxels `start` to `stop - 1` of `bounds[r] = (start, stop)`."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class RegionMap:
    """Regions of any shape, such as organs with their surroundings or supervoxels.

    Attributes:
        ids: region of each voxel, integers in `[0, count)`, `[b, *space]`; voxels with another number are in no region,
            and so in no sum.
        count: number of regions, a constant of the compiled function.
    """

    ids: jax.Array
    count: int = dataclasses.field(metadata={"static": True})

    def with_rest(self) -> "RegionMap":
        """Returns the map with one more region, the last: all voxels that are in no other."""
        ids = self.ids.astype(np.int32)
        return RegionMap(jnp.where((ids < 0) | (ids >= self.count), self.count, ids), self.count + 1)


Regions = int | Sequence[int] | RegionSize | RegionMap
"""A division of the volume: regions per axis, their largest side, or a map."""


def region_bounds(space: Sequence[int], regions: int | Sequence[int] | RegionSize | None) -> tuple[Bounds, ...]:
    """Cuts every axis into balanced regions that cover each voxel once.

    Region r of n over a side of s voxels covers `floor(r s / n)` to `floor((r + 1) s / n) - 1`: regions of a side that
    does not divide differ by at most one voxel.

    Args:
        space: voxels per axis, `(z, y, x)` or `(y, x)`.
        regions: number of regions per axis, one number for all axes or one for each (the paper: 16), or `RegionSize`,
            the largest region side. None makes the volume one region.

    Returns:
        The regions of each axis, one tuple of `(start, stop)` voxel indices per axis.

    Raises:
        ValueError: a number below 1, a wrong count of numbers, or more regions than voxels.

    Examples:
        >>> from ars_jax import losses
        >>> losses.region_bounds((4, 6), (2, 3))
        (((0, 2), (2, 4)), ((0, 2), (2, 4), (4, 6)))
        >>> losses.region_bounds((7,), losses.RegionSize(3))
        (((0, 2), (2, 4), (4, 7)),)
    """
    if isinstance(regions, RegionSize):
        sizes = _per_axis(regions.voxels, space, "RegionSize")
        counts = [math.ceil(side / size) for side, size in zip(space, sizes, strict=True)]
    else:
        counts = _per_axis(1 if regions is None else regions, space, "regions")
    for axis, (side, count) in enumerate(zip(space, counts, strict=True)):
        if count > side:
            wanted = f"at most {side} along spatial axis {axis} of {side} voxels, or a RegionSize"
            raise ArgumentError("regions", regions, wanted)
    return tuple(
        tuple((region * side // count, (region + 1) * side // count) for region in range(count))
        for side, count in zip(space, counts, strict=True)
    )


def pooling_bounds(space: Sequence[int], bins: int | Sequence[int]) -> tuple[Bounds, ...]:
    """Cuts every axis into the bins of PyTorch's adaptive pooling.

    Bin r of n over a side of s voxels covers `floor(r s / n)` to `ceil((r + 1) s / n) - 1`: bins of sides that do not
    divide overlap, and so count some voxels twice. A side of fewer voxels than bins is allowed, as in PyTorch.

    Args:
        space: voxels per axis, `(z, y, x)` or `(y, x)`.
        bins: per axis, one number for all axes or one for each.

    Returns:
        The bins of each axis, one tuple of `(start, stop)` voxel indices per axis.

    Raises:
        ValueError: a number below 1, or a wrong count of numbers.
    """
    return tuple(
        tuple((box * side // count, -(-(box + 1) * side // count)) for box in range(count))
        for side, count in zip(space, _per_axis(bins, space, "num_region_per_axis"), strict=True)
    )


def equal_side(bounds: Bounds) -> int | None:
    """Returns the side of an axis's regions where all are alike and follow each other without gap, else None."""
    side = bounds[0][1]
    return side if bounds == tuple((r * side, (r + 1) * side) for r in range(len(bounds))) else None


def sum_over_regions(x: jax.Array, bounds: Sequence[Bounds]) -> jax.Array:
    """Sums `x` over each region.

    Equal regions are a reshape and a sum, the fastest form measured and one that shards over devices; others are a
    product with a 0/1 membership matrix per axis.

    Args:
        x: `[b, *space, ...]`.
        bounds: the regions of each spatial axis, from `region_bounds`.

    Returns:
        `[b, *grid, ...]`, in the type of `x`.
    """
    split, within = [x.shape[0]], []
    for axis, regions in enumerate(bounds, start=1):
        if side := equal_side(regions):
            within.append(len(split) + 1)
            split += [len(regions), side]
        else:
            split.append(x.shape[axis])
    x = x.reshape(*split, *x.shape[1 + len(bounds) :]).sum(tuple(within))
    for axis, regions in enumerate(bounds, start=1):
        if equal_side(regions) is None:
            member = _membership(regions, x.shape[axis], x.dtype)
            x = jnp.moveaxis(jnp.tensordot(member, x, (1, axis), precision="highest"), 0, axis)
    return x


def sum_over_map(x: jax.Array, region_map: RegionMap) -> jax.Array:
    """Sums `x` over regions of any shape.

    Voxels are added one after the other within chains, and the chains' sums at the end: in a single chain of float32
    additions, small values get lost as soon as the sum is large.

    Args:
        x: `[b, *space, c]`.
        region_map: ids `[b, *space]`.

    Returns:
        `[b, regions, c]`, in the type of `x`.
    """
    return sum_groups(x, region_map).sum(1)


def sum_groups(x: jax.Array, region_map: RegionMap, groups: int = 1) -> jax.Array:
    """Sums `x` over regions of any shape, within groups of equal parts of the first spatial axis.

    Args:
        x: `[b, *space, c]`.
        region_map: ids `[b, *space]`.
        groups: how many; they divide the first spatial axis.

    Returns:
        `[b, groups, regions, c]`, in the type of `x`.
    """
    count = region_map.count

    def one_chain(x: jax.Array, ids: jax.Array) -> jax.Array:
        ids = jnp.where(ids < 0, count, ids)  # an index below 0 would count from the end; one too large drops
        return jax.ops.segment_sum(x, ids, count)

    chains = _chains(x.shape[1:-1], count, groups)
    ids = region_map.ids.astype(np.int32).reshape(x.shape[0], chains, -1)
    sums = jax.vmap(jax.vmap(one_chain))(x.reshape(x.shape[0], chains, -1, x.shape[-1]), ids)
    return sums.reshape(x.shape[0], groups, chains // groups, count, x.shape[-1]).sum(2)


def _chains(space: Sequence[int], regions: int, groups: int) -> int:
    """Returns the number of equal chains of voxels, so many that their sums take half of the voxels' memory.

    Chains are parts of slices along the first axis or whole ones, so that sharded slices need not move.
    """
    slices, voxels = space[0], math.prod(space[1:])
    most = max(1, slices * voxels // (2 * regions))
    if most < slices:
        return max((n for n in range(groups, most + 1, groups) if slices % n == 0), default=groups)
    return slices * max(n for n in range(1, min(voxels, most // slices) + 1) if voxels % n == 0)


def _membership(bounds: Bounds, side: int, dtype: jnp.dtype) -> np.ndarray:
    """Returns the 0/1 matrix [region, voxel] of one axis."""
    voxel = np.arange(side)
    starts, stops = np.asarray(bounds).T[:, :, None]
    return ((voxel >= starts) & (voxel < stops)).astype(dtype)


def _per_axis(value: int | Sequence[int], space: Sequence[int], name: str) -> list[int]:
    values = value if isinstance(value, Sequence | np.ndarray) else [value] * len(space)
    try:
        numbers = [operator.index(number) for number in values]
    except TypeError:
        numbers = []
    if len(numbers) != len(space) or any(number < 1 for number in numbers) or isinstance(value, bool):
        hint = "; a map of regions is a RegionMap(ids, count)" if getattr(value, "ndim", 0) > 1 else ""
        found = repr(value) if isinstance(value, str) else value
        raise ArgumentError(name, found, f"a positive integer or {len(space)} of them, one per spatial axis{hint}")
    return numbers
