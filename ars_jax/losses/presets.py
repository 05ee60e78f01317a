"""Losses by the conventions of other libraries, with the same value and gradient, from one pass over the volume.

Each preset is named after the code that it reproduces and keeps that code's option names and defaults. The value and
the gradient agree with PyTorch's to rounding, for hard labels and, where the other code takes them, soft ones. All
apply the softmax over the last axis. Departures: `where` leaves voxels out of every preset, as an ignored label does
where the other code knows one; and an array's only class is kept where the background is to be left out, with the
softmax of one class, which is 1 (MONAI then takes the logits for probabilities, nnU-Net's value is NaN).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from ars_jax.losses.overlap import adaptive_tversky_loss
from ars_jax.losses.reduction import check_word
from ars_jax.losses.regions import Bounds, pooling_bounds
from ars_jax.losses.statistics import OverlapStatistics, check_shapes, overlap_statistics, sum_slabs

RegionReduction = Literal["mean", "sum"]


def pytorch_ars(
    logits: jax.Array,
    labels: jax.Array,
    *,
    grid: int | Sequence[int] = 16,
    smooth: float = 1e-5,
    batch_dice: bool = True,
    do_bg: bool = True,
    a: float = 0.3,
    b: float = 0.4,
    region_reduction: RegionReduction = "mean",
    where: jax.Array | None = None,
) -> jax.Array:
    """The public PyTorch module of the paper's loss, `Adaptive_Region_Specific_TverskyLoss` with adaptive pooling.

    Eqs. 5-8 on region means instead of sums: in terms of sums its eps is `smooth` times the voxels of a region. The
    means of all samples are added before the ratio; every pair of region and class counts, absent ones too; the
    penalties are differentiated.

    Args:
        logits: `[b, *space, c]`, two or three spatial axes.
        labels: `[b, *space]` integers, or `[b, *space, c]` one-hot or soft.
        grid: regions per axis in the arrays' order, the module's `num_region_per_axis`; they overlap where the sides
            do not divide, see `pooling_bounds`.
        smooth: added to numerators and denominators, in units of a region's mean.
        batch_dice: whether the samples' means are added; else every sample has its own ratios.
        do_bg: whether class 0 has a loss.
        a: the smallest penalty, the module's `A`.
        b: the range of the penalty, the module's `B`.
        region_reduction: over regions, `"mean"`, or `"sum"` as in the module's versions before October 2024 and in
            most copies of it; over classes and samples it is a mean in all.
        where: `[b, *space]`, false sets a voxel to 0 before the pooling, so that its region keeps its size.

    Returns:
        A scalar, within [0, 1] for `"mean"`.

    Raises:
        ValueError: shapes, a grid or a word that do not fit.
    """
    check_word("region_reduction", region_reduction, RegionReduction)
    check_shapes(logits, labels, where, None)
    bounds = pooling_bounds(logits.shape[1:-1], grid=grid)
    s = _counted(sum_slabs(bounds, False, logits, labels, where, None), do_bg, batch_dice)
    voxels = _voxels(bounds)
    means = jax.tree.map(lambda x: x / voxels.astype(x.dtype), s)
    loss = _mean(adaptive_tversky_loss(means, a=a, b=b, eps=smooth))
    return loss if region_reduction == "mean" else loss * voxels.size


def monai_dice(
    logits: jax.Array,
    labels: jax.Array,
    *,
    squared: bool = False,
    include_background: bool = True,
    batch: bool = False,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    where: jax.Array | None = None,
) -> jax.Array:
    """MONAI's `DiceLoss`, `1 - (2I + smooth_nr) / (P + G + smooth_dr)`, the mean over samples and classes.

    Args:
        logits: `[b, *space, c]`.
        labels: `[b, *space]` integers, or `[b, *space, c]` one-hot or soft.
        squared: `squared_pred`, sums of p^2 and g^2 in the denominator.
        include_background: whether class 0 has a loss.
        batch: whether a batch is summed up as one sample.
        smooth_nr: added to the numerator, in voxels.
        smooth_dr: added to the denominator, in voxels.
        where: `[b, *space]`, false takes a voxel out, MONAI's `ignore_index`.

    Returns:
        A scalar, within [0, 1].

    Raises:
        ValueError: shapes that do not fit.
    """
    s = overlap_statistics(logits, labels, where=where)
    counted = partial(_counted, background=include_background, whole_batch=batch)
    return _monai_dice(counted, s, labels, where, squared, smooth_nr, smooth_dr)


def monai_dice_ce(
    logits: jax.Array,
    labels: jax.Array,
    *,
    squared: bool = False,
    include_background: bool = True,
    batch: bool = False,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    lambda_dice: float = 1.0,
    lambda_ce: float = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """MONAI's `DiceCELoss`: its Dice loss plus the mean cross-entropy of all voxels of the batch.

    Args:
        logits: `[b, *space, c]`.
        labels: `[b, *space]` integers, or `[b, *space, c]` one-hot or soft.
        squared: see `monai_dice`.
        include_background: whether class 0 has a Dice loss; the cross-entropy has all classes.
        batch: see `monai_dice`.
        smooth_nr: see `monai_dice`.
        smooth_dr: see `monai_dice`.
        lambda_dice: weight of the Dice loss.
        lambda_ce: weight of the cross-entropy.
        where: `[b, *space]`, false takes a voxel out.

    Returns:
        A scalar.

    Raises:
        ValueError: shapes that do not fit.
    """
    s = overlap_statistics(logits, labels, where=where)
    counted = partial(_counted, background=include_background, whole_batch=batch)
    overlap = _monai_dice(counted, s, labels, where, squared, smooth_nr, smooth_dr)
    return lambda_dice * overlap + lambda_ce * _cross_entropy(s)


def monai_tversky(
    logits: jax.Array,
    labels: jax.Array,
    *,
    fp_weight: float = 0.5,
    fn_weight: float = 0.5,
    include_background: bool = True,
    batch: bool = False,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    where: jax.Array | None = None,
) -> jax.Array:
    """MONAI's `TverskyLoss`, `1 - (I + smooth_nr) / (I + fp_weight FP + fn_weight FN + smooth_dr)`, a mean.

    Args:
        logits: `[b, *space, c]`.
        labels: `[b, *space]` integers, or `[b, *space, c]` one-hot or soft.
        fp_weight: penalty on false positives, MONAI's `alpha`.
        fn_weight: penalty on false negatives, MONAI's `beta`.
        include_background: whether class 0 has a loss.
        batch: whether a batch is summed up as one sample.
        smooth_nr: added to the numerator, in voxels.
        smooth_dr: added to the denominator, in voxels.
        where: `[b, *space]`, false takes a voxel out, MONAI's `ignore_index`.

    Returns:
        A scalar, the mean over samples and classes, within [0, 1].

    Raises:
        ValueError: shapes that do not fit.
    """
    s = _counted(overlap_statistics(logits, labels, where=where), include_background, batch)
    errors = fp_weight * s.false_positives + fn_weight * s.false_negatives
    return jnp.mean(1 - (s.intersection + smooth_nr) / (s.intersection + errors + smooth_dr))


def monai_generalized_dice(
    logits: jax.Array,
    labels: jax.Array,
    *,
    include_background: bool = True,
    batch: bool = False,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    where: jax.Array | None = None,
) -> jax.Array:
    """MONAI's `GeneralizedDiceLoss`, `1 - (2 sum_c w I + smooth_nr) / (sum_c w (P + G) + smooth_dr)`.

    With `w = 1 / G^2` as it is, computed in float32 whatever the logits are: for large organs the smoothing outweighs
    both sums, and a total failure scores less than 1 (`generalized_dice` scales the weights instead). A class that a
    sample lacks takes the largest weight of its other classes.

    Args:
        logits: `[b, *space, c]`.
        labels: `[b, *space]` integers, or `[b, *space, c]` one-hot or soft.
        include_background: whether class 0 is in the sums.
        batch: whether a batch is summed up as one sample.
        smooth_nr: added to the numerator.
        smooth_dr: added to the denominator.
        where: `[b, *space]`, false takes a voxel out; MONAI's class has no such option.

    Returns:
        A scalar, the mean over samples, within [0, 1].

    Raises:
        ValueError: shapes that do not fit.
    """
    s = _counted(overlap_statistics(logits, labels, where=where), include_background, batch)
    weights = _reciprocal_squares(s.reference.astype(jnp.float32)).astype(s.reference.dtype)
    errors = jnp.sum(weights * (s.false_positives + s.false_negatives), -1)
    sizes = jnp.sum(weights * (s.predicted + s.reference), -1)
    return jnp.mean((errors + smooth_dr - smooth_nr) / (sizes + smooth_dr))


def nnunet_dice_ce(
    logits: jax.Array,
    labels: jax.Array,
    *,
    batch_dice: bool = False,
    smooth: float = 1e-5,
    do_bg: bool = False,
    weight_ce: float = 1.0,
    weight_dice: float = 1.0,
    where: jax.Array | None = None,
) -> jax.Array:
    """nnU-Net v2's `DC_and_CE_loss` with its `MemoryEfficientSoftDiceLoss`, as its trainer makes them.

    The mean cross-entropy of all counted voxels minus the mean over samples and classes of the soft Dice coefficient
    `(2I + smooth) / max(P + G + smooth, 1e-8)`. The trainer's `smooth` and `do_bg` are the defaults here, those of the
    class itself being 1 and true; nnU-Net's plan sets `batch_dice` for each configuration.

    Args:
        logits: `[b, *space, c]`.
        labels: `[b, *space]` integers, or `[b, *space, c]` one-hot.
        batch_dice: whether a batch is summed up as one sample.
        smooth: added to numerator and denominator, in voxels.
        do_bg: whether class 0 has a Dice coefficient; the cross-entropy has all classes.
        weight_ce: weight of the cross-entropy.
        weight_dice: weight of the Dice coefficient.
        where: `[b, *space]`, false takes a voxel out, nnU-Net's `ignore_label`.

    Returns:
        A scalar, -1 for a perfect prediction.

    Raises:
        ValueError: shapes that do not fit.
    """
    s = overlap_statistics(logits, labels, where=where)
    d = _counted(s, do_bg, batch_dice)
    coefficient = (2 * d.intersection + smooth) / jnp.maximum(d.reference + d.predicted + smooth, 1e-8)
    return weight_ce * _cross_entropy(s) - weight_dice * jnp.mean(coefficient)


def _counted(statistics: OverlapStatistics, background: bool, whole_batch: bool) -> OverlapStatistics:
    s = statistics if background or statistics.predicted.shape[-1] == 1 else statistics.foreground()
    return s.whole_batch() if whole_batch else s


def _monai_dice(
    counted: Callable[[OverlapStatistics], OverlapStatistics],
    statistics: OverlapStatistics,
    labels: jax.Array,
    where: jax.Array | None,
    squared: bool,
    smooth_nr: float,
    smooth_dr: float,
) -> jax.Array:
    s = counted(statistics)
    overlap, sizes = 2 * s.intersection, s.predicted + s.reference
    if squared and labels.ndim == s.reference.ndim:
        g = counted(overlap_statistics(labels, labels, where=where, from_probabilities=True))
        sizes = s.predicted_squared + g.predicted_squared
    elif squared:
        rounding = _squared_norm(s.reference) - s.reference  # in the overlap too: MONAI has it from three norms
        overlap, sizes = overlap + rounding, s.predicted_squared + s.reference + rounding
    return jnp.mean(1 - (overlap + smooth_nr) / (sizes + smooth_dr))


def _squared_norm(counts: jax.Array) -> jax.Array:
    """Returns counts as MONAI has them: squared norms of one-hot labels that are float32 whatever the logits are."""
    norms = jax.lax.optimization_barrier(jnp.sqrt(counts.astype(jnp.float32)))  # else the square undoes the root
    return (norms * norms).astype(counts.dtype)


def _cross_entropy(statistics: OverlapStatistics) -> jax.Array:
    return statistics.log_loss.sum() / jnp.maximum(statistics.voxels.sum(), 1)


def _mean(values: jax.Array) -> jax.Array:
    """Mean over all axes, one after the other: a single float32 sum over thousands of regions loses two digits."""
    count = values.size
    while values.ndim:
        values = jax.lax.optimization_barrier(values.sum(-1))  # else neighbouring sums are joined to one
    return values / count


def _reciprocal_squares(sizes: jax.Array) -> jax.Array:
    """Returns 1 / sizes^2 over the last axis, the largest finite one where a size is 0."""
    squares = sizes * sizes
    present = squares > 0
    weights = jnp.where(present, 1 / jnp.where(present, squares, 1), 0)
    return jnp.where(present, weights, weights.max(-1, keepdims=True))


def _voxels(bounds: Sequence[Bounds]) -> np.ndarray:
    """Returns the voxels of each region, `[*grid, 1]`."""
    sides = [[stop - start for start, stop in regions] for regions in bounds]
    return np.prod(np.meshgrid(*sides, indexing="ij"), axis=0)[..., None]
