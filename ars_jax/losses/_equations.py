"""Losses per region and class as arithmetic on overlap statistics: `[b, *grid, c]` in, `[b, *grid, c]` out.

Statistics of regions give the region-specific form of a loss, those of the whole volume its usual one. Where an
equation is 1 minus a ratio, the code has the ratio of errors that it equals: near a perfect score, float32 would
otherwise keep nothing but the rounding of 1.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from ars_jax.losses._checks import check_positive, check_word
from ars_jax.losses._documented import documented
from ars_jax.losses._objective import AbsentClasses, AdaptiveGradient, CrossEntropyReduction
from ars_jax.losses._reduction import class_factors
from ars_jax.losses._statistics import OverlapStatistics
from ars_jax.losses._types import ClassWeights

FOCAL_CHORD = 1e-6
"""The loss below which the focal power is replaced by its chord through 0, whose slope is finite."""


@documented
def dice_loss(statistics: OverlapStatistics, *, squared: bool = True, eps: float = 1e-7) -> jax.Array:
    """Dice loss, `1 - (2I + eps) / (P2 + G + eps)` (Eq. 2), or with P in place of P2.

    Departures: Eq. 3, the printed gradient, has the sign of the coefficient's gradient and no eps. For soft references
    the paper's sum of g^2 is the sum of g, as for hard ones.

    Returns:
        `[b, *grid, c]`, within [0, 1] for hard references.
    """
    s = statistics
    if squared:
        return (s.squared_false_positives + s.squared_false_negatives) / (s.squared_predicted + s.reference + eps)
    return (s.false_positives + s.false_negatives) / (s.predicted + s.reference + eps)


@documented
def tversky_loss(
    statistics: OverlapStatistics,
    *,
    fp_weight: float | jax.Array = 0.3,
    fn_weight: float | jax.Array = 0.7,
    eps: float = 1e-7,
) -> jax.Array:
    """Tversky loss, `1 - (I + eps) / (I + fp_weight FP + fn_weight FN + eps)` (Eq. 5).

    The weights may be arrays `[b, *grid, c]`.

    Returns:
        `[b, *grid, c]`, within [0, 1].
    """
    errors = fp_weight * statistics.false_positives + fn_weight * statistics.false_negatives
    return errors / (statistics.true_positives + errors + eps)


@documented
def focal_tversky_loss(
    statistics: OverlapStatistics,
    *,
    fp_weight: float = 0.3,
    fn_weight: float = 0.7,
    gamma: float = 4 / 3,
    eps: float = 1e-7,
) -> jax.Array:
    """Focal Tversky loss, the Tversky loss to the power `1 / gamma` (Abraham & Khan 2019).

    Departure: a power below 1 has an infinite slope at a perfect score; below 1e-6 the loss is its chord through 0, so
    that value and gradient stay finite.

    Returns:
        `[b, *grid, c]`, within [0, 1].
    """
    check_positive("gamma", gamma)
    loss = tversky_loss(statistics, fp_weight=fp_weight, fn_weight=fn_weight, eps=eps)
    curved = loss > FOCAL_CHORD
    power = jnp.where(curved, loss, 1) ** (1 / gamma)
    return jnp.where(curved, power, loss * FOCAL_CHORD ** (1 / gamma - 1))


@documented
def generalized_dice_loss(
    statistics: OverlapStatistics,
    *,
    absent_classes: AbsentClasses = "skip",
    class_weights: ClassWeights | None = None,
    eps: float = 1e-7,
) -> jax.Array:
    """Generalised Dice loss of all classes, `1 - (2 sum_c w I + eps) / (sum_c w (P + G) + eps)` (Sudre et al. 2017).

    The weights are `w = 1 / G^2`, times `class_weights`. A class without reference in a region has an infinite weight:
    `"skip"` leaves it out there, `"include"` gives it the largest of the finite ones. Departures: the weights are
    scaled so that the largest w G of a region is 1; with plain weights an eps of 1e-5 outweighs organs of some 100,000
    voxels, and a prediction that misses everything scores 0.2. Soft references of less than a voxel weigh as one.

    Returns:
        `[b, *grid, 1]`, within [0, 1].
    """
    check_word("absent_classes", absent_classes, AbsentClasses)
    s = statistics
    present = s.reference > 0
    size = jnp.maximum(s.reference, 1)
    smallest = jnp.min(jnp.where(present, size, jnp.inf), axis=-1, keepdims=True)
    smallest = jnp.where(jnp.isfinite(smallest), smallest, 1)
    size = jnp.where(present, size, smallest)
    weight = class_factors(class_weights, s.reference) * smallest / size / size
    if absent_classes == "skip":
        weight = jnp.where(present, weight, 0)
    errors = jnp.sum(weight * (s.false_positives + s.false_negatives), axis=-1, keepdims=True)
    return errors / (jnp.sum(weight * (s.predicted + s.reference), axis=-1, keepdims=True) + eps)


@documented
def sensitivity_specificity_loss(
    statistics: OverlapStatistics, *, sensitivity_weight: float = 0.05, eps: float = 1e-7
) -> jax.Array:
    """Sensitivity-specificity loss, `r sum (1 - p)^2 g / (G + eps) + (1 - r) sum p^2 (1 - g) / (N - G + eps)`.

    The first fraction is the mean squared error over a class's voxels, the second that over all others (Brosch & Tam
    2016, who find r from 0.01 to 0.10 alike).

    Returns:
        `[b, *grid, c]`, within [0, 1].
    """
    s, r = statistics, sensitivity_weight
    # N - G may round to less than the errors that it bounds; what is added then has no slope, as it is rounding.
    others = s.voxels - s.reference
    others += jax.lax.stop_gradient(jnp.maximum(s.squared_false_positives - others, 0))
    return r * s.squared_false_negatives / (s.reference + eps) + (1 - r) * s.squared_false_positives / (others + eps)


@documented
def cross_entropy_loss(
    statistics: OverlapStatistics,
    *,
    class_weights: ClassWeights | None = None,
    cross_entropy_reduction: CrossEntropyReduction = "mean",
) -> jax.Array:
    """Cross-entropy of all classes, `sum_c w E / sum_c w G`, or `sum_c w E`, the literal second term of Eq. 9.

    Returns:
        `[b, *grid, 1]`; 0 where no voxel counts.
    """
    check_word("cross_entropy_reduction", cross_entropy_reduction, CrossEntropyReduction)
    weights = class_factors(class_weights, statistics.log_loss)
    total = jnp.sum(weights * statistics.log_loss, axis=-1, keepdims=True)
    if cross_entropy_reduction == "sum":
        return total
    counted = jnp.sum(weights * statistics.reference, axis=-1, keepdims=True)
    return total / jnp.where(counted > 0, counted, 1)


@documented
def adaptive_weights(
    statistics: OverlapStatistics,
    *,
    min_penalty: float = 0.3,
    penalty_range: float = 0.4,
    exponent: float = 1.0,
    eps: float = 1e-7,
) -> tuple[jax.Array, jax.Array]:
    """Penalties on false positives and false negatives that follow the errors (Eqs. 7 and 8).

    `alpha = A + B ((FP + eps) / (FP + FN + eps))^exponent`, and beta alike with FN. Equal errors give `A + B / 2` for
    both. The exponent is an extension.

    Returns:
        alpha and beta, each `[b, *grid, c]`, within `[A, A + B]`.
    """
    fp, fn = statistics.false_positives, statistics.false_negatives
    alpha, beta = (fp + eps) / (fp + fn + eps), (fn + eps) / (fp + fn + eps)
    return min_penalty + penalty_range * alpha**exponent, min_penalty + penalty_range * beta**exponent


@documented
def adaptive_tversky_loss(
    statistics: OverlapStatistics,
    *,
    min_penalty: float = 0.3,
    penalty_range: float = 0.4,
    exponent: float = 1.0,
    adaptive_gradient: AdaptiveGradient = "through",
    eps: float = 1e-7,
) -> jax.Array:
    """Tversky loss whose penalties are those of `adaptive_weights` (Eq. 6).

    The paper does not say whether the penalties are differentiated. With `"through"` the gradient's weight on false
    positives is `A + B (1 - 2 s^2)`, s = FN / (FP + FN): it is negative, and rewards false positives, above
    `s = sqrt((1 + A / B) / 2)` (0.935 for the defaults). With `"stop"` it is `A + B (1 - s)`, never below A.

    Returns:
        `[b, *grid, c]`, within [0, 1].
    """
    check_word("adaptive_gradient", adaptive_gradient, AdaptiveGradient)
    how = {"min_penalty": min_penalty, "penalty_range": penalty_range, "exponent": exponent, "eps": eps}
    weights = adaptive_weights(statistics, **how)
    if adaptive_gradient == "stop":
        weights = jax.lax.stop_gradient(weights)
    return tversky_loss(statistics, fp_weight=weights[0], fn_weight=weights[1], eps=eps)
