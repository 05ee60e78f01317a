"""Losses of logits and labels as scalars, and weighted sums of them from one pass over the volume."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from ars_jax.losses.overlap import (
    Absent,
    AdaptiveGradient,
    Reduction,
    adaptive_tversky_loss,
    dice_loss,
    reduce_loss,
    tversky_loss,
)
from ars_jax.losses.statistics import OverlapStatistics, overlap_statistics

CrossEntropyReduction = Literal["mean", "sum"]


def dice(
    logits: jax.Array,
    labels: jax.Array,
    *,
    absent: Absent = "count",
    reduction: Reduction = "sum",
    eps: float = 1e-7,
    where: jax.Array | None = None,
) -> jax.Array:
    """Dice loss of the whole volume, squared denominators, summed over classes with background (Eq. 2).

    Args:
        logits: `[b, *space, c]`.
        labels: `[b, *space]` integers, or `[b, *space, c]` one-hot or soft.
        absent: whether classes without a reference voxel count, see `reduce_loss`.
        reduction: over classes, see `reduce_loss`.
        eps: smoothing, in voxels.
        where: `[b, *space]`, false takes a voxel out of every sum.

    Returns:
        A scalar, the mean over the batch of each sample's loss; within [0, c] for hard labels and `"sum"`.

    Raises:
        ValueError: shapes or words that do not fit.
    """
    s = overlap_statistics(logits, labels, where=where)
    return reduce_loss(dice_loss(s, eps=eps), s, absent=absent, reduction=reduction)


def tversky(
    logits: jax.Array,
    labels: jax.Array,
    *,
    fp_weight: float = 0.3,
    fn_weight: float = 0.7,
    absent: Absent = "count",
    reduction: Reduction = "sum",
    eps: float = 1e-7,
    where: jax.Array | None = None,
) -> jax.Array:
    """Tversky loss of the whole volume, summed over classes with background (Eq. 5).

    Args:
        logits: `[b, *space, c]`.
        labels: `[b, *space]` integers, or `[b, *space, c]` one-hot or soft.
        fp_weight: penalty on false positives, the paper's alpha.
        fn_weight: penalty on false negatives, the paper's beta.
        absent: whether classes without a reference voxel count, see `reduce_loss`.
        reduction: over classes, see `reduce_loss`.
        eps: smoothing, in voxels.
        where: `[b, *space]`, false takes a voxel out of every sum.

    Returns:
        A scalar, the mean over the batch of each sample's loss.

    Raises:
        ValueError: shapes or words that do not fit.
    """
    s = overlap_statistics(logits, labels, where=where)
    values = tversky_loss(s, fp_weight=fp_weight, fn_weight=fn_weight, eps=eps)
    return reduce_loss(values, s, absent=absent, reduction=reduction)


def cross_entropy(
    logits: jax.Array,
    labels: jax.Array,
    *,
    reduction: CrossEntropyReduction = "mean",
    where: jax.Array | None = None,
) -> jax.Array:
    """Cross-entropy over voxels and classes (second term of Eq. 9).

    Args:
        logits: `[b, *space, c]`.
        labels: `[b, *space]` integers, or `[b, *space, c]` one-hot or soft.
        reduction: `"mean"` over a sample's counted voxels, or `"sum"`, the literal equation (about 1e7 at the start
            of training on the paper's volumes, beside a Dice loss of at most c).
        where: `[b, *space]`, false takes a voxel out.

    Returns:
        A scalar, the mean over the batch of each sample's value.

    Raises:
        ValueError: shapes or words that do not fit.
    """
    return _cross_entropy(overlap_statistics(logits, labels, where=where), reduction)


def baseline(
    logits: jax.Array,
    labels: jax.Array,
    *,
    cross_entropy_weight: float = 1.0,
    cross_entropy_reduction: CrossEntropyReduction = "mean",
    eps: float = 1e-7,
    where: jax.Array | None = None,
) -> jax.Array:
    """The paper's baseline, Dice summed over classes plus weighted cross-entropy (Eq. 9).

    Args:
        logits: `[b, *space, c]`.
        labels: `[b, *space]` integers, or `[b, *space, c]` one-hot or soft.
        cross_entropy_weight: the paper's lambda, whose value it does not give.
        cross_entropy_reduction: see `cross_entropy`.
        eps: smoothing, in voxels.
        where: `[b, *space]`, false takes a voxel out of every sum.

    Returns:
        A scalar, the mean over the batch of each sample's loss.

    Raises:
        ValueError: shapes or words that do not fit.
    """
    weights = {"dice": 1.0, "cross_entropy": cross_entropy_weight}
    return weighted_sum(weights, cross_entropy_reduction=cross_entropy_reduction, eps=eps)(logits, labels, where)[0]


def region_specific(
    logits: jax.Array,
    labels: jax.Array,
    *,
    grid: int | Sequence[int] | None = None,
    region_size: int | Sequence[int] | None = None,
    absent: Absent = "skip",
    reduction: Reduction = "sum",
    eps: float = 1e-7,
    where: jax.Array | None = None,
) -> jax.Array:
    """Region-specific loss: the Dice loss of every region, summed over regions and classes (Eq. 4).

    Args:
        logits: `[b, *space, c]`.
        labels: `[b, *space]` integers, or `[b, *space, c]` one-hot or soft.
        grid: regions per axis; 16 (the paper) when neither this nor `region_size` is given.
        region_size: largest region side in voxels, instead of `grid`.
        absent: whether pairs of region and class without a reference voxel count, see `reduce_loss`.
        reduction: over regions and classes, see `reduce_loss`.
        eps: smoothing, in voxels.
        where: `[b, *space]`, false takes a voxel out of every sum.

    Returns:
        A scalar, the mean over the batch of each sample's loss.

    Raises:
        ValueError: shapes, words or a division that do not fit.
    """
    s = overlap_statistics(logits, labels, **_division(grid, region_size), where=where)
    return reduce_loss(dice_loss(s, eps=eps), s, absent=absent, reduction=reduction)


def adaptive_region_specific(
    logits: jax.Array,
    labels: jax.Array,
    *,
    grid: int | Sequence[int] | None = None,
    region_size: int | Sequence[int] | None = None,
    a: float = 0.3,
    b: float = 0.4,
    adaptive_gradient: AdaptiveGradient = "through",
    absent: Absent = "skip",
    reduction: Reduction = "sum",
    eps: float = 1e-7,
    where: jax.Array | None = None,
) -> jax.Array:
    """Adaptive region-specific loss: every region's Tversky loss with penalties that follow its errors (Eqs. 6-8).

    Args:
        logits: `[b, *space, c]`.
        labels: `[b, *space]` integers, or `[b, *space, c]` one-hot or soft.
        grid: regions per axis; 16 (the paper) when neither this nor `region_size` is given.
        region_size: largest region side in voxels, instead of `grid`.
        a: the smallest penalty, the paper's A.
        b: the range of the penalty, the paper's B.
        adaptive_gradient: whether the penalties are differentiated (`"through"`) or not (`"stop"`), see
            `adaptive_tversky_loss`.
        absent: whether pairs of region and class without a reference voxel count, see `reduce_loss`.
        reduction: over regions and classes, see `reduce_loss`.
        eps: smoothing, in voxels.
        where: `[b, *space]`, false takes a voxel out of every sum.

    Returns:
        A scalar, the mean over the batch of each sample's loss.

    Raises:
        ValueError: shapes, words or a division that do not fit.
    """
    s = overlap_statistics(logits, labels, **_division(grid, region_size), where=where)
    values = adaptive_tversky_loss(s, a=a, b=b, adaptive_gradient=adaptive_gradient, eps=eps)
    return reduce_loss(values, s, absent=absent, reduction=reduction)


def weighted_sum(
    weights: Mapping[str, float],
    *,
    grid: int | Sequence[int] | None = None,
    region_size: int | Sequence[int] | None = None,
    a: float = 0.3,
    b: float = 0.4,
    adaptive_gradient: AdaptiveGradient = "through",
    fp_weight: float = 0.3,
    fn_weight: float = 0.7,
    absent: Absent = "skip",
    reduction: Reduction = "sum",
    cross_entropy_reduction: CrossEntropyReduction = "mean",
    eps: float = 1e-7,
) -> Callable[..., tuple[jax.Array, dict[str, jax.Array]]]:
    """Makes a loss that is a weighted sum of this module's losses, all from one pass over the volume.

    Args:
        weights: a weight for each wanted loss: `dice`, `cross_entropy`, `tversky`, `region_specific`,
            `adaptive_region_specific`.
        grid: regions per axis for the regional losses; 16 when neither this nor `region_size` is given.
        region_size: largest region side in voxels, instead of `grid`.
        a: the adaptive loss's smallest penalty.
        b: the adaptive loss's range of the penalty.
        adaptive_gradient: see `adaptive_region_specific`.
        fp_weight: for `tversky`.
        fn_weight: for `tversky`.
        absent: for the regional losses; the global ones count every class.
        reduction: for the regional losses; the global ones sum over classes.
        cross_entropy_reduction: see `cross_entropy`.
        eps: smoothing, in voxels.

    Returns:
        A function of `(logits, labels, where=None)` that returns the total and a dictionary of the unweighted parts.

    Raises:
        ValueError: a name that is no loss, no name at all, or (when called) arguments that do not fit.
    """
    whole = {
        "dice": partial(dice_loss, eps=eps),
        "tversky": partial(tversky_loss, fp_weight=fp_weight, fn_weight=fn_weight, eps=eps),
    }
    adaptive = partial(adaptive_tversky_loss, a=a, b=b, adaptive_gradient=adaptive_gradient, eps=eps)
    regional = {"region_specific": partial(dice_loss, eps=eps), "adaptive_region_specific": adaptive}
    known = (*whole, "cross_entropy", *regional)
    unknown = [name for name in weights if name not in known]
    if unknown or not weights:
        raise ValueError(f"weights (={dict(weights)}) must name one or more of {', '.join(known)}")
    division = _division(grid, region_size) if any(name in regional for name in weights) else {}

    def loss(
        logits: jax.Array, labels: jax.Array, where: jax.Array | None = None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        s = overlap_statistics(logits, labels, **division, where=where)
        total = s.total()

        def part(name: str) -> jax.Array:
            if name == "cross_entropy":
                return _cross_entropy(total, cross_entropy_reduction)
            if name in whole:
                return reduce_loss(whole[name](total), total, absent="count", reduction="sum")
            return reduce_loss(regional[name](s), s, absent=absent, reduction=reduction)

        parts = {name: part(name) for name in weights}
        return jnp.stack([weights[name] * part for name, part in parts.items()]).sum(), parts

    return loss


def marginal_logits(logits: jax.Array, labelled: jax.Array) -> jax.Array:
    """Merges classes that nobody drew in a case into its background, so that no loss sees them.

    The background's probability becomes the sum of its own and the undrawn classes', whose own becomes 0: a voxel of
    an undrawn organ, marked as background in the label map, is then no error.

    Args:
        logits: `[b, *space, c]`, class 0 is background.
        labelled: `[b, c]`, false for a class that was not drawn in the case.

    Returns:
        `[b, *space, c]`, to be given to any loss; the logits themselves where all classes are drawn.
    """
    drawn = labelled.reshape(labelled.shape[0], *(1,) * (logits.ndim - 2), labelled.shape[1])
    classes = jnp.arange(logits.shape[-1]).reshape(*(1,) * (logits.ndim - 1), -1)
    merged = jnp.where(drawn & (classes > 0), -jnp.inf, logits)
    background = jax.nn.logsumexp(merged, axis=-1, keepdims=True)
    kept = jnp.where(drawn, logits, jnp.finfo(logits.dtype).min / 2)
    return jnp.where(classes == 0, background, kept)


def _cross_entropy(s: OverlapStatistics, reduction: CrossEntropyReduction) -> jax.Array:
    if reduction == "sum":
        return jnp.mean(s.log_loss)
    if reduction == "mean":
        return jnp.mean(s.log_loss / jnp.maximum(s.voxels[..., 0], 1))
    raise ValueError(f"reduction (={reduction!r}) must be one of 'mean', 'sum'")


def _division(grid: int | Sequence[int] | None, region_size: int | Sequence[int] | None) -> dict:
    """Returns the division for `overlap_statistics`, the paper's grid where none is asked for."""
    return {"grid": 16 if grid is None and region_size is None else grid, "region_size": region_size}
