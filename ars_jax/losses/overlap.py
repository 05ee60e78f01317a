"""Losses per region and class as arithmetic on overlap statistics: `[b, *grid, c]` in, `[b, *grid, c]` out."""

from typing import Literal, get_args

import jax
import jax.numpy as jnp

from ars_jax.losses.statistics import OverlapStatistics

AdaptiveGradient = Literal["through", "stop"]
Absent = Literal["skip", "count"]
Reduction = Literal["sum", "mean", "class_mean"]


def dice_loss(statistics: OverlapStatistics, *, eps: float = 1e-7) -> jax.Array:
    """Dice loss with squared denominators, `1 - (2I + eps) / (P2 + G + eps)` (Eq. 2).

    For soft references the paper's sum of g^2 is taken as the sum of g, as for hard ones.

    Args:
        statistics: fields `[b, *grid, c]`.
        eps: smoothing, in voxels.

    Returns:
        `[b, *grid, c]`, within [0, 1] for hard references.
    """
    s = statistics
    return 1 - (2 * s.intersection + eps) / (s.predicted_squared + s.reference + eps)


def tversky_loss(
    statistics: OverlapStatistics, *, fp_weight: float | jax.Array, fn_weight: float | jax.Array, eps: float = 1e-7
) -> jax.Array:
    """Tversky loss, `1 - (I + eps) / (I + fp_weight FP + fn_weight FN + eps)` (Eq. 5).

    Args:
        statistics: fields `[b, *grid, c]`.
        fp_weight: penalty on false positives, the paper's alpha; a number or `[b, *grid, c]`.
        fn_weight: penalty on false negatives, the paper's beta.
        eps: smoothing, in voxels.

    Returns:
        `[b, *grid, c]`, within [0, 1].
    """
    s = statistics
    errors = fp_weight * s.false_positives + fn_weight * s.false_negatives
    return 1 - (s.intersection + eps) / (s.intersection + errors + eps)


def adaptive_weights(
    statistics: OverlapStatistics, *, a: float = 0.3, b: float = 0.4, eps: float = 1e-7
) -> tuple[jax.Array, jax.Array]:
    """Penalties on false positives and false negatives that follow the present errors (Eqs. 7 and 8).

    `alpha = a + b (FP + eps) / (FP + FN + eps)` and `beta = a + b (FN + eps) / (FP + FN + eps)`.

    Args:
        statistics: fields `[b, *grid, c]`.
        a: the smallest penalty.
        b: the range of the penalty; `FP = FN` gives `a + b / 2` for both.
        eps: smoothing, in voxels.

    Returns:
        alpha and beta, each `[b, *grid, c]`, within `[a, a + b]`.
    """
    fp, fn = statistics.false_positives, statistics.false_negatives
    return a + b * (fp + eps) / (fp + fn + eps), a + b * (fn + eps) / (fp + fn + eps)


def adaptive_tversky_loss(
    statistics: OverlapStatistics,
    *,
    a: float = 0.3,
    b: float = 0.4,
    adaptive_gradient: AdaptiveGradient = "through",
    eps: float = 1e-7,
) -> jax.Array:
    """Tversky loss whose penalties are those of `adaptive_weights` (Eq. 6).

    The paper does not say whether the penalties are differentiated. With `"through"` (the formula as written) the
    gradient's weight on false positives is `a + b (1 - 2 s^2)`, s = FN / (FP + FN): it is negative, and rewards false
    positives, above `s = sqrt((1 + a / b) / 2)` (0.935 for the defaults). With `"stop"` it is `a + b (1 - s)`, never
    below a.

    Args:
        statistics: fields `[b, *grid, c]`.
        a: the smallest penalty.
        b: the range of the penalty.
        adaptive_gradient: `"through"` or `"stop"`.
        eps: smoothing, in voxels.

    Returns:
        `[b, *grid, c]`, within [0, 1].

    Raises:
        ValueError: another word for `adaptive_gradient`.
    """
    _check_word("adaptive_gradient", adaptive_gradient, AdaptiveGradient)
    weights = adaptive_weights(statistics, a=a, b=b, eps=eps)
    if adaptive_gradient == "stop":
        weights = jax.lax.stop_gradient(weights)
    return tversky_loss(statistics, fp_weight=weights[0], fn_weight=weights[1], eps=eps)


def reduce_loss(
    values: jax.Array, statistics: OverlapStatistics, *, absent: Absent = "skip", reduction: Reduction = "sum"
) -> jax.Array:
    """Reduces a loss per region and class to one number per sample, then to its mean over the batch.

    Args:
        values: `[b, *grid, c]`.
        statistics: those that the values were computed from.
        absent: `"skip"` leaves out pairs of region and class without any reference voxel, as the paper does; `"count"`
            keeps them, each adding about 1 to the sum, with gradients up to 1 / eps where the prediction is near 0.
        reduction: over the counted pairs, `"sum"` (the paper), `"mean"`, or `"class_mean"`: the mean over a class's
            counted regions, summed over classes, which is the scale of the global Dice loss.

    Returns:
        A scalar; a sample without counted pairs gives 0.

    Raises:
        ValueError: another word for `absent` or `reduction`.
    """
    _check_word("absent", absent, Absent)
    _check_word("reduction", reduction, Reduction)
    counted = statistics.reference > 0 if absent == "skip" else jnp.ones(values.shape, bool)
    values = jnp.where(counted, values, 0)
    regions = tuple(range(1, values.ndim - 1))
    per_class, pairs = values.sum(regions), counted.sum(regions).astype(values.dtype)
    if reduction == "mean":
        return jnp.mean(per_class.sum(-1) / jnp.maximum(pairs.sum(-1), 1))
    if reduction == "class_mean":
        per_class = per_class / jnp.maximum(pairs, 1)
    return jnp.mean(per_class.sum(-1))


def _check_word(name: str, word: str, allowed: object) -> None:
    if word not in get_args(allowed):
        raise ValueError(f"{name} (={word!r}) must be one of {', '.join(map(repr, get_args(allowed)))}")
