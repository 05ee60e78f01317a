"""Every loss and its gradient as written-out formulas in float64 NumPy, without automatic differentiation.

A loss is a function of the sums I, P, P2, Q and E of its regions (see `OverlapStatistics`), so its gradient by a
voxel's probability p, with reference g, is

    dL/dp = L_P + g L_I + 2 p L_P2 + 2 p g L_Q - (g / p) L_E,

where L_X is the slope of L by the sum X over the voxel's region. Each loss below is its value and these slopes; what
surrounds them (regions, reduction) is linear, and the softmax adds `dL/dz = p (dL/dp - sum_c p dL/dp)`.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ars_jax.losses.regions import RegionMap, region_bounds

Array = NDArray[np.float64]
Absent = Literal["skip", "count"]
Division = int | Sequence[int] | None


class Sums(NamedTuple):
    """Sums over the counted voxels of each region, `[samples, regions, c]`; see `OverlapStatistics` for the symbols."""

    intersection: Array
    predicted: Array
    reference: Array
    predicted_squared: Array
    intersection_squared: Array
    log_loss: Array
    voxels: Array

    @property
    def false_positives(self) -> Array:
        """FP = P - I, without the rounding below 0."""
        return np.maximum(self.predicted - self.intersection, 0)

    @property
    def false_negatives(self) -> Array:
        """FN = G - I, without the rounding below 0."""
        return np.maximum(self.reference - self.intersection, 0)


class Slopes(NamedTuple):
    """Derivatives of a loss by the sums that depend on the prediction, `[samples, regions, c]` or 0."""

    intersection: Array | float = 0.0
    predicted: Array | float = 0.0
    predicted_squared: Array | float = 0.0
    intersection_squared: Array | float = 0.0
    log_loss: Array | float = 0.0


Terms = tuple[Array, Slopes]
"""A loss per pair of region and class, `[samples, regions, c]`, or of all classes together, `[samples, regions, 1]`."""


def value_and_gradient(
    name: str,
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    by: Literal["logits", "probabilities"] = "logits",
    where: ArrayLike | None = None,
    from_probabilities: bool = False,
    **options: Any,
) -> tuple[float, Array]:
    """Returns a loss and its gradient from the closed forms.

    Args:
        name: a loss of `ars_jax.losses`, one of `NAMES`.
        logits: `[b, *space, c]`, two or three spatial axes.
        labels: `[b, *space]` integers, or `[b, *space, c]` one-hot or soft.
        by: what the gradient is taken by; each probability is then a variable of its own.
        where: `[b, *space]`, false takes a voxel out of every sum, whatever its logits are.
        from_probabilities: `logits` holds probabilities instead, also for `cross_entropy` and `baseline`; a voxel's
            share of a slope `g / p` is 0 where p is not a normal number, as the logarithm is clipped there.
        **options: those of the loss of that name, with the same defaults.

    Returns:
        The value, and the gradient `[b, *space, c]` in float64.

    Raises:
        ValueError: a name that is no loss, another word for an option, shapes or a division that do not fit, or a
            gradient by logits asked of probabilities.
        TypeError: an option that the loss does not have.
    """
    if name not in _LOSSES:
        raise ValueError(f"name (={name!r}) must be one of {', '.join(NAMES)}")
    _check_word("by", by, ("logits", "probabilities"))
    if by == "logits" and from_probabilities:
        raise ValueError('from_probabilities leaves no logits to differentiate by: give by="probabilities" with it')
    voxels = _voxels(logits, labels, where, from_probabilities)
    value, by_p, by_log_p = _LOSSES[name](voxels, **options)
    p = voxels.probabilities
    if by == "logits":
        of_p = p * (by_p - (p * by_p).sum(-1, keepdims=True))
        return value, of_p + by_log_p - p * by_log_p.sum(-1, keepdims=True)
    normal = p > np.finfo(np.float64).tiny
    return value, by_p + np.divide(by_log_p, p, out=np.zeros_like(p), where=normal)


def effective_weights(
    fp: ArrayLike,
    fn: ArrayLike,
    *,
    a: float = 0.3,
    b: float = 0.4,
    exponent: float = 1.0,
    adaptive_gradient: Literal["through", "stop"] = "through",
    eps: float = 0.0,
) -> tuple[Array, Array]:
    """Returns what a unit of FP and of FN adds to the adaptive Tversky loss's denominator, to first order (Eqs. 6-8).

    The denominator is `I + alpha FP + beta FN + eps`. With stopped penalties the weights are alpha and beta
    themselves; differentiated through, with `u = (FP + eps) / S`, `v = (FN + eps) / S`, `S = FP + FN + eps` and the
    exponent n, the weight of FP is

        alpha + b n (u^(n-1) FP FN - v^(n-1) FN (FN + eps)) / S^2,

    and that of FN the same with the two exchanged. For n = 1, eps = 0 and s = FN / (FP + FN) the weights of FP are
    `a + b (1 - 2 s^2)` (through), negative above `s = sqrt((1 + a / b) / 2)`, and `a + b (1 - s)` (stop).

    Args:
        fp: soft false positives, in voxels, any shape.
        fn: soft false negatives, of a shape that broadcasts with it.
        a: the smallest penalty.
        b: the range of the penalty.
        exponent: n, see `adaptive_weights`.
        adaptive_gradient: whether the penalties are differentiated.
        eps: smoothing, in voxels; the losses' is 1e-7.

    Returns:
        The weights of FP and of FN, of the common shape; undefined (NaN) where `FP + FN + eps` is 0.

    Raises:
        ValueError: another word for `adaptive_gradient`.
    """
    _check_word("adaptive_gradient", adaptive_gradient, ("through", "stop"))
    fp, fn = np.broadcast_arrays(np.asarray(fp, np.float64), np.asarray(fn, np.float64))
    alpha, beta = _penalties(fp, fn, a=a, b=b, exponent=exponent, eps=eps)
    if adaptive_gradient == "stop":
        return alpha, beta
    size = fp + fn + eps
    rate_u, rate_v = (b * exponent * ((x + eps) / size) ** (exponent - 1) / size**2 for x in (fp, fn))
    return (
        alpha + rate_u * fp * fn - rate_v * fn * (fn + eps),
        beta + rate_v * fp * fn - rate_u * fp * (fp + eps),
    )


def _dice(s: Sums, *, squared: bool = True, eps: float = 1e-7) -> Terms:
    """L = 1 - (2I + eps) / D, D = P2 + G + eps (Eq. 2), or P for P2: L_I = -2 / D, L_P2 = (2I + eps) / D^2."""
    size = (s.predicted_squared if squared else s.predicted) + s.reference + eps
    overlap = 2 * s.intersection + eps
    by_predicted = overlap / size**2
    by_sum = Slopes(predicted_squared=by_predicted) if squared else Slopes(predicted=by_predicted)
    return 1 - overlap / size, by_sum._replace(intersection=-2 / size)


def _tversky(s: Sums, *, fp_weight: float = 0.3, fn_weight: float = 0.7, eps: float = 1e-7) -> Terms:
    """L = 1 - (I + eps) / D, D = I + fp_weight FP + fn_weight FN + eps (Eq. 5)."""
    return _tversky_terms(s, (fp_weight, fn_weight), (fp_weight, fn_weight), eps)


def _adaptive_tversky(
    s: Sums,
    *,
    a: float = 0.3,
    b: float = 0.4,
    exponent: float = 1.0,
    adaptive_gradient: Literal["through", "stop"] = "through",
    eps: float = 1e-7,
) -> Terms:
    """L = 1 - (I + eps) / D, D = I + alpha FP + beta FN + eps (Eqs. 6-8), D's slopes from `effective_weights`."""
    fp, fn = s.false_positives, s.false_negatives
    how = {"a": a, "b": b, "exponent": exponent, "eps": eps}
    slopes = effective_weights(fp, fn, adaptive_gradient=adaptive_gradient, **how)
    return _tversky_terms(s, _penalties(fp, fn, **how), slopes, eps)


