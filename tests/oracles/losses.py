"""The losses read off their equations: float64 NumPy, loops over samples, regions and classes, no sharing with ars_jax.

Sums come from the voxels themselves (false positives are summed as p(1 - g), never as P - I), so that an algebraic slip
in the package is not repeated here. Labels are integer maps ``[b, *space]`` or references ``[b, *space, c]``.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Regions = Any
"""Regions per axis, one number or one per axis; an object with their largest side as `voxels`; or None, one region."""
Pair = tuple[int, int, int]  # sample, region, class
PairLoss = Callable[[Array, Array, Pair], float]  # from probabilities [n], references [n] of one pair's counted voxels
PairSlope = Callable[[Array, Array], Array]  # the loss's derivative by each probability [n]


def softmax(logits: ArrayLike) -> Array:
    """exp(z) / sum exp(z) over the last axis, in float64."""
    z = np.asarray(logits, np.float64)
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def references(labels: ArrayLike, classes: int, ndim: int) -> Array:
    """[b, *space, c] references: one-hot of an integer map, or the soft labels as they are."""
    labels = np.asarray(labels)
    if labels.ndim == ndim:
        return labels.astype(np.float64)
    return np.stack([labels == c for c in range(classes)], -1).astype(np.float64)


def cuts(side: int, regions: int) -> list[slice]:
    """Balanced, non-overlapping cuts of one axis: region r covers floor(r s / n) .. floor((r + 1) s / n)."""
    return [slice(math.floor(r * side / regions), math.floor((r + 1) * side / regions)) for r in range(regions)]


def region_counts(space: Sequence[int], regions: Regions) -> list[int]:
    """Regions along each axis, from their number or from a region's size in voxels."""
    if hasattr(regions, "voxels"):
        sizes = [regions.voxels] * len(space) if isinstance(regions.voxels, int) else list(regions.voxels)
        return [math.ceil(side / size) for side, size in zip(space, sizes, strict=True)]
    regions = 1 if regions is None else regions
    return [regions] * len(space) if isinstance(regions, int) else list(regions)


def boxes(space: Sequence[int], regions: Regions) -> list[tuple[slice, ...]]:
    """Every region as a tuple of slices, last axis fastest."""
    counts = region_counts(space, regions)
    return list(itertools.product(*(cuts(side, n) for side, n in zip(space, counts, strict=True))))


def _samples(
    logits: ArrayLike, labels: ArrayLike, where: ArrayLike | None, from_probabilities: bool = False
) -> Iterator[tuple[Array, Array, Mask]]:
    """Probabilities [*space, c], references [*space, c] and counted voxels [*space] of each sample."""
    p = np.asarray(logits, np.float64) if from_probabilities else softmax(logits)
    g = references(labels, p.shape[-1], p.ndim)
    counted = np.ones(p.shape[:-1], bool) if where is None else np.asarray(where, bool)
    yield from zip(p, g, counted, strict=True)


def statistics(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    regions: Regions = None,
    where: ArrayLike | None = None,
    from_probabilities: bool = False,
) -> dict[str, Array]:
    """The sums of every region and class: fields [b, *regions, c], voxels [b, *regions, 1]."""
    samples: dict[str, list[Array]] = {}
    for p, g, counted in _samples(logits, labels, where, from_probabilities):
        counts = region_counts(p.shape[:-1], regions)
        values: dict[str, list[Any]] = {}
        for box in boxes(p.shape[:-1], regions):
            q, h = p[box][counted[box]], g[box][counted[box]]
            sums = {
                "true_positives": (q * h).sum(0),
                "predicted": q.sum(0),
                "reference": h.sum(0),
                "squared_predicted": (q**2).sum(0),
                "squared_true_positives": (q**2 * h).sum(0),
                "false_positives": (q * (1 - h)).sum(0),
                "false_negatives": ((1 - q) * h).sum(0),
                "voxels": np.array([float(len(q))]),
                "log_loss": -(h * np.log(np.maximum(q, 1e-300))).sum(0),
            }
            for name, value in sums.items():
                values.setdefault(name, []).append(value)
        for name, each in values.items():
            samples.setdefault(name, []).append(np.reshape(each, (*counts, *np.shape(each[0]))))
    return {name: np.stack(values) for name, values in samples.items()}


