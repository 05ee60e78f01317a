"""Losses by the conventions of other libraries, with the same value and gradient, from one pass over the volume.

Each preset is named after the code that it reproduces and keeps that code's option names and defaults. The value and
the gradient agree with PyTorch's to rounding, for hard labels and, where the other code takes them, soft ones. All
apply the softmax over the last axis, as MONAI's `softmax=True, to_onehot_y=True`. Departures: `where` leaves voxels out
of every preset, in place of an ignored index; one class alone is refused; MONAI's `weight`, `reduction`, `jaccard`,
`w_type` and `label_smoothing` are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from ars_jax.losses._checks import check_word, names_arguments
from ars_jax.losses._documented import documented
from ars_jax.losses._equations import adaptive_tversky_loss
from ars_jax.losses._regions import Bounds, pooling_bounds
from ars_jax.losses._statistics import OverlapStatistics, check_arrays, overlap_statistics, sum_slabs
from ars_jax.losses._types import Labels, Logits, Mask, Scalar

NAMES = ("pytorch_ars", "monai_dice", "monai_dice_ce", "monai_tversky", "monai_generalized_dice", "nnunet_dice_ce")

RegionReduction = Literal["mean", "sum"]


@names_arguments
@documented
def pytorch_ars(
    logits: Logits,
    labels: Labels,
    *,
    where: Mask | None = None,
    spatial_dims: Literal[2, 3] = 3,
    smooth: float = 1e-5,
    num_region_per_axis: int | Sequence[int] = 16,
    do_bg: bool = True,
    batch_dice: bool = True,
    A: float = 0.3,
    B: float = 0.4,
    region_reduction: RegionReduction = "mean",
) -> Scalar:
    """The public PyTorch module of the paper's loss, `Adaptive_Region_Specific_TverskyLoss` with adaptive pooling.

    Eqs. 5-8 on region means instead of sums: in terms of sums its eps is `smooth` times the voxels of a region. The
    means of all samples are added before the ratio; every pair of region and class counts, absent ones too; the
    penalties are differentiated.

    Args:
        num_region_per_axis: in the arrays' order, one number or one per axis; regions overlap where the sides do not
            divide, as the bins of adaptive pooling.
        smooth: added to numerators and denominators, in units of a region's mean.
        batch_dice: whether the samples' means are added; else every sample has its own ratios.
        A: smallest penalty.
        B: range of the penalty.
        region_reduction: over regions, `"mean"`, or `"sum"` as in the module's versions before October 2024 and in
            most copies of it; over classes and samples it is a mean in all.
        where: `[b, *space]`, false sets a voxel to 0 before the pooling, so that its region keeps its size.

    Returns:
        A scalar, within [0, 1] for `"mean"`.

    Examples:
        >>> import numpy as np
        >>> from ars_jax.losses import presets
        >>> labels = np.arange(64).reshape(1, 4, 4, 4) % 2
        >>> print(f"{presets.pytorch_ars(np.zeros((1, 4, 4, 4, 2), np.float32), labels, num_region_per_axis=2):.4f}")
        0.5000

    References:
        Public PyTorch code of Chen et al., TPAMI 2023.
    """
    check_word("region_reduction", region_reduction, RegionReduction)
    check_arrays(logits, labels, where, spatial_dims)
    bounds = pooling_bounds(logits.shape[1:-1], num_region_per_axis)
    s = _counted(sum_slabs(bounds, False, logits, labels, where, None), do_bg, batch_dice)
    voxels = _voxels(bounds)
    means = jax.tree.map(lambda x: x / voxels[None].astype(x.dtype), s)
    loss = _mean(adaptive_tversky_loss(means, min_penalty=A, penalty_range=B, eps=smooth))
    return loss if region_reduction == "mean" else loss * voxels.size


@names_arguments
@documented
def monai_dice(
    logits: Logits,
    labels: Labels,
    *,
    where: Mask | None = None,
    spatial_dims: Literal[2, 3] = 3,
    squared_pred: bool = False,
    include_background: bool = True,
    batch: bool = False,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
) -> Scalar:
    """MONAI's `DiceLoss`, `1 - (2I + smooth_nr) / (P + G + smooth_dr)`, the mean over samples and classes.

    Returns:
        A scalar, within [0, 1].

    Examples:
        >>> import numpy as np
        >>> from ars_jax.losses import presets
        >>> labels = np.arange(64).reshape(1, 4, 4, 4) % 2
        >>> print(f"{presets.monai_dice(np.zeros((1, 4, 4, 4, 2), np.float32), labels):.4f}")
        0.5000

    References:
        MONAI 1.6, `monai.losses`.
    """
    s = overlap_statistics(logits, labels, where=where, spatial_dims=spatial_dims)
    counted = partial(_counted, background=include_background, batch=batch)
    return _monai_dice(counted, s, labels, where, spatial_dims, squared_pred, smooth_nr, smooth_dr)


@names_arguments
@documented
def monai_dice_ce(
    logits: Logits,
    labels: Labels,
    *,
    where: Mask | None = None,
    spatial_dims: Literal[2, 3] = 3,
    squared_pred: bool = False,
    include_background: bool = True,
    batch: bool = False,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
    lambda_dice: float = 1.0,
    lambda_ce: float = 1.0,
) -> Scalar:
    """MONAI's `DiceCELoss`: its Dice loss plus the mean cross-entropy of all classes and voxels of the batch.

    Args:
        lambda_dice: weight of the Dice loss.
        lambda_ce: weight of the cross-entropy.

    Returns:
        A scalar.

    Examples:
        >>> import numpy as np
        >>> from ars_jax.losses import presets
        >>> labels = np.arange(64).reshape(1, 4, 4, 4) % 2
        >>> print(f"{presets.monai_dice_ce(np.zeros((1, 4, 4, 4, 2), np.float32), labels):.4f}")
        1.1931

    References:
        MONAI 1.6, `monai.losses`.
    """
    s = overlap_statistics(logits, labels, where=where, spatial_dims=spatial_dims)
    counted = partial(_counted, background=include_background, batch=batch)
    overlap = _monai_dice(counted, s, labels, where, spatial_dims, squared_pred, smooth_nr, smooth_dr)
    return lambda_dice * overlap + lambda_ce * _cross_entropy(s)


@names_arguments
@documented
def monai_tversky(
    logits: Logits,
    labels: Labels,
    *,
    where: Mask | None = None,
    spatial_dims: Literal[2, 3] = 3,
    alpha: float = 0.5,
    beta: float = 0.5,
    include_background: bool = True,
    batch: bool = False,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
) -> Scalar:
    """MONAI's `TverskyLoss`, `1 - (I + smooth_nr) / (I + alpha FP + beta FN + smooth_dr)`, a mean.

    Args:
        alpha: penalty on false positives.
        beta: penalty on false negatives.

    Returns:
        A scalar, the mean over samples and classes, within [0, 1].

    Examples:
        >>> import numpy as np
        >>> from ars_jax.losses import presets
        >>> labels = np.arange(64).reshape(1, 4, 4, 4) % 2
        >>> print(f"{presets.monai_tversky(np.zeros((1, 4, 4, 4, 2), np.float32), labels):.4f}")
        0.5000

    References:
        MONAI 1.6, `monai.losses`.
    """
    s = _counted(overlap_statistics(logits, labels, where=where, spatial_dims=spatial_dims), include_background, batch)
    errors = alpha * s.false_positives + beta * s.false_negatives
    return jnp.mean(1 - (s.true_positives + smooth_nr) / (s.true_positives + errors + smooth_dr))


@names_arguments
@documented
def monai_generalized_dice(
    logits: Logits,
    labels: Labels,
    *,
    where: Mask | None = None,
    spatial_dims: Literal[2, 3] = 3,
    include_background: bool = True,
    batch: bool = False,
    smooth_nr: float = 1e-5,
    smooth_dr: float = 1e-5,
) -> Scalar:
    """MONAI's `GeneralizedDiceLoss`, `1 - (2 sum_c w I + smooth_nr) / (sum_c w (P + G) + smooth_dr)`.

    With `w = 1 / G^2` as it is, computed in float32 whatever the logits are: for large organs the smoothing outweighs
    both sums, and a total failure scores less than 1 (`generalized_dice` scales the weights instead). A class that a
    sample lacks takes the largest weight of its other classes.

    Args:
        include_background: whether class 0 is in the sums.

    Returns:
        A scalar, the mean over samples, within [0, 1].

    Examples:
        >>> import numpy as np
        >>> from ars_jax.losses import presets
        >>> labels = np.arange(64).reshape(1, 4, 4, 4) % 2
        >>> print(f"{presets.monai_generalized_dice(np.zeros((1, 4, 4, 4, 2), np.float32), labels):.4f}")
        0.5000

    References:
        MONAI 1.6, `monai.losses`.
    """
    s = _counted(overlap_statistics(logits, labels, where=where, spatial_dims=spatial_dims), include_background, batch)
    weights = _reciprocal_squares(s.reference.astype(jnp.float32)).astype(s.reference.dtype)
    errors = jnp.sum(weights * (s.false_positives + s.false_negatives), -1)
    sizes = jnp.sum(weights * (s.predicted + s.reference), -1)
    return jnp.mean((errors + smooth_dr - smooth_nr) / (sizes + smooth_dr))


@names_arguments
@documented
def nnunet_dice_ce(
    logits: Logits,
    labels: Labels,
    *,
    where: Mask | None = None,
    ignore_label: int | None = None,
    spatial_dims: Literal[2, 3] = 3,
    batch_dice: bool = False,
    smooth: float = 1e-5,
    do_bg: bool = False,
    weight_ce: float = 1.0,
    weight_dice: float = 1.0,
) -> Scalar:
    """nnU-Net v2's `DC_and_CE_loss` with its `MemoryEfficientSoftDiceLoss`, as its trainer makes them.

    The mean cross-entropy of all counted voxels minus the mean over samples and classes of the soft Dice coefficient
    `(2I + smooth) / max(P + G + smooth, 1e-8)`. The trainer's `smooth` and `do_bg` are the defaults here, those of the
    class itself being 1 and true; nnU-Net's plan sets `batch_dice` for each configuration.

    Args:
        batch_dice: whether a batch is summed up as one sample.
        smooth: added to numerator and denominator, in voxels.
        do_bg: whether class 0 has a Dice coefficient; the cross-entropy has all classes.
        weight_ce: weight of the cross-entropy.
        weight_dice: weight of the Dice coefficient.

    Returns:
        A scalar, -1 for a perfect prediction.

    Examples:
        >>> import numpy as np
        >>> from ars_jax.losses import presets
        >>> labels = np.arange(64).reshape(1, 4, 4, 4) % 2
        >>> print(f"{presets.nnunet_dice_ce(np.zeros((1, 4, 4, 4, 2), np.float32), labels):.4f}")
        0.1931

    References:
        Isensee et al., Nature Methods 2021.
    """
    s = overlap_statistics(logits, labels, where=where, ignore_label=ignore_label, spatial_dims=spatial_dims)
    d = _counted(s, do_bg, batch_dice)
    coefficient = (2 * d.true_positives + smooth) / jnp.maximum(d.reference + d.predicted + smooth, 1e-8)
    return weight_ce * _cross_entropy(s) - weight_dice * jnp.mean(coefficient)


def _counted(statistics: OverlapStatistics, background: bool, batch: bool) -> OverlapStatistics:
    s = statistics if background else statistics.foreground()
    return s.batch_total() if batch else s


def _monai_dice(
    counted: Callable[[OverlapStatistics], OverlapStatistics],
    statistics: OverlapStatistics,
    labels: Labels,
    where: Mask | None,
    spatial_dims: Literal[2, 3],
    squared_pred: bool,
    smooth_nr: float,
    smooth_dr: float,
) -> jax.Array:
    s = counted(statistics)
    overlap, sizes = 2 * s.true_positives, s.predicted + s.reference
    if squared_pred and labels.ndim == s.reference.ndim:
        g = counted(overlap_statistics(labels, labels, where=where, spatial_dims=spatial_dims, from_probabilities=True))
        sizes = s.squared_predicted + g.squared_predicted
    elif squared_pred:
        rounding = _squared_norm(s.reference) - s.reference  # in the overlap too: MONAI has it from three norms
        overlap, sizes = overlap + rounding, s.squared_predicted + s.reference + rounding
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
