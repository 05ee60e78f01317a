"""The one pass over the volume: per region and class, the sums that every overlap loss is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from ars_jax.losses._checks import ArgumentError, answers_other_names, check_word
from ars_jax.losses._documented import documented
from ars_jax.losses._regions import (
    Bounds,
    RegionMap,
    Regions,
    equal_side,
    region_bounds,
    sum_over_map,
    sum_over_regions,
)
from ars_jax.losses._types import Array, Labels, Logits, Mask

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
    def true_positives(self) -> jax.Array:
        """I = sum p g = G - FN, `[b, *grid, c]`."""
        return self.reference - self.false_negatives

    @property
    def predicted(self) -> jax.Array:
        """P = sum p = I + FP, `[b, *grid, c]`."""
        return self.true_positives + self.false_positives

    @property
    def squared_true_positives(self) -> jax.Array:
        """Q = sum p^2 g = G - 2 FN + sum (1 - p)^2 g, `[b, *grid, c]`."""
        return self.reference - 2 * self.false_negatives + self.squared_false_negatives

    @property
    def squared_predicted(self) -> jax.Array:
        """P2 = sum p^2 = Q + sum p^2 (1 - g), `[b, *grid, c]`."""
        return self.squared_true_positives + self.squared_false_positives

    def __repr__(self) -> str:
        samples, *grid, classes = self.reference.shape
        regions = f"{'x'.join(map(str, grid))} regions, " if grid else ""
        fields = ", ".join(field.name for field in dataclasses.fields(self))
        return f"OverlapStatistics({samples} samples, {regions}{classes} classes, {self.reference.dtype}: {fields})"

    def total(self) -> OverlapStatistics:
        """Returns the statistics of the whole volume: the sums of the regional ones, `[b, c]`."""
        return jax.tree.map(lambda x: x.sum(tuple(range(1, x.ndim - 1))), self)

    def batch_total(self) -> OverlapStatistics:
        """Returns the statistics of the batch as one sample, `[1, *grid, c]`."""
        return jax.tree.map(lambda x: x.sum(0, keepdims=True), self)

    def foreground(self) -> OverlapStatistics:
        """Returns the statistics without class 0, `[b, *grid, c - 1]`.

        Raises:
            ValueError: there is no other class.
        """
        if self.reference.shape[-1] < 2:
            raise ValueError("class 0, the background, is the only class: without it nothing is left to be measured")
        classes = {field.name: getattr(self, field.name)[..., 1:] for field in dataclasses.fields(self)}
        return OverlapStatistics(**{**classes, "voxels": self.voxels})

    def coarser(self) -> OverlapStatistics:
        """Returns the statistics of a grid with half the regions per axis, each the sum of 2 x 2 (x 2) of this one's.

        Of a map, regions 2r and 2r + 1 become region r.

        Raises:
            ValueError: an axis has an odd number of regions.
        """
        grid = self.reference.shape[1:-1]
        if not grid or any(regions % 2 for regions in grid):
            raise ValueError(f"a grid of {'x'.join(map(str, grid))} regions cannot be halved along every axis")
        pairs = tuple(tuple((r, r + 2) for r in range(0, regions, 2)) for regions in grid)
        return jax.tree.map(lambda x: sum_over_regions(x, pairs), self)


@answers_other_names
@documented
def overlap_statistics(
    logits: Logits,
    labels: Labels,
    *,
    where: Mask | None = None,
    ignore_label: int | None = None,
    spatial_dims: Literal[2, 3] = 3,
    regions: Regions | None = None,
    from_probabilities: bool = False,
) -> OverlapStatistics:
    """Sums a prediction against its reference over every region, in one pass (the symbols of Eqs. 2-11).

    Softmax, comparison with the label map and sums are one loop over slabs of the volume; no one-hot volume is stored.
    The backward pass computes the softmax again, so that only logits and labels are kept for it. A voxel with a label
    outside of `[0, c)` that is not left out is a false positive of every class: its value cannot be checked here.

    Returns:
        Statistics per region and class, `[b, *grid, c]`.

    Raises:
        ValueError: shapes that do not fit together, or regions that do not fit the volume.

    Examples:
        >>> import numpy as np
        >>> from ars_jax import losses
        >>> labels = np.arange(64).reshape(1, 4, 4, 4) % 2
        >>> s = losses.overlap_statistics(np.zeros((1, 4, 4, 4, 2)), labels, regions=(1, 2, 2))
        >>> s
        OverlapStatistics(1 samples, 1x2x2 regions, 2 classes, float32: false_positives, false_negatives, reference, \
squared_false_positives, squared_false_negatives, log_loss, voxels)
        >>> s.total().true_positives.tolist()
        [[16.0, 16.0]]
    """
    check_arrays(logits, labels, where, spatial_dims)
    where = counted_voxels(labels, where, ignore_label, logits.ndim)
    if isinstance(regions, RegionMap):
        check_map(regions, logits)
        return sum_slabs(region_bounds(logits.shape[1:-1], None), from_probabilities, logits, labels, where, regions)
    return sum_slabs(region_bounds(logits.shape[1:-1], regions), from_probabilities, logits, labels, where, None)


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


def counted_voxels(labels: Labels, where: Mask | None, ignore_label: int | None, ndim: int) -> Mask | None:
    """Joins the mask with the voxels of the ignored label; logits have `ndim` axes."""
    if ignore_label is None:
        return where
    if labels.ndim == ndim:
        raise ArgumentError("ignore_label", ignore_label, "None for one-hot or soft labels; give a mask as where")
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ArgumentError("ignore_label", ignore_label, f"None for labels that are {labels.dtype}, not integers")
    limits = jnp.iinfo(labels.dtype)
    if not limits.min <= ignore_label <= limits.max:
        raise ArgumentError("ignore_label", ignore_label, f"a value of the labels' type {labels.dtype}")
    kept = labels != np.asarray(ignore_label, labels.dtype)
    return kept if where is None else kept & where.astype(bool)


def check_arrays(logits: Array, labels: Array, where: Array | None, spatial_dims: int) -> None:
    """Raises a ValueError for arrays whose shapes or types do not fit together."""
    check_word("spatial_dims", spatial_dims, Literal[2, 3])
    wanted = "[b, z, y, x, c]" if spatial_dims == 3 else "[b, y, x, c]"
    if logits.ndim != spatial_dims + 2:
        fix = {
            (4, 3): "; give one volume a batch axis, logits[None], and images spatial_dims=2",
            (5, 2): "; volumes have spatial_dims=3",
        }.get((logits.ndim, spatial_dims), "")
        raise ArgumentError("logits.shape", logits.shape, f"{wanted} for spatial_dims={spatial_dims}{fix}")
    if labels.shape not in (logits.shape, logits.shape[:-1]):
        if logits.shape[:1] + logits.shape[2:] in (labels.shape, labels.shape[:1] + labels.shape[2:]):
            fix = f"move the classes from axis 1 to the last one: jnp.moveaxis(logits, 1, -1) of {logits.shape}"
            raise ArgumentError("logits.shape", logits.shape, f"{wanted}, channels last; {fix}")
        wanted = f"{logits.shape[:-1]} for integers, or {logits.shape} for one-hot or soft labels, to fit the logits"
        raise ArgumentError("labels.shape", labels.shape, wanted)
    if logits.shape[-1] < 2:
        fix = "give a binary prediction a background, jnp.concatenate([jnp.zeros_like(logits), logits], -1)"
        raise ArgumentError("logits.shape", logits.shape, f"of at least 2 classes, background included; {fix}")
    if labels.ndim < logits.ndim and not (labels.dtype == bool or jnp.issubdtype(labels.dtype, jnp.integer)):
        raise ArgumentError("labels.dtype", labels.dtype, f"an integer type for labels of shape {labels.shape}")
    if where is not None and where.shape != logits.shape[:-1]:
        raise ArgumentError("where.shape", where.shape, f"{logits.shape[:-1]}, the logits' without classes")
    if where is not None and jnp.issubdtype(where.dtype, jnp.floating):
        raise ArgumentError("where.dtype", where.dtype, "boolean: voxels cannot have weights")


def check_map(regions: RegionMap, logits: Array) -> None:
    """Raises a ValueError for a region map that does not fit the logits."""
    ids, space = regions.ids, logits.shape[:-1]
    if ids.shape != space or not jnp.issubdtype(ids.dtype, jnp.integer) or regions.count < 1:
        found = f"{regions.count} regions, ids {ids.dtype} {ids.shape}"
        raise ArgumentError("regions", found, f"a map of at least one region with integer ids {space}")