def dice_pair(eps: float) -> PairLoss:
    """Eq. 2: 1 - (2 sum pg + eps) / (sum p^2 + sum g + eps)."""
    return lambda p, g, _: 1 - (2 * (p * g).sum() + eps) / ((p**2).sum() + g.sum() + eps)


def tversky_value(p: Array, g: Array, fp_weight: float, fn_weight: float, eps: float) -> float:
    """Eq. 5: 1 - (sum pg + eps) / (sum pg + alpha sum p(1-g) + beta sum (1-p)g + eps)."""
    hit, fp, fn = (p * g).sum(), (p * (1 - g)).sum(), ((1 - p) * g).sum()
    return 1 - (hit + eps) / (hit + fp_weight * fp + fn_weight * fn + eps)


def adaptive_weights(p: Array, g: Array, a: float, b: float, eps: float) -> tuple[float, float]:
    """Eqs. 7 and 8: the weights of false positives and of false negatives of one pair."""
    fp, fn = (p * (1 - g)).sum(), ((1 - p) * g).sum()
    return a + b * (fp + eps) / (fp + fn + eps), a + b * (fn + eps) / (fp + fn + eps)


def region_loss(
    pair: PairLoss,
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    regions: Regions = None,
    absent_classes: str,
    reduction: str,
    where: ArrayLike | None,
    from_probabilities: bool = False,
) -> float:
    """A pair loss over the regions and classes of each sample, reduced, then averaged over the batch."""
    results = []
    for i, (p, g, counted) in enumerate(_samples(logits, labels, where, from_probabilities)):
        kept: list[list[float]] = [[] for _ in range(p.shape[-1])]
        for k, box in enumerate(boxes(p.shape[:-1], regions)):
            q, h = p[box][counted[box]], g[box][counted[box]]
            for c in range(p.shape[-1]):
                if absent_classes == "include" or h[:, c].sum() > 0:
                    kept[c].append(pair(q[:, c], h[:, c], (i, k, c)))
        everything = [value for values in kept for value in values]
        reduced = {
            "sum": sum(everything),
            "mean": sum(everything) / max(len(everything), 1),
            "class_mean": sum(sum(values) / max(len(values), 1) for values in kept),
        }
        results.append(reduced[reduction])
    return float(np.mean(results))


def dice(
    logits, labels, *, absent_classes="include", reduction="sum", eps=1e-7, where=None, from_probabilities=False
) -> float:
    """Eq. 2 over the whole volume."""
    how: dict[str, Any] = {"where": where, "from_probabilities": from_probabilities}
    return region_loss(dice_pair(eps), logits, labels, absent_classes=absent_classes, reduction=reduction, **how)


def cross_entropy(
    logits,
    labels,
    *,
    reduction="mean",
    where=None,
    class_weights: Sequence[float] | None = None,
    batch_dice=False,
    from_probabilities=False,
) -> float:
    """The second term of Eq. 9: -sum w g log p over counted voxels, or divided by sum w g; 0 where none is counted."""
    totals, weights = [], []
    for p, g, counted in _samples(logits, labels, where, from_probabilities):
        w = g[counted] * (1.0 if class_weights is None else np.asarray(class_weights))
        totals.append(-(w * np.log(np.maximum(p[counted], 1e-300))).sum())
        weights.append(w.sum())
    if batch_dice:
        totals, weights = [sum(totals)], [sum(weights)]
    if reduction == "sum":
        return float(np.mean(totals))
    return float(np.mean([total / weight if weight else 0.0 for total, weight in zip(totals, weights, strict=True)]))


def baseline(
    logits,
    labels,
    *,
    cross_entropy_weight=1.0,
    cross_entropy_reduction="mean",
    eps=1e-7,
    where=None,
    from_probabilities=False,
) -> float:
    """Eq. 9: Dice summed over the classes + lambda cross-entropy."""
    how: dict[str, Any] = {"where": where, "from_probabilities": from_probabilities}
    entropy = cross_entropy(logits, labels, reduction=cross_entropy_reduction, **how)
    return dice(logits, labels, eps=eps, **how) + cross_entropy_weight * entropy