def _tversky_terms(s: Sums, penalties: tuple[Any, Any], weights: tuple[Any, Any], eps: float) -> Terms:
    """L_I = ((I + eps) D_I - D) / D^2, L_P = (I + eps) D_P / D^2, with D_P = D_FP, D_I = 1 - D_FP - D_FN."""
    hit, (by_fp, by_fn) = s.intersection + eps, weights
    size = hit + penalties[0] * s.false_positives + penalties[1] * s.false_negatives
    by_intersection = (hit * (1 - by_fp - by_fn) - size) / size**2
    return 1 - hit / size, Slopes(intersection=by_intersection, predicted=hit * by_fp / size**2)


def _penalties(fp: Array, fn: Array, *, a: float, b: float, exponent: float, eps: float) -> tuple[Array, Array]:
    """Eqs. 7 and 8: alpha = a + b ((FP + eps) / (FP + FN + eps))^exponent, beta alike with FN."""
    size = fp + fn + eps
    return a + b * ((fp + eps) / size) ** exponent, a + b * ((fn + eps) / size) ** exponent


def _focal_tversky(s: Sums, *, gamma: float = 4 / 3, chord: float = 1e-6, **parameters: float) -> Terms:
    """L = T^(1/gamma), L_X = T_X T^(1/gamma - 1) / gamma; a straight line through 0 where T is not above the chord."""
    loss, slopes = _tversky(s, **parameters)
    curved = loss > chord
    base = np.where(curved, loss, chord)
    secant = base ** (1 / gamma - 1)
    factor = np.where(curved, secant / gamma, secant)
    return loss * secant, _scaled(slopes, factor)


