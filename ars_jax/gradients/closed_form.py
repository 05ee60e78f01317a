"""Every loss and its gradient as written-out formulas in float64 NumPy, without automatic differentiation.

A loss is a function of the sums I, P, P2, Q and E of its regions (see `OverlapStatistics`), so its gradient by a
voxel's probability p, with reference g, is

    dL/dp = L_P + g L_I + 2 p L_P2 + 2 p g L_Q - (g / p) L_E,

where L_X is the slope of L by the sum X over the voxel's region. Each loss below is its value and these slopes; what
surrounds them (regions, reduction) is linear, and the softmax adds `dL/dz = p (dL/dp - sum_c p dL/dp)`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from ars_jax.gradients.regional import (
    Array,
    Slopes,
    Sums,
    Voxels,
    pyramid,
    resolved_options,
    spread,
    sums_over,
    voxels_of,
)
from ars_jax.losses._checks import ArgumentError, check_word
from ars_jax.losses._equations import FOCAL_CHORD
from ars_jax.losses._objective import AdaptiveGradient, CrossEntropyReduction, Reduction, check_parameters
from ars_jax.losses._regions import Regions

By = Literal["logits", "probabilities"]
Terms = tuple[Array, Slopes]
"""A loss per pair of region and class, `[samples, regions, c]`, or of all classes together, `[samples, regions, 1]`;
and its slopes by the sums of each pair."""
Gradient = tuple[float, Array, Array]
"""A loss, its slopes by p without those of E, and its slopes by log p through E, both `[b, *space, c]`."""


def value_and_gradient(
    name: str,
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    by: By = "logits",
    **options: Any,
) -> tuple[float, Array]:
    """Returns a loss and its gradient from the closed forms.

    Args:
        name: a loss of `ars_jax.losses`, one of `NAMES`.
        logits: `[b, *space, c]`, two or three spatial axes.
        labels: `[b, *space]` integers, or `[b, *space, c]` one-hot or soft.
        by: what the gradient is taken by; each of a voxel's probabilities is a variable of its own. Those that are no
            normal numbers have no slope through the log-loss, whose logarithm is clipped there.
        **options: those of the loss of that name, with the same defaults.

    Returns:
        The value, and the gradient `[b, *space, c]` in float64.

    Raises:
        ValueError: a name that is no loss, another word for an option, shapes or regions that do not fit, or a gradient
            by logits asked of probabilities.
        TypeError: an option that the loss does not have.
    """
    if name not in _LOSSES:
        raise ValueError(f"name (={name!r}) must be one of {', '.join(NAMES)}")
    check_word("by", by, By)
    options = resolved_options(name, options)
    check_parameters(options)
    if options.get("reduction") == "none":
        raise ArgumentError("reduction", "'none'", "one that gives a scalar, which has a gradient")
    measured = {key: options.pop(key) for key in ("where", "ignore_label", "spatial_dims", "from_probabilities")}
    if by == "logits" and measured["from_probabilities"]:
        raise ValueError('from_probabilities leaves no logits to differentiate by: give by="probabilities" with it')
    voxels = voxels_of(logits, labels, **measured)
    value, by_p, by_log_p = _LOSSES[name](voxels, **options)
    return value, (_by_logits if by == "logits" else _by_probabilities)(voxels.p, by_p, by_log_p)


def effective_weights(
    fp: ArrayLike,
    fn: ArrayLike,
    *,
    min_penalty: float = 0.3,
    penalty_range: float = 0.4,
    exponent: float = 1.0,
    adaptive_gradient: AdaptiveGradient = "through",
    eps: float = 0.0,
) -> tuple[Array, Array]:
    """Returns what a unit of FP and of FN adds to the adaptive Tversky loss's denominator, to first order (Eqs. 6-8).

    The denominator is `I + alpha FP + beta FN + eps`. With stopped penalties the weights are alpha and beta
    themselves; differentiated through, with the exponent n and `S = FP + FN + eps`, the weight of FP is

        alpha + n FN / S ((alpha - A) FP / (FP + eps) - (beta - A)),

    and that of FN the same with the two exchanged. For n = 1, eps = 0 and s = FN / (FP + FN) the weights of FP are
    `A + B (1 - 2 s^2)` (through), negative above `s = sqrt((1 + A / B) / 2)`, and `A + B (1 - s)` (stop).

    Args:
        fp: soft false positives, in voxels, any shape.
        fn: soft false negatives, of a shape that broadcasts with it.
        min_penalty: smallest penalty, the paper's A.
        penalty_range: range of the penalty, the paper's B.
        exponent: n, see `adaptive_weights`.
        adaptive_gradient: whether the penalties are differentiated.
        eps: smoothing, in voxels; the losses' is 1e-7.

    Returns:
        The weights of FP and of FN, of the common shape; undefined (NaN) where `FP + FN + eps` is 0.

    Raises:
        ValueError: another word for `adaptive_gradient`.
    """
    check_word("adaptive_gradient", adaptive_gradient, AdaptiveGradient)
    fp, fn = np.broadcast_arrays(np.asarray(fp, np.float64), np.asarray(fn, np.float64))
    with np.errstate(invalid="ignore"):
        alpha, beta = _penalties(
            fp, fn, min_penalty=min_penalty, penalty_range=penalty_range, exponent=exponent, eps=eps
        )
        if adaptive_gradient == "stop":
            return alpha, beta
        fp_share, fn_share = (exponent * x / (fp + fn + eps) for x in (fp, fn))
    of_fp, of_fn = (np.divide(x, x + eps, out=np.zeros_like(x), where=x + eps > 0) for x in (fp, fn))
    return (
        alpha + fn_share * ((alpha - min_penalty) * of_fp - (beta - min_penalty)),
        beta + fp_share * ((beta - min_penalty) * of_fn - (alpha - min_penalty)),
    )


def _dice(s: Sums, *, squared: bool, eps: float) -> Terms:
    """L = 1 - (2I + eps) / D, D = P2 + G + eps (Eq. 2), or P for P2: L_I = -2 / D, L_P2 = (2I + eps) / D^2."""
    size = (s.predicted_squared if squared else s.predicted) + s.reference + eps
    overlap = 2 * s.intersection + eps
    by_predicted = overlap / size**2
    by_sum = Slopes(predicted_squared=by_predicted) if squared else Slopes(predicted=by_predicted)
    return 1 - overlap / size, by_sum._replace(intersection=-2 / size)


def _tversky(s: Sums, *, fp_weight: float, fn_weight: float, eps: float) -> Terms:
    """L = 1 - (I + eps) / D, D = I + fp_weight FP + fn_weight FN + eps (Eq. 5)."""
    return _tversky_terms(s, (fp_weight, fn_weight), (fp_weight, fn_weight), eps)


def _adaptive_tversky(s: Sums, *, adaptive_gradient: AdaptiveGradient, eps: float, **penalties: float) -> Terms:
    """L = 1 - (I + eps) / D, D = I + alpha FP + beta FN + eps (Eqs. 6-8), D's slopes from `effective_weights`."""
    fp, fn = s.false_positives, s.false_negatives
    slopes = effective_weights(fp, fn, adaptive_gradient=adaptive_gradient, eps=eps, **penalties)
    return _tversky_terms(s, _penalties(fp, fn, eps=eps, **penalties), slopes, eps)