def tversky(
    logits, labels, *, fp_weight=0.3, fn_weight=0.7, absent_classes="include", reduction="sum", eps=1e-7, where=None
) -> float:
    """Eq. 5 over the whole volume."""

    def pair(p: Array, g: Array, _: Pair) -> float:
        return tversky_value(p, g, fp_weight, fn_weight, eps)

    return region_loss(pair, logits, labels, absent_classes=absent_classes, reduction=reduction, where=where)


def region_specific(
    logits, labels, *, regions: Regions = 16, absent_classes="skip", reduction="sum", eps=1e-7, where=None
) -> float:
    """Eq. 4: Dice of every region."""
    how = {"regions": regions, "absent_classes": absent_classes, "reduction": reduction, "where": where}
    return region_loss(dice_pair(eps), logits, labels, **how)


def adaptive_region_specific(
    logits,
    labels,
    *,
    regions: Regions = 16,
    min_penalty=0.3,
    penalty_range=0.4,
    absent_classes="skip",
    reduction="sum",
    eps=1e-7,
    where=None,
    frozen: ArrayLike | None = None,
) -> float:
    """Eqs. 6 to 8. With ``frozen`` logits every pair keeps the weights that it has there, whatever ``logits`` are."""
    how = {"regions": regions, "absent_classes": absent_classes, "reduction": reduction, "where": where}
    weights: dict[Pair, tuple[float, float]] = {}

    def record(p: Array, g: Array, at: Pair) -> float:
        weights[at] = adaptive_weights(p, g, min_penalty, penalty_range, eps)
        return 0.0

    region_loss(record, logits if frozen is None else frozen, labels, **how)
    return region_loss(lambda p, g, at: tversky_value(p, g, *weights[at], eps), logits, labels, **how)


def dice_slope(eps: float) -> PairSlope:
    """Derivative of Eq. 2 as a loss: (-2 g (P2 + G + eps) + 2 p (2I + eps)) / (P2 + G + eps)^2."""

    def slope(p: Array, g: Array) -> Array:
        size = (p**2).sum() + g.sum() + eps
        return (-2 * g * size + 2 * p * (2 * (p * g).sum() + eps)) / size**2

    return slope


def adaptive_slope(a: float, b: float, eps: float, mode: str) -> PairSlope:
    """Derivative of Eq. 6 by the weights that false positives and false negatives carry in it (eps is left out there).

    With s = FN / (FP + FN), the denominator grows by A + B(1 - 2 s^2) per false positive and by A + B(1 - 2 (1 - s)^2)
    per false negative when the weights are differentiated through, by A + B(1 - s) and A + B s when they are stopped.
    """

    def slope(p: Array, g: Array) -> Array:
        hit, fp, fn = (p * g).sum(), (p * (1 - g)).sum(), ((1 - p) * g).sum()
        s = fn / (fp + fn)
        alpha, beta = a + b * (1 - s), a + b * s
        by_fp, by_fn = alpha, beta
        if mode == "through":
            by_fp, by_fn = a + b * (1 - 2 * s**2), a + b * (1 - 2 * (1 - s) ** 2)
        size = hit + alpha * fp + beta * fn + eps
        size_slope = g + by_fp * (1 - g) - by_fn * g
        return (-g * size + (hit + eps) * size_slope) / size**2

    return slope


def closed_form_gradient(
    slope: PairSlope,
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    regions: Regions = None,
    absent_classes: str = "skip",
    where: ArrayLike | None = None,
) -> Array:
    """Gradient by the logits [b, *space, c] of a pair loss summed over regions and classes, averaged over the batch."""
    gradients = []
    for p, g, counted in _samples(logits, labels, where):
        by_probability = np.zeros_like(p)
        for box in boxes(p.shape[:-1], regions):
            inside = np.zeros(counted.shape, bool)
            inside[box] = counted[box]
            for c in range(p.shape[-1]):
                if absent_classes == "include" or g[inside, c].sum() > 0:
                    by_probability[inside, c] = slope(p[inside, c], g[inside, c])
        gradients.append(p * (by_probability - (p * by_probability).sum(-1, keepdims=True)))
    return np.stack(gradients) / len(gradients)