def _generalized_dice(
    s: Sums, *, class_weights: ArrayLike | None = None, absent: str = "skip", eps: float = 1e-7
) -> Terms:
    """L = sum_c w (FP + FN) / D, D = sum_c w (P + G) + eps: L_I = -2w / D, L_P = w (1 - L) / D.

    The weights w = 1 / G^2, scaled so that the largest w G of a region is 1, are constants to the prediction.
    """
    present = s.reference > 0
    smallest = np.min(s.reference, axis=-1, keepdims=True, initial=np.inf, where=present)
    smallest = np.where(np.isfinite(smallest), smallest, 1)
    weight = smallest / np.where(present, s.reference, smallest) ** 2 * _class_factors(class_weights, s.reference)
    weight = np.where(present | (absent == "count"), weight, 0)
    size = (weight * (s.predicted + s.reference)).sum(-1, keepdims=True) + eps
    loss = (weight * (s.false_positives + s.false_negatives)).sum(-1, keepdims=True) / size
    return loss, Slopes(intersection=-2 * weight / size, predicted=weight * (1 - loss) / size)


def _sensitivity_specificity(s: Sums, *, sensitivity_weight: float = 0.05, eps: float = 1e-7) -> Terms:
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


def _cross_entropy(s: Sums, *, reduction: str = "mean", class_weights: ArrayLike | None = None) -> Terms:
    """L = sum_c w E / D, D = sum_c w G, or 1 for the literal sum (second term of Eq. 9): L_E = w / D."""
    _check_word("reduction", reduction, ("mean", "sum"))
    weight = _class_factors(class_weights, s.log_loss)
    counted = (weight * s.reference).sum(-1, keepdims=True)
    slope = weight / np.where((counted > 0) & (reduction == "mean"), counted, 1)
    return (slope * s.log_loss).sum(-1, keepdims=True), Slopes(log_loss=slope)


def _baseline(
    s: Sums, *, cross_entropy_weight: float = 1.0, cross_entropy_reduction: str = "mean", eps: float = 1e-7
) -> Terms:
    """L = sum_c Dice + lambda cross-entropy (Eq. 9)."""
    dice, dice_slopes = _dice(s, eps=eps)
    entropy, entropy_slopes = _cross_entropy(s, reduction=cross_entropy_reduction)
    by_log_loss = cross_entropy_weight * np.asarray(entropy_slopes.log_loss)
    total = dice.sum(-1, keepdims=True) + cross_entropy_weight * entropy
    return total, dice_slopes._replace(log_loss=by_log_loss)


class _Voxels(NamedTuple):
    """Softmax, its logarithm and the references, `[b, *space, c]`, and which voxels count, `[b, *space]`."""

    probabilities: Array
    log_probabilities: Array
    references: Array
    counted: NDArray[np.bool_]


Gradient = tuple[float, Array, Array]
"""A loss, its slopes by p without those of E, and its slopes by log p through E, both `[b, *space, c]`."""


def _voxels(logits: ArrayLike, labels: ArrayLike, where: ArrayLike | None, from_probabilities: bool) -> _Voxels:
    x, labels = np.asarray(logits, np.float64), np.asarray(labels)
    counted = np.ones(x.shape[:-1], bool) if where is None else np.asarray(where, bool)
    _check_shapes(x, labels, counted)
    x = np.where(counted[..., None], x, 0)
    g = labels if labels.ndim == x.ndim else labels[..., None] == np.arange(x.shape[-1])
    if from_probabilities:
        return _Voxels(x, np.log(np.maximum(x, np.finfo(np.float64).tiny)), g.astype(np.float64), counted)
    x = x - x.max(-1, keepdims=True)
    log_p = x - np.log(np.exp(x).sum(-1, keepdims=True))
    return _Voxels(np.exp(log_p), log_p, g.astype(np.float64), counted)