def _tversky_terms(s: Sums, penalties: tuple[Any, Any], weights: tuple[Any, Any], eps: float) -> Terms:
    """L_I = ((I + eps) D_I - D) / D^2, L_P = (I + eps) D_P / D^2, with D_P = D_FP, D_I = 1 - D_FP - D_FN."""
    hit, (by_fp, by_fn) = s.intersection + eps, weights
    size = hit + penalties[0] * s.false_positives + penalties[1] * s.false_negatives
    by_intersection = (hit * (1 - by_fp - by_fn) - size) / size**2
    return 1 - hit / size, Slopes(intersection=by_intersection, predicted=hit * by_fp / size**2)


def _penalties(
    fp: Array, fn: Array, *, min_penalty: float, penalty_range: float, exponent: float, eps: float
) -> tuple[Array, Array]:
    """Eqs. 7 and 8: alpha = A + B ((FP + eps) / (FP + FN + eps))^exponent, beta alike with FN."""
    alpha, beta = (min_penalty + penalty_range * ((x + eps) / (fp + fn + eps)) ** exponent for x in (fp, fn))
    return alpha, beta


def _focal_tversky(s: Sums, *, gamma: float, **parameters: float) -> Terms:
    """L = T^(1/gamma), L_X = T_X T^(1/gamma - 1) / gamma; T times the chord's slope for T up to 1e-6."""
    loss, slopes = _tversky(s, **parameters)
    curved = loss > FOCAL_CHORD
    secant = np.where(curved, loss, FOCAL_CHORD) ** (1 / gamma - 1)
    return loss * secant, slopes.scaled(np.where(curved, secant / gamma, secant))


