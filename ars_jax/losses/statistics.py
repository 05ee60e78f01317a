"""The one pass over the volume: per region and class, the sums that every overlap loss is made of."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from ars_jax.losses.regions import (
    Bounds,
    RegionMap,
    equal_side,
    region_bounds,
    sum_over_map,
    sum_over_regions,
)

Array = jax.Array | np.ndarray

SLAB_ELEMENTS = {"cpu": 2**19, "other": 2**22}
"""Logits per slab of the pass. On a CPU a slab's temporaries then stay in its cache (0.31 s beside 0.41 s with slabs
eight times as large); accelerators want fewer, larger launches (not measured): 16 MiB a slab."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class OverlapStatistics:
    """Sufficient statistics of a prediction against its reference, per region and class.

    With p the probability of class c at a voxel and g its reference (1 or 0, or soft), summed over a region's
    counted voxels. The fields are the errors themselves, not differences of large sums that nearly cancel; overlaps
    follow from them exactly, for soft references too. All are float32 (float64 for float64 logits), `[b, *grid, c]`
    unless said; the regions of a `RegionMap` are one axis.

    Attributes:
        false_positives: FP = sum p (1 - g).
        false_negatives: FN = sum (1 - p) g.
        reference: G = sum g.
        squared_false_positives: sum p^2 (1 - g).
        squared_false_negatives: sum (1 - p)^2 g.
        log_loss: E = -sum g log p.
        voxels: N, the counted voxels, `[b, *grid, 1]`.
    """

    false_positives: jax.Array
    false_negatives: jax.Array
    reference: jax.Array
    squared_false_positives: jax.Array
    squared_false_negatives: jax.Array
    log_loss: jax.Array
    voxels: jax.Array

    @property
    def intersection(self) -> jax.Array:
        """I = sum p g = G - FN, the true positives, `[b, *grid, c]`."""
        return self.reference - self.false_negatives

    @property
    def predicted(self) -> jax.Array:
        """P = sum p = I + FP, `[b, *grid, c]`."""
        return self.intersection + self.false_positives

    @property
    def intersection_squared(self) -> jax.Array:
        """Q = sum p^2 g = G - 2 FN + sum (1 - p)^2 g, `[b, *grid, c]`."""
        return self.reference - 2 * self.false_negatives + self.squared_false_negatives

    @property
    def predicted_squared(self) -> jax.Array:
        """P2 = sum p^2 = Q + sum p^2 (1 - g), `[b, *grid, c]`."""
        return self.intersection_squared + self.squared_false_positives

    def total(self) -> "OverlapStatistics":
        """Returns the statistics of the whole volume: the sums of the regional ones, `[b, c]`."""
        return jax.tree.map(lambda x: x.sum(tuple(range(1, x.ndim - 1))), self)

    def whole_batch(self) -> "OverlapStatistics":
        """Returns the statistics of all samples taken together, `[1, *grid, c]`."""
        return jax.tree.map(lambda x: x.sum(0, keepdims=True), self)

    def foreground(self) -> "OverlapStatistics":
        """Returns the statistics without class 0, `[b, *grid, c - 1]`.

        Raises:
            ValueError: there is no other class.
        """
        if self.reference.shape[-1] < 2:
            raise ValueError("class 0, the background, is the only class: without it nothing is left to be measured")
        classes = {field.name: getattr(self, field.name)[..., 1:] for field in dataclasses.fields(self)}
        return OverlapStatistics(**{**classes, "voxels": self.voxels})

    def coarser(self) -> "OverlapStatistics":
        """Returns the statistics of a grid with half the regions per axis, each the sum of 2 x 2 (x 2) of this one's.

        Of a map, regions 2r and 2r + 1 become region r.

        Raises:
            ValueError: an axis has an odd number of regions.
        """
        grid = self.reference.shape[1:-1]
        if any(regions % 2 for regions in grid):
            raise ValueError(f"a grid of {'x'.join(map(str, grid))} regions cannot be halved along every axis")
        pairs = tuple(tuple((r, r + 2) for r in range(0, regions, 2)) for regions in grid)
        return jax.tree.map(lambda x: sum_over_regions(x, pairs), self)