def _reduced(
    loss: Callable[..., Terms],
    voxels: _Voxels,
    *,
    grid: Division = None,
    region_size: Division = None,
    region_map: RegionMap | None = None,
    levels: int = 1,
    include_background: bool = True,
    whole_batch: bool = False,
    absent: Absent | None = None,
    reduction: Literal["sum", "mean", "class_mean"] = "sum",
    class_weights: ArrayLike | None = None,
    **parameters: Any,
) -> Gradient:
    """Sums over each level's regions, the loss of them, its slopes by them, and these spread to the voxels."""
    divided = any(division is not None for division in (grid, region_size, region_map))
    absent = absent or ("skip" if divided else "count")
    by_p, by_log_p = np.zeros_like(voxels.probabilities), np.zeros_like(voxels.probabilities)
    classes = slice(0 if include_background else 1, None)
    p, log_p, g = (x[..., classes] for x in voxels[:3])
    total = 0.0
    for regions, count in _levels(voxels.counted.shape, grid, region_size, region_map, levels):
        samples = 1 if whole_batch else len(p)
        ids = np.arange(len(p)).reshape(-1, *(1,) * (p.ndim - 2)) % samples * count + regions
        ids = np.where(voxels.counted & (regions >= 0), ids, samples * count)
        s = _sums(p, log_p, g, ids, (samples, count))
        values, slopes = loss(s, **parameters)
        share = _shares(values, s, absent, reduction, class_weights) / (samples * levels)
        total += np.where(share != 0, share * values, 0).sum()
        i, j, k, m, n = (_spread(np.where(share != 0, share * x, 0), ids, s) for x in slopes)
        by_p[..., classes] += j + g * i + 2 * p * (k + g * m)
        by_log_p[..., classes] -= g * n
    return float(total), by_p, by_log_p


def _levels(
    shape: tuple[int, ...], grid: Division, region_size: Division, region_map: RegionMap | None, levels: int
) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Yields each level's region of every voxel, `[b, *space]`, -1 for none, and the number of regions."""
    if levels < 1:
        raise ValueError(f"levels (={levels}) must be at least 1, the grid itself")
    if region_map is None:
        bounds = region_bounds(shape[1:], grid=grid, region_size=region_size)
        counts = [len(regions) for regions in bounds]
        axes = np.ix_(*(np.repeat(np.arange(len(r)), [stop - start for start, stop in r]) for r in bounds))
    elif grid is not None or region_size is not None:
        raise ValueError(f"region_map and grid (={grid}) or region_size (={region_size}) both divide the volume")
    else:
        counts, axes = [region_map.count], [np.asarray(region_map.ids)]
    for level in range(levels):
        if any(level and n * 2**level != m for n, m in zip((n >> level for n in counts), counts, strict=True)):
            raise ValueError(f"a grid of {'x'.join(map(str, counts))} regions cannot be halved {level} times")
        indices, sides = [x >> level for x in axes], [n >> level for n in counts]
        inside = np.logical_and.reduce(
            [(x >= 0) & (x < n) for x, n in zip(np.broadcast_arrays(*indices), sides, strict=True)]
        )
        ids = np.ravel_multi_index(tuple(indices), sides, mode="clip")
        yield np.broadcast_to(np.where(inside, ids, -1), shape), int(np.prod(sides))


def _sums(p: Array, log_p: Array, g: Array, ids: NDArray[np.int64], shape: tuple[int, int]) -> Sums:
    """Sums over the voxels of each id; the id after the last is that of voxels in no region."""

    def regional(x: Array) -> Array:
        columns = [
            np.bincount(ids.ravel(), column, minlength=np.prod(shape) + 1)[:-1]
            for column in x.reshape(-1, x.shape[-1]).T
        ]
        return np.stack(columns, -1).reshape(*shape, -1)

    return Sums(
        intersection=regional(p * g),
        predicted=regional(p),
        reference=regional(g),
        predicted_squared=regional(p**2),
        intersection_squared=regional(p**2 * g),
        log_loss=-regional(np.multiply(g, log_p, out=np.zeros_like(p), where=g > 0)),
        voxels=regional(np.ones((*ids.shape, 1))),
    )