def _generalized_dice(s: Sums, *, class_weights: ArrayLike | None, absent_classes: str, eps: float) -> Terms:
    """L = sum_c w (FP + FN) / D, D = sum_c w (P + G) + eps: L_I = -2w / D, L_P = w (1 - L) / D.

    The weights w = 1 / max(G, 1)^2, scaled so that the largest w G of a region is 1, are constants to the prediction.
    """
    present = s.reference > 0
    smallest = np.min(s.reference, axis=-1, keepdims=True, initial=np.inf, where=present)
    smallest = np.where(np.isfinite(smallest), smallest, 1)
    smallest, reference = (np.maximum(size, 1) for size in (smallest, np.where(present, s.reference, smallest)))
    weight = smallest / reference**2 * _class_factors(class_weights, s.reference)
    weight = np.where(present | (absent_classes == "include"), weight, 0)
    size = (weight * (s.predicted + s.reference)).sum(-1, keepdims=True) + eps
    loss = (weight * (s.false_positives + s.false_negatives)).sum(-1, keepdims=True) / size
    return loss, Slopes(intersection=-2 * weight / size, predicted=weight * (1 - loss) / size)


def _sensitivity_specificity(s: Sums, *, sensitivity_weight: float, eps: float) -> Terms:
    """L = x (G - 2I + Q) + y (P2 - Q), x = r / (G + eps), y = (1 - r) / (N - G + eps): L_P2 = y, L_Q = x - y.

    L_I = -2x. Where N = G the second term is 0, and y is taken as 0 so that no rounding is divided by eps.
    """
    missed = s.reference - 2 * s.intersection + s.intersection_squared
    false = s.predicted_squared - s.intersection_squared
    x = sensitivity_weight / (s.reference + eps)
    others = s.voxels - s.reference
    y = np.where(others > 0, (1 - sensitivity_weight) / (np.maximum(others, 0) + eps), 0)
    loss = x * np.maximum(missed, 0) + y * np.maximum(false, 0)
    return loss, Slopes(intersection=-2 * x, predicted_squared=y, intersection_squared=x - y)


def _cross_entropy(s: Sums, *, reduction: str, class_weights: ArrayLike | None) -> Terms:
    """L = sum_c w E / D, D = sum_c w G, or 1 for the literal sum (second term of Eq. 9): L_E = w / D."""
    check_word("reduction", reduction, CrossEntropyReduction)
    weight = _class_factors(class_weights, s.log_loss)
    counted = (weight * s.reference).sum(-1, keepdims=True)
    slope = weight / np.where((counted > 0) & (reduction == "mean"), counted, 1)
    return (slope * s.log_loss).sum(-1, keepdims=True), Slopes(log_loss=slope)


def _by_logits(p: Array, by_p: Array, by_log_p: Array) -> Array:
    """L_z = p (L_p - sum_c p L_p) + L_log_p - p sum_c L_log_p, which needs no division by p."""
    of_p = p * (by_p - (p * by_p).sum(-1, keepdims=True))
    return of_p + by_log_p - p * by_log_p.sum(-1, keepdims=True)


def _by_probabilities(p: Array, by_p: Array, by_log_p: Array) -> Array:
    """L_p + L_log_p / p, without the second where the logarithm is clipped."""
    return by_p + np.divide(by_log_p, p, out=np.zeros_like(p), where=p > np.finfo(np.float64).tiny)