def overlap_statistics(
    logits: jax.Array,
    labels: jax.Array,
    *,
    grid: int | Sequence[int] | None = None,
    region_size: int | Sequence[int] | None = None,
    region_map: RegionMap | None = None,
    where: jax.Array | None = None,
    from_probabilities: bool = False,
) -> OverlapStatistics:
    """Sums a prediction against its reference over every region, in one pass (the symbols of Eqs. 2-11).

    Softmax, comparison with the label map and sums are fused; no one-hot volume is stored. The backward pass computes
    the softmax again, so that only logits and labels are kept for it.

    Args:
        logits: `[b, *space, c]` with two or three spatial axes, any float type.
        labels: integers in `[0, c)`, `[b, *space]`, or one-hot or soft labels, `[b, *space, c]`. A voxel with another
            number, and not taken out by `where`, is a false positive of every class: its value cannot be checked here.
        grid: regions per axis, see `region_bounds`; without any division the volume is one region.
        region_size: largest region side in voxels, instead of `grid`.
        region_map: regions of any shape, instead of `grid`.
        where: `[b, *space]`, false or 0 takes a voxel out of every sum, whatever its logits are.
        from_probabilities: `logits` holds probabilities instead; their logarithm is then clipped at the smallest
            normal number.

    Returns:
        Statistics per region and class, `[b, *grid, c]`.

    Raises:
        ValueError: shapes that do not fit together, or a division that does not fit the volume.
    """
    check_shapes(logits, labels, where, region_map)
    if region_map is not None and (grid is not None or region_size is not None):
        raise ValueError(f"region_map and grid (={grid}) or region_size (={region_size}) both divide the volume")
    bounds = region_bounds(logits.shape[1:-1], grid=grid, region_size=region_size)
    return sum_slabs(bounds, from_probabilities, logits, labels, where, region_map)


