"""The one pass over the volume: per region and class, the sums that every overlap loss is made of."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from ars_jax.losses import _pass
from ars_jax.losses._checks import ArgumentError, check_integer, check_word, names_arguments
from ars_jax.losses._documented import documented
from ars_jax.losses._regions import Bounds, RegionMap, Regions, region_bounds, sum_over_regions
from ars_jax.losses._types import Array, Labels, Logits, Mask


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
        shape = tuple(getattr(self.reference, "shape", ()))
        if len(shape) < 2:  # a tree of something else than statistics
            return f"OverlapStatistics({', '.join(f'{k}={v!r}' for k, v in vars(self).items())})"
        grid = f", regions={shape[1:-1]}" if shape[1:-1] else ""
        return f"OverlapStatistics(samples={shape[0]}{grid}, classes={shape[-1]}, dtype={self.reference.dtype})"

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
            raise ArgumentError("levels", "another level", f"few enough to halve each of {grid} regions")
        pairs = tuple(tuple((r, r + 2) for r in range(0, regions, 2)) for regions in grid)
        return jax.tree.map(lambda x: sum_over_regions(x, pairs), self)


@names_arguments
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
    depth_shards: int = 1,
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
        OverlapStatistics(samples=1, regions=(1, 2, 2), classes=2, dtype=float32)
        >>> s.total().true_positives.tolist()
        [[16.0, 16.0]]
    """
    check_arrays(logits, labels, where, spatial_dims)
    check_integer("depth_shards", depth_shards, least=1)
    where = counted_voxels(labels, where, ignore_label, logits.ndim)
    region_map = regions if isinstance(regions, RegionMap) else None
    if region_map is not None:
        check_map(region_map, logits)
    bounds = region_bounds(logits.shape[1:-1], None if isinstance(regions, RegionMap) else regions)
    arrays = (logits, labels, where, region_map)
    return sum_slabs(bounds, from_probabilities, *arrays, depth_shards=depth_shards)


def sum_slabs(
    bounds: tuple[Bounds, ...],
    from_probabilities: bool,
    logits: Logits,
    labels: Labels,
    where: Mask | None,
    region_map: RegionMap | None,
    *,
    depth_shards: int = 1,
) -> OverlapStatistics:
    """Returns the statistics of given regions, which may overlap; see `_pass.sum_slabs`."""
    sums = _pass.sum_slabs(bounds, from_probabilities, logits, labels, where, region_map, depth_shards=depth_shards)
    return OverlapStatistics(*sums)


def counted_voxels(labels: Labels, where: Mask | None, ignore_label: int | None, ndim: int) -> Mask | None:
    """Joins the mask with the voxels of the ignored label; logits have `ndim` axes."""
    if ignore_label is None:
        return where
    check_integer("ignore_label", ignore_label)
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
    for name, array in (("logits", logits), ("labels", labels), ("where", where)):
        if array is not None and (not hasattr(array, "ndim") or type(array).__module__.startswith("torch")):
            fix = "an array of JAX or NumPy; ars_jax.gradients.pytorch.loss takes tensors"
            raise ArgumentError(name, type(array).__name__, fix)
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