def _reduced(
    loss: Callable[..., Terms],
    voxels: Voxels,
    *,
    regions: Regions | None = None,
    levels: int = 1,
    absent_classes: str | None = None,
    include_background: bool = True,
    class_weights: ArrayLike | None = None,
    batch_dice: bool,
    reduction: str = "sum",
    **parameters: Any,
) -> Gradient:
    """The loss of every level's regions as one number, and its slopes: those by the sums, given to the voxels."""
    absent = absent_classes or ("include" if regions is None else "skip")
    check_word("reduction", reduction, Reduction)
    value, by_p, by_log_p = 0.0, np.zeros_like(voxels.p), np.zeros_like(voxels.p)
    classes = slice(0 if include_background else 1, None)
    if not voxels.p[..., classes].size:
        raise ValueError("class 0, the background, is the only class and cannot be left out")
    p, log_p, g = (x[..., classes] for x in (voxels.p, voxels.log_p, voxels.g))
    for level in pyramid(voxels.counted, regions, levels=levels, batch_dice=batch_dice):
        s = sums_over(level, p, log_p, g)
        values, slopes = loss(s, **parameters)
        share = _shares(values, s, absent, reduction, class_weights) / (level.samples * levels)
        value += float((share * values).sum())
        level_by_p, level_by_log_p = spread(slopes.scaled(share), level, p, g)
        by_p[..., classes] += level_by_p
        by_log_p[..., classes] += level_by_log_p
    return value, by_p, by_log_p


def _shares(values: Array, s: Sums, absent: str, reduction: str, class_weights: ArrayLike | None) -> Array:
    """The factor of each value in its sample's loss, 0 for pairs that are not counted."""
    present = s.reference > 0
    if values.shape[-1] == 1:
        present = present.any(-1, keepdims=True)
    counted = (present | (absent == "include")).astype(np.float64)
    over = {"sum": (), "mean": (1, 2), "class_mean": (1,)}[reduction]
    pairs = np.maximum(counted.sum(over, keepdims=True), 1) if over else 1
    return np.asarray(_class_factors(class_weights, values) * counted / pairs, np.float64)


def _class_factors(weights: ArrayLike | None, values: Array) -> Array:
    classes = values.shape[-1]
    factors = np.ones(classes) if weights is None else np.asarray(weights, np.float64)
    if factors.shape != (classes,):
        raise ValueError(f"class_weights of shape {factors.shape} must be {(classes,)}, one number per counted class")
    return factors


def _joint(voxels: Voxels, *, class_weights: ArrayLike | None, absent_classes: str | None, **options: Any) -> Gradient:
    """Generalised Dice takes the weights and the absent classes into its sums, not into the reduction alone."""
    loss = partial(_generalized_dice, class_weights=class_weights, absent_classes=absent_classes or "skip")
    return _reduced(loss, voxels, absent_classes=absent_classes, **options)


def _whole_entropy(
    voxels: Voxels, *, reduction: str, batch_dice: bool, class_weights: ArrayLike | None = None
) -> Gradient:
    """The cross-entropy of the whole volume, whose reduction is over voxels."""
    loss = partial(_cross_entropy, reduction=reduction, class_weights=class_weights)
    return _reduced(loss, voxels, batch_dice=batch_dice)


def _baseline(
    voxels: Voxels, *, cross_entropy_weight: float, cross_entropy_reduction: str, batch_dice: bool, **options: Any
) -> Gradient:
    """L = sum_c Dice + lambda cross-entropy (Eq. 9)."""
    value, by_p, _ = _reduced(_dice, voxels, batch_dice=batch_dice, **options)
    entropy, _, by_log_p = _whole_entropy(voxels, reduction=cross_entropy_reduction, batch_dice=batch_dice)
    return value + cross_entropy_weight * entropy, by_p, cross_entropy_weight * by_log_p


_LOSSES: dict[str, Callable[..., Gradient]] = {
    "dice": partial(_reduced, _dice),
    "tversky": partial(_reduced, _tversky),
    "focal_tversky": partial(_reduced, _focal_tversky),
    "generalized_dice": _joint,
    "sensitivity_specificity": partial(_reduced, _sensitivity_specificity),
    "cross_entropy": _whole_entropy,
    "baseline": _baseline,
    "region_specific": partial(_reduced, _dice),
    "adaptive_region_specific": partial(_reduced, _adaptive_tversky),
}
NAMES: tuple[str, ...] = tuple(_LOSSES)
"""The losses that have closed forms: all of `ars_jax.losses`."""