def _shares(values: Array, s: Sums, absent: str, reduction: str, class_weights: ArrayLike | None) -> Array:
    """The factor of each value in its sample's loss, 0 for pairs that are not counted."""
    _check_word("absent", absent, ("skip", "count"))
    _check_word("reduction", reduction, ("sum", "mean", "class_mean"))
    present = s.reference > 0
    if values.shape[-1] == 1:
        present = present.any(-1, keepdims=True)
    counted = (present | (absent == "count")).astype(np.float64)
    over = {"sum": (), "mean": (1, 2), "class_mean": (1,)}[reduction]
    pairs = np.maximum(counted.sum(over, keepdims=True), 1) if over else 1
    return np.asarray(_class_factors(class_weights, values) * counted / pairs, np.float64)


def _spread(slopes: Array, ids: NDArray[np.int64], s: Sums) -> Array:
    """Gives every voxel its region's slopes, 0 where it is in none."""
    flat = np.broadcast_to(slopes, s.predicted.shape).reshape(-1, s.predicted.shape[-1])
    return np.pad(flat, ((0, 1), (0, 0)))[ids]


def _scaled(slopes: Slopes, factor: Array) -> Slopes:
    return Slopes(*(factor * slope for slope in slopes))


def _class_factors(weights: ArrayLike | None, values: Array) -> Array:
    classes = values.shape[-1]
    factors = np.ones(classes) if weights is None else np.asarray(weights, np.float64)
    if factors.shape != (classes,):
        raise ValueError(f"class_weights of shape {factors.shape} must be {(classes,)}, one number per counted class")
    return factors


def _check_word(name: str, word: str, allowed: Sequence[str]) -> None:
    if word not in allowed:
        raise ValueError(f"{name} (={word!r}) must be one of {', '.join(map(repr, allowed))}")


def _check_shapes(logits: Array, labels: NDArray[Any], counted: NDArray[np.bool_]) -> None:
    if logits.ndim not in (4, 5):
        raise ValueError(f"logits must be [b, z, y, x, c] or [b, y, x, c]; their shape is {logits.shape}")
    if labels.shape not in (logits.shape, logits.shape[:-1]):
        raise ValueError(f"labels of shape {labels.shape} do not fit logits of shape {logits.shape}")
    if counted.shape != logits.shape[:-1]:
        raise ValueError(f"where of shape {counted.shape} must be {logits.shape[:-1]}, as logits without classes")


def _divided(loss: Callable[..., Terms], voxels: _Voxels, **options: Any) -> Gradient:
    """The paper's grid of 16 per axis where no division is asked for."""
    asked = any(options.get(name) is not None for name in ("grid", "region_size", "region_map"))
    return _reduced(loss, voxels, **(options if asked else {**options, "grid": 16}))


def _joint(
    voxels: _Voxels, *, class_weights: ArrayLike | None = None, absent: Absent | None = None, **options: Any
) -> Gradient:
    """Generalised Dice takes the weights and the absent classes into its sums, not into the reduction alone."""
    loss = partial(_generalized_dice, class_weights=class_weights, absent=absent or "skip")
    return _reduced(loss, voxels, absent=absent, **options)


def _undivided(
    loss: Callable[..., Terms], voxels: _Voxels, *, whole_batch: bool = False, **parameters: Any
) -> Gradient:
    """A loss of the whole volume that takes no other option of regions or reduction."""
    return _reduced(partial(loss, **parameters), voxels, whole_batch=whole_batch)


_LOSSES: dict[str, Callable[..., Gradient]] = {
    "dice": partial(_reduced, _dice),
    "tversky": partial(_reduced, _tversky),
    "focal_tversky": partial(_reduced, _focal_tversky),
    "generalized_dice": _joint,
    "sensitivity_specificity": partial(_reduced, _sensitivity_specificity),
    "cross_entropy": partial(_undivided, _cross_entropy),
    "baseline": partial(_undivided, _baseline),
    "region_specific": partial(_divided, _dice),
    "adaptive_region_specific": partial(_divided, _adaptive_tversky),
}
NAMES: tuple[str, ...] = tuple(_LOSSES)
"""The losses that have closed forms: all of `ars_jax.losses`."""