@partial(jax.jit, static_argnums=(0, 1))
def sum_slabs(
    bounds: tuple[Bounds, ...],
    from_probabilities: bool,
    logits: jax.Array,
    labels: jax.Array,
    where: jax.Array | None,
    region_map: RegionMap | None,
) -> OverlapStatistics:
    """Goes through the volume in slabs along its second spatial axis, so that every temporary is slab-sized.

    The first spatial axis stays whole, because that is the one a sharded volume is divided along. A slab is cut out
    inside the checkpointed function: what is kept for the backward pass is then the volume itself, not its slabs.

    Args:
        bounds: the regions of each spatial axis; they may overlap. Not used with a region map.
        from_probabilities: see `overlap_statistics`, as for the arrays.
        logits: `[b, *space, c]`.
        labels: `[b, *space]` or `[b, *space, c]`.
        where: `[b, *space]` or None.
        region_map: ids `[b, *space]` or None.

    Returns:
        Statistics per region and class.
    """
    axis = 2
    side = logits.shape[axis]
    width, rows = _slab(bounds[axis - 1], side, logits.size // side)
    inner = (bounds[0], tuple((row, row + rows) for row in range(0, width, rows)), *bounds[2:])
    arrays = (logits, labels, where, region_map)

    @partial(jax.checkpoint, prevent_cse=False)  # a scan's body needs no barriers
    def one_slab(index: jax.Array, arrays: tuple) -> OverlapStatistics:
        slab = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, index * width, width, axis), arrays)
        *voxels, ids = slab
        if ids is None:
            return _sum_voxels(lambda x: sum_over_regions(x, inner), from_probabilities, *voxels)
        return _sum_voxels(lambda x: sum_over_map(x, ids), from_probabilities, *voxels)

    slabs = jnp.arange(side // width)
    if region_map is not None:
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one_slab, slabs[0], arrays))
        return jax.lax.scan(lambda s, i: (jax.tree.map(jnp.add, s, one_slab(i, arrays)), None), zeros, slabs)[0]

    def merge(x: jax.Array) -> jax.Array:
        x = jnp.moveaxis(x, 0, axis)
        x = x.reshape(*x.shape[:axis], side // rows, *x.shape[axis + 2 :])
        regions = tuple((start // rows, stop // rows) for start, stop in bounds[axis - 1])
        units = [tuple((r, r + 1) for r in range(n)) for n in x.shape[1:-1]]
        return sum_over_regions(x, [units[0], regions, *units[2:]])

    return jax.tree.map(merge, jax.lax.map(lambda i: one_slab(i, arrays), slabs))


def _slab(bounds: Bounds, side: int, row_elements: int) -> tuple[int, int]:
    """Returns the width of the slabs of an axis, and the rows within a slab that are summed together.

    The widest division of the side that keeps a slab small. Where all regions are alike, slabs are fractions or
    multiples of a region; elsewhere rows are summed into their regions after the pass.
    """
    region = equal_side(bounds)
    widths = [w for w in range(1, side + 1) if side % w == 0 and (region is None or w % region == 0 or region % w == 0)]
    limit = SLAB_ELEMENTS.get(jax.default_backend(), SLAB_ELEMENTS["other"])
    width = max((w for w in widths if w * row_elements <= limit), default=1)
    return width, 1 if region is None else min(width, region)


def _sum_voxels(
    regional: Callable[[jax.Array], jax.Array],
    from_probabilities: bool,
    logits: jax.Array,
    labels: jax.Array,
    where: jax.Array | None,
) -> OverlapStatistics:
    x = logits.astype(jnp.promote_types(logits.dtype, jnp.float32))
    counted = jnp.ones((*x.shape[:-1], 1), x.dtype)
    g = _one_hot(labels, x)
    if where is not None:
        mask = where[..., None].astype(bool)
        counted = mask.astype(x.dtype)
        x, g = (jnp.where(mask, y, 0) for y in (x, g))
    if from_probabilities:
        p, log_p = x, jnp.log(jnp.maximum(x, jnp.finfo(x.dtype).tiny))
    else:
        log_p = x - jax.nn.logsumexp(x, axis=-1, keepdims=True)
        p = jnp.exp(log_p)
    if where is not None:
        p = p * counted
    fp, fn = p * (1 - g), (1 - p) * g
    return OverlapStatistics(
        false_positives=regional(fp),
        false_negatives=regional(fn),
        reference=regional(g),
        squared_false_positives=regional(p * fp),
        squared_false_negatives=regional((1 - p) * fn),
        log_loss=-regional(g * jnp.where(g > 0, log_p, 0)),
        voxels=regional(counted),
    )


def _one_hot(labels: jax.Array, x: jax.Array) -> jax.Array:
    if labels.ndim == x.ndim:
        return labels.astype(x.dtype)
    classes = jnp.arange(x.shape[-1]).reshape((1,) * labels.ndim + (-1,))
    return (labels[..., None] == classes).astype(x.dtype)


def check_shapes(logits: Array, labels: Array, where: Array | None, region_map: RegionMap | None) -> None:
    """Raises a ValueError for arguments of `overlap_statistics` whose shapes or types do not fit together."""
    if logits.ndim not in (4, 5):
        raise ValueError(f"logits must be [b, z, y, x, c] or [b, y, x, c]; their shape is {logits.shape}")
    if labels.shape not in (logits.shape, logits.shape[:-1]):
        raise ValueError(
            f"labels of shape {labels.shape} do not fit logits of shape {logits.shape}: "
            f"give integers {logits.shape[:-1]}, or one-hot or soft labels {logits.shape}"
        )
    if labels.ndim < logits.ndim and not (labels.dtype == bool or jnp.issubdtype(labels.dtype, jnp.integer)):
        raise ValueError(f"labels of shape {labels.shape} must be integers; their type is {labels.dtype}")
    if where is not None and where.shape != logits.shape[:-1]:
        raise ValueError(f"where of shape {where.shape} must be {logits.shape[:-1]}, as logits without classes")
    if where is not None and jnp.issubdtype(where.dtype, jnp.floating):
        raise ValueError(f"where must be true or false; its type is {where.dtype}, and voxels cannot have weights")
    if region_map is None:
        return
    ids = region_map.ids
    if ids.shape != logits.shape[:-1] or not jnp.issubdtype(ids.dtype, jnp.integer) or region_map.count < 1:
        raise ValueError(
            f"region_map of {region_map.count} regions, ids {ids.dtype} {ids.shape}, must have at least one region "
            f"and integer ids {logits.shape[:-1]}, as logits without classes"
        )
