"""Losses per region and class as arithmetic on overlap statistics: `[b, *grid, c]` in, `[b, *grid, c]` out.

Statistics of regions give the region-specific form of a loss, those of the whole volume its usual one. Where an
equation is 1 minus a ratio, the code has the ratio of errors that it equals: near a perfect score, float32 would
otherwise keep nothing but the rounding of 1.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from ars_jax.losses.reduction import Absent, ClassWeights, check_positive, check_word, class_factors
from ars_jax.losses.statistics import OverlapStatistics

AdaptiveGradient = Literal["through", "stop"]

FOCAL_CHORD = 1e-6
"""The loss below which the focal power is replaced by its chord through 0, whose slope is finite."""


def dice_loss(statistics: OverlapStatistics, *, squared: bool = True, eps: float = 1e-7) -> jax.Array:
    """Dice loss, `1 - (2I + eps) / (P2 + G + eps)` (Eq. 2), or with P in the place of P2.

    The gradient that the paper prints (Eq. 3) has the sign of the coefficient's, not of this loss's, and leaves out
    eps. For soft references the paper's sum of g^2 is taken as the sum of g, as for hard ones.

    Args:
        statistics: fields `[b, *grid, c]`.
        squared: whether probabilities are squared in the denominator, as in the paper and Milletari et al. 2016.
        eps: smoothing, in voxels.

    Returns:
        `[b, *grid, c]`, within [0, 1] for hard references.
    """
    s = statistics
    if squared:
        return (s.squared_false_positives + s.squared_false_negatives) / (s.predicted_squared + s.reference + eps)
    return (s.false_positives + s.false_negatives) / (s.predicted + s.reference + eps)


def tversky_loss(
    statistics: OverlapStatistics,
    *,
    fp_weight: float | jax.Array = 0.3,
    fn_weight: float | jax.Array = 0.7,
    eps: float = 1e-7,
) -> jax.Array:
    """Tversky loss, `1 - (I + eps) / (I + fp_weight FP + fn_weight FN + eps)` (Eq. 5; Salehi et al. 2017).

    Args:
        statistics: fields `[b, *grid, c]`.
        fp_weight: penalty on false positives, the paper's alpha; a number or `[b, *grid, c]`.
        fn_weight: penalty on false negatives, the paper's beta.
        eps: smoothing, in voxels.

    Returns:
        `[b, *grid, c]`, within [0, 1].
    """
    errors = fp_weight * statistics.false_positives + fn_weight * statistics.false_negatives
    return errors / (statistics.intersection + errors + eps)


def focal_tversky_loss(
    statistics: OverlapStatistics,
    *,
    fp_weight: float = 0.3,
    fn_weight: float = 0.7,
    gamma: float = 4 / 3,
    eps: float = 1e-7,
) -> jax.Array:
    """Focal Tversky loss, the Tversky loss to the power `1 / gamma` (Abraham & Khan 2019).

    A power below 1 has an infinite slope at a perfect score. Departure: a Tversky loss below 1e-6 is multiplied by
    the power's slope of chord there instead, so that value and gradient stay finite and a perfect score stays 0.
    Abraham & Khan name the weight on false negatives alpha; the names here say what is weighted.

    Args:
        statistics: fields `[b, *grid, c]`.
        fp_weight: penalty on false positives.
        fn_weight: penalty on false negatives.
        gamma: above 1, well segmented classes keep more of their gradient; 1 is the Tversky loss.
        eps: smoothing, in voxels.

    Returns:
        `[b, *grid, c]`, within [0, 1].

    Raises:
        ValueError: gamma is not above 0.
    """
    check_positive("gamma", gamma)
    loss = tversky_loss(statistics, fp_weight=fp_weight, fn_weight=fn_weight, eps=eps)
    curved = loss > FOCAL_CHORD
    power = jnp.where(curved, loss, 1) ** (1 / gamma)
    return jnp.where(curved, power, loss * FOCAL_CHORD ** (1 / gamma - 1))


def generalized_dice_loss(
    statistics: OverlapStatistics,
    *,
    class_weights: ClassWeights | None = None,
    absent: Absent = "skip",
    eps: float = 1e-7,
) -> jax.Array:
    """Generalised Dice loss of all classes, `1 - (2 sum_c w I + eps) / (sum_c w (P + G) + eps)` (Sudre et al. 2017).

    The weights are `w = 1 / G^2`. Departures: they are scaled so that the largest w G of a region is 1, which changes
    nothing but the meaning of eps: with plain weights an eps of 1e-5 outweighs organs of some 100,000 voxels, and a
    prediction that misses everything scores 0.2. And soft references of less than a voxel weigh as one voxel, so that
    a trace of a class does not take all the weight.

    Args:
        statistics: fields `[b, *grid, c]`.
        class_weights: further factors of w, `[c]`.
        absent: a class without reference voxels in a region has an infinite weight; `"skip"` leaves it out there,
            `"count"` gives it the largest of the finite ones.
        eps: smoothing, in units of a weighted overlap, which is at least 1 where a class is present.

    Returns:
        `[b, *grid, 1]`, within [0, 1].

    Raises:
        ValueError: another word for `absent`, or another number of class weights.
    """
    check_word("absent", absent, Absent)
    s = statistics
    present = s.reference > 0
    size = jnp.maximum(s.reference, 1)
    smallest = jnp.min(jnp.where(present, size, jnp.inf), axis=-1, keepdims=True)
    smallest = jnp.where(jnp.isfinite(smallest), smallest, 1)
    size = jnp.where(present, size, smallest)
    weight = class_factors(class_weights, s.reference) * smallest / size / size
    if absent == "skip":
        weight = jnp.where(present, weight, 0)
    errors = jnp.sum(weight * (s.false_positives + s.false_negatives), axis=-1, keepdims=True)
    return errors / (jnp.sum(weight * (s.predicted + s.reference), axis=-1, keepdims=True) + eps)


def sensitivity_specificity_loss(
    statistics: OverlapStatistics, *, sensitivity_weight: float = 0.05, eps: float = 1e-7
) -> jax.Array:
    """Sensitivity-specificity loss, `r sum (1 - p)^2 g / (G + eps) + (1 - r) sum p^2 (1 - g) / (N - G + eps)`.

    The first fraction is the mean squared error over the class's voxels, the second over all others (Brosch & Tam
    2016); soft references are weights.

    Args:
        statistics: fields `[b, *grid, c]`.
        sensitivity_weight: r, which the paper does not give; Brosch & Tam find 0.01 to 0.10 alike.
        eps: smoothing, in voxels.

    Returns:
        `[b, *grid, c]`, within [0, 1].
    """
    s, r = statistics, sensitivity_weight
    # N - G of soft references may round to less than the errors that it bounds.
    others = jnp.maximum(s.voxels - s.reference, s.squared_false_positives)
    return r * s.squared_false_negatives / (s.reference + eps) + (1 - r) * s.squared_false_positives / (others + eps)


def cross_entropy_loss(statistics: OverlapStatistics, *, class_weights: ClassWeights | None = None) -> jax.Array:
    """Mean cross-entropy of all classes, `sum_c w E / sum_c w G` (second term of Eq. 9, divided by the voxels).

    Args:
        statistics: fields `[b, *grid, c]`.
        class_weights: w, `[c]`, 1 unless given.

    Returns:
        `[b, *grid, 1]`; 0 where no voxel is counted.

    Raises:
        ValueError: another number of class weights.
    """
    weights = class_factors(class_weights, statistics.log_loss)
    counted = jnp.sum(weights * statistics.reference, axis=-1, keepdims=True)
    return jnp.sum(weights * statistics.log_loss, axis=-1, keepdims=True) / jnp.where(counted > 0, counted, 1)


def adaptive_weights(
    statistics: OverlapStatistics, *, a: float = 0.3, b: float = 0.4, exponent: float = 1.0, eps: float = 1e-7
) -> tuple[jax.Array, jax.Array]:
    """Penalties on false positives and false negatives that follow the present errors (Eqs. 7 and 8).

    `alpha = a + b ((FP + eps) / (FP + FN + eps))^exponent`, `beta` alike with FN.

    Args:
        statistics: fields `[b, *grid, c]`.
        a: the smallest penalty.
        b: the range of the penalty; `FP = FN` gives `a + b / 2` for both.
        exponent: an extension, 1 in the paper; above 1 the penalties are small unless one error dominates.
        eps: smoothing, in voxels.

    Returns:
        alpha and beta, each `[b, *grid, c]`, within `[a, a + b]`.
    """
    fp, fn = statistics.false_positives, statistics.false_negatives
    alpha, beta = (fp + eps) / (fp + fn + eps), (fn + eps) / (fp + fn + eps)
    return a + b * alpha**exponent, a + b * beta**exponent


def adaptive_tversky_loss(
    statistics: OverlapStatistics,
    *,
    a: float = 0.3,
    b: float = 0.4,
    exponent: float = 1.0,
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
        exponent: see `adaptive_weights`.
        adaptive_gradient: `"through"` or `"stop"`.
        eps: smoothing, in voxels.

    Returns:
        `[b, *grid, c]`, within [0, 1].

    Raises:
        ValueError: another word for `adaptive_gradient`.
    """
    check_word("adaptive_gradient", adaptive_gradient, AdaptiveGradient)
    weights = adaptive_weights(statistics, a=a, b=b, exponent=exponent, eps=eps)
    if adaptive_gradient == "stop":
        weights = jax.lax.stop_gradient(weights)
    return tversky_loss(statistics, fp_weight=weights[0], fn_weight=weights[1], eps=eps)
