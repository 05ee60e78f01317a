"""Losses of any division in float64 loops: a region is a mask of voxels, and every option is a loop or a condition.

Formulas are read off the papers and use the voxels themselves, never differences of sums, and nothing of ars_jax.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
Level = Sequence[Mask]
"""The regions of one division, each a mask [b, *space]."""


def boxes(shape: Sequence[int], *bounds: Sequence[tuple[int, int]]) -> list[Mask]:
    """One mask [b, *space] per box of the given (start, stop) along every axis, last axis fastest."""
    masks = []
    for box in itertools.product(*bounds):
        mask = np.zeros(shape, bool)
        mask[(slice(None), *(slice(start, stop) for start, stop in box))] = True
        masks.append(mask)
    return masks


def grid(shape: Sequence[int], *counts: int) -> list[Mask]:
    """The regions of a grid of balanced cuts."""
    cuts = [[(r * side // n, (r + 1) * side // n) for r in range(n)] for side, n in zip(shape[1:], counts, strict=True)]
    return boxes(shape, *cuts)


def ids(numbers: ArrayLike, count: int) -> list[Mask]:
    """The regions of a map of region numbers [b, *space]."""
    return [np.asarray(numbers) == number for number in range(count)]


def softmax(logits: ArrayLike) -> Array:
    """Probabilities over the last axis."""
    z = np.asarray(logits, np.float64)
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def dice(p: Array, g: Array, *, eps: float, squared: bool = True) -> float:
    """Eq. 2, or Dice with plain probabilities in the denominator."""
    return 1 - (2 * (p * g).sum() + eps) / ((p**2 if squared else p).sum() + g.sum() + eps)


def tversky(p: Array, g: Array, *, eps: float, fp_weight: float = 0.3, fn_weight: float = 0.7) -> float:
    """Eq. 5."""
    hit = (p * g).sum() + eps
    return 1 - hit / (hit + fp_weight * (p * (1 - g)).sum() + fn_weight * ((1 - p) * g).sum())


def focal_tversky(p: Array, g: Array, *, eps: float, gamma: float = 4 / 3, **weights: float) -> float:
    """Abraham & Khan: Tversky to the power 1 / gamma; straight from 0 to where the Tversky loss is 1e-6."""
    loss = tversky(p, g, eps=eps, **weights)
    return loss ** (1 / gamma) if loss > 1e-6 else loss / 1e-6 * 1e-6 ** (1 / gamma)


def sensitivity_specificity(p: Array, g: Array, *, eps: float, sensitivity_weight: float = 0.05) -> float:
    """Brosch & Tam: mean squared error of the class's voxels and of all others."""
    missed, false = ((1 - p) ** 2 * g).sum() / (g.sum() + eps), (p**2 * (1 - g)).sum() / ((1 - g).sum() + eps)
    return sensitivity_weight * missed + (1 - sensitivity_weight) * false


def adaptive_region_specific(
    p: Array,
    g: Array,
    *,
    eps: float,
    min_penalty: float = 0.3,
    penalty_range: float = 0.4,
    exponent: float = 1.0,
    **_: Any,
) -> float:
    """Eqs. 6 to 8."""
    fp, fn = (p * (1 - g)).sum() + eps, ((1 - p) * g).sum() + eps
    alpha, beta = (min_penalty + penalty_range * (error / (fp + fn - eps)) ** exponent for error in (fp, fn))
    return tversky(p, g, eps=eps, fp_weight=alpha, fn_weight=beta)


def generalized_dice(p: Array, g: Array, *, eps: float, absent_classes: str, class_weights: ArrayLike | None) -> float:
    """Sudre et al. of p, g [n, c], weights 1 / G^2 of at least a voxel, scaled so that the largest of w G is 1."""
    present = g.sum(0) > 0
    volumes = np.maximum(g.sum(0), 1)
    smallest = volumes[present].min() if present.any() else 1.0
    w = smallest / np.where(present, volumes, smallest) ** 2
    w = np.where(present | (absent_classes == "include"), w, 0) * (
        1 if class_weights is None else np.asarray(class_weights)
    )
    return 1 - (2 * (w * p * g).sum() + eps) / ((w * (p + g)).sum() + eps)


PAIRS: dict[str, Callable[..., float]] = {
    "dice": dice,
    "tversky": tversky,
    "focal_tversky": focal_tversky,
    "sensitivity_specificity": sensitivity_specificity,
    "region_specific": dice,
    "adaptive_region_specific": adaptive_region_specific,
}


def value(
    name: str,
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    levels: Sequence[Level] | None = None,
    where: ArrayLike | None = None,
    include_background: bool = True,
    batch_dice: bool = False,
    absent_classes: str | None = None,
    reduction: str = "sum",
    class_weights: Sequence[float] | None = None,
    eps: float = 1e-7,
    from_probabilities: bool = False,
    **parameters: Any,
) -> float:
    """A loss of the package by its equation.

    Args:
        name: the loss.
        logits: [b, *space, c].
        labels: integers [b, *space], or references [b, *space, c].
        levels: the divisions of a pyramid; without any, the volume is one region and absent classes count.
        where: voxels that count.
        include_background: whether class 0 has a loss.
        batch_dice: whether the batch is one sample.
        absent_classes: "skip" or "include".
        reduction: "sum", "mean" or "class_mean".
        class_weights: factors of the counted classes.
        eps: smoothing.
        from_probabilities: whether `logits` are probabilities.
        **parameters: those of the loss.

    Returns:
        The value.
    """
    p = np.asarray(logits, np.float64) if from_probabilities else softmax(logits)
    labels = np.asarray(labels)
    g = labels.astype(np.float64) if labels.ndim == p.ndim else (labels[..., None] == np.arange(p.shape[-1])) * 1.0
    p, g = (x if include_background else x[..., 1:] for x in (p, g))
    counted = np.ones(p.shape[:-1], bool) if where is None else np.asarray(where, bool)
    absent_classes = absent_classes or ("include" if levels is None else "skip")
    samples = [slice(None)] if batch_dice else [slice(i, i + 1) for i in range(len(p))]
    results = []
    for level in levels or [[np.ones(counted.shape, bool)]]:
        for sample in samples:
            masks = [(region & counted)[sample] for region in level]
            regions = [(p[sample][mask], g[sample][mask]) for mask in masks]
            results.append(_sample(name, regions, absent_classes, reduction, class_weights, eps, parameters))
    return float(np.mean(results))


def _sample(
    name: str,
    regions: list[tuple[Array, Array]],
    absent_classes: str,
    reduction: str,
    class_weights: Sequence[float] | None,
    eps: float,
    parameters: dict[str, Any],
) -> float:
    kept: dict[int, list[float]] = {}
    for q, h in regions:
        if name == "generalized_dice":
            if absent_classes == "include" or h.sum() > 0:
                loss = generalized_dice(q, h, eps=eps, absent_classes=absent_classes, class_weights=class_weights)
                kept.setdefault(0, []).append(loss)
            continue
        for c in range(q.shape[-1]):
            if absent_classes == "include" or h[:, c].sum() > 0:
                factor = 1.0 if class_weights is None else class_weights[c]
                kept.setdefault(c, []).append(factor * PAIRS[name](q[:, c], h[:, c], eps=eps, **parameters))
    pairs = [loss for values in kept.values() for loss in values]
    if reduction == "mean":
        return sum(pairs) / max(len(pairs), 1)
    return sum(pairs) if reduction == "sum" else sum(float(np.mean(values)) for values in kept.values())
