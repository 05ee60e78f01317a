"""Values and gradients of the losses against closed forms, finite differences and PyTorch, on any arrays."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from ars_jax import losses
from ars_jax.gradients import closed_form, pytorch
from ars_jax.gradients.regional import resolved_options

Oracle = Literal["closed_form", "finite_differences", "pytorch"]
Dtype = Literal["float64", "float32"]
Mode = Literal["through", "stop"]

ORACLES: tuple[Oracle, ...] = ("closed_form", "finite_differences", "pytorch")
LOSSES = closed_form.NAMES
"""The losses of this package."""
PRESETS = losses.presets.NAMES
"""The conventions of other libraries, from `losses.presets`."""

Loss = Callable[[jax.Array, jax.Array], jax.Array]
"""A function of logits and labels to a scalar."""

_REGIONS = {
    "region_specific": "regions",
    "adaptive_region_specific": "regions",
    "pytorch_ars": "num_region_per_axis",
}
"""Losses that are divided unless asked otherwise, and their argument of the regions."""
_ARGUMENTS = ("where", "adaptive_gradient", "from_probabilities", "spatial_dims")
_STEP = 2e-3
_UNREADABLE = 0.1


@dataclass(frozen=True)
class Comparison:
    """One loss against one oracle.

    Attributes:
        loss: name of the loss, with its mode for `adaptive_region_specific`.
        against: the oracle.
        dtype: of the logits that the package's loss was given.
        value: the package's; None where it is not finite.
        other_value: the oracle's, which for finite differences is the package's own loss in float64; None where it was
            not computed or is not finite.
        value_error: difference of the values, relative to the oracle's or, where that is smaller, to 1: an oracle
            that takes 1 minus a ratio, such as MONAI, has a rounding that does not shrink with the loss.
        cosine: of the angle between the gradients by the logits; for finite differences, between the slopes along
            the directions.
        gradient_error: largest difference of an entry, relative to the oracle's largest entry.
        tolerance: what both errors may be.
        passed: whether both are no larger; None where nothing could be compared.
        reason: why nothing was compared, or which side is not finite; else empty.
    """

    loss: str
    against: Oracle
    dtype: Dtype
    value: float | None
    other_value: float | None
    value_error: float | None
    cosine: float | None
    gradient_error: float | None
    tolerance: float
    passed: bool | None
    reason: str = ""


@dataclass(frozen=True)
class _Subject:
    """A loss on arrays, with its options, and what the package gives for it."""

    label: str
    name: str
    function: Callable[..., jax.Array]
    options: dict[str, Any]
    logits: np.ndarray
    labels: np.ndarray
    dtype: Dtype
    value: float
    gradient: np.ndarray


def crosscheck(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    names: str | Loss | Sequence[str | Loss] = LOSSES + PRESETS,
    against: Oracle | Sequence[Oracle] = ORACLES,
    dtype: Dtype = "float64",
    regions: int | Sequence[int] | None = None,
    adaptive_gradient: Mode | Literal["both"] = "both",
    where: ArrayLike | None = None,
    options: Mapping[str, Any] | None = None,
    tolerance: float | None = None,
    directions: int = 4,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Comparison]:
    """Compares the value and the gradient by the logits of losses with those of independent oracles.

    Closed forms are computed in float64 whatever `dtype` is, finite differences on the package's own loss in float64,
    PyTorch in `dtype`. With stopped penalties a finite difference of the loss is not its gradient; there it is taken
    with the penalties frozen at the given logits.

    Args:
        logits: `[b, *space, c]`, two or three spatial axes, finite.
        labels: `[b, *space]`, integers in `[0, c)`.
        names: losses of `LOSSES` and `PRESETS`, an `Objective`, or functions `(logits, labels) -> scalar` of your own;
            one alone or several. Functions have finite differences only, which are no gradient where a function stops
            one.
        against: the oracles, one or several of `ORACLES`.
        dtype: what the package computes in. The process's own setting of double precision is left as it was.
        regions: number per axis of the regional losses, unless given the paper's 16, or the side where that is smaller;
            the others are of the whole volume.
        adaptive_gradient: the mode of `adaptive_region_specific`, or both, one after the other.
        where: `[b, *space]`, false takes a voxel out of every sum.
        options: further ones by name, such as `min_penalty`, `reduction` or `class_weights`, for the losses that have
            them; the others keep their defaults. `regions` among them divides all losses that can be divided.
        tolerance: what the errors may be; `default_tolerance` unless given.
        directions: of finite differences: one along the gradient, the others random, each logit up or down by the
            same amount. A gradient that is wrong by a vector of relative length r shows in each as an error of about r.
        seed: decides the random directions.
        progress: called before each loss with the number done, the number of all and a name.

    Returns:
        One row per loss and oracle, in the order of the arguments; rows that could not be computed say why.

    Raises:
        ValueError: no such loss, oracle or type, an option that none of the losses has, fewer than two directions, or
            arrays that do not fit.

    Examples:
        >>> import numpy as np
        >>> from ars_jax import losses
        >>> from ars_jax.gradients.crosscheck import crosscheck
        >>> rng = np.random.default_rng(0)
        >>> logits, labels = rng.normal(size=(1, 4, 4, 4, 3)), rng.integers(0, 3, (1, 4, 4, 4))
        >>> rows = crosscheck(logits, labels, names="dice", against=["closed_form"])
        >>> rows[0].loss, rows[0].passed
        ('dice', True)
        >>> def mine(logits, labels):
        ...     return losses.dice(logits, labels, reduction="mean") ** 2
        >>> [(row.loss, row.passed) for row in crosscheck(logits, labels, names=mine, against="finite_differences")]
        [('own mine', True)]
    """
    functions = _functions([names] if isinstance(names, str) or callable(names) else names)
    against = [against] if isinstance(against, str) else against
    if where is not None and (own := [name for name in functions if name.startswith("own ")]):
        raise ValueError(f"where (=a mask) must be None beside {', '.join(own)}: apply the mask inside the function")
    _check("against", against, ORACLES)
    _check("dtype", [dtype], ("float64", "float32"))
    if directions < 2:
        raise ValueError(f"directions (={directions}) must be at least 2, one along the gradient and a random one")
    arrays = np.asarray(logits).astype(dtype), np.asarray(labels)
    taken = _taken_options(functions, options or {})
    regions = tuple(min(16, side) for side in arrays[0].shape[1:-1]) if regions is None else regions
    wanted = list(_options(functions, regions, adaptive_gradient, where, arrays[0].ndim - 2, taken))
    uncertainty = 1.0 if dtype == "float64" else _least_uncertainty(*arrays, where)
    rows = []
    for done, (label, name, own) in enumerate(wanted):
        if progress is not None:
            progress(done, len(wanted), label)
        subject = _subject(label, name, functions[name], own, *arrays, dtype)
        for oracle in against:
            allowed = default_tolerance(oracle, dtype, uncertainty) if tolerance is None else tolerance
            rows.append(_compared(subject, oracle, allowed, directions, seed, readable=tolerance is not None))
    return rows


def default_tolerance(against: Oracle, dtype: Dtype, uncertainty: float = 1.0) -> float:
    """Returns what the errors against an oracle may be.

    float64, closed forms and PyTorch, 1e-9: two routes to the same sums of n voxels differ by 1e-16 sqrt(n) or so, and
    by more where an oracle subtracts large sums from each other.
    Measured on a phantom of 110,592 voxels: 4e-15 for gradients, up to 1e-13 for values.
    float64, finite differences, 1e-7: the truncation is about 1e-12, the rounding of a loss L by 2e-16 L counts as
    2e-16 L / (h |slope|), and L / |slope| is up to sqrt(n) for a mean over n logits. Measured: 3e-11 at most.
    float32, 1e-4 + 16 u / uncertainty with u = 1.2e-7: a slope by a logit is proportional to p (1 - p), and other
    libraries know 1 - p of a p near 1 to a part of u / (1 - p) and no better. The largest slopes, to which errors are
    relative, are those of uncertain voxels, of the class with the largest weight. Measured with closed forms and
    PyTorch on 48^3 voxels: 1e-6 to 5e-5 for logits of margin 8 with noise of 1, 6e-4 without noise, where every
    1 - p is 7e-4.

    Args:
        against: the oracle.
        dtype: of the package's logits.
        uncertainty: the largest `1 - max_c p` among a class's voxels, of the class in which it is smallest.

    Returns:
        A bound for `Comparison.value_error` and `Comparison.gradient_error`.
    """
    if dtype == "float32":
        return 1e-4 + 16 * float(np.finfo(np.float32).eps) / max(uncertainty, 1e-30)
    return 1e-7 if against == "finite_differences" else 1e-9


def _least_uncertainty(logits: np.ndarray, labels: np.ndarray, where: ArrayLike | None) -> float:
    """Returns the uncertainty of `default_tolerance`, summed from the other classes so that it has its digits."""
    counted = np.ones(labels.shape, bool) if where is None else np.asarray(where, bool)
    z, labels = logits[counted].astype(np.float64), labels[counted]
    odds = np.exp(np.sort(z - z.max(-1, keepdims=True), axis=-1)[..., :-1]).sum(-1)
    return min((float((odds / (1 + odds))[labels == each].max()) for each in np.unique(labels)), default=0.0)


def _check(name: str, words: Sequence[str], allowed: Iterable[str]) -> None:
    unknown = [word for word in words if word not in allowed]
    if unknown or not words:
        raise ValueError(f"{name} (={', '.join(words) or 'none'}) must be of {', '.join(allowed) or 'no options'}")


def _functions(losses_: Sequence[str | Loss]) -> dict[str, Callable[..., jax.Array]]:
    """Returns the losses by name; functions of the user's are marked as such, and numbered where names repeat."""
    words = [loss for loss in losses_ if isinstance(loss, str)]
    if words or not losses_:
        _check("names", words, LOSSES + PRESETS)
    found: dict[str, Callable[..., jax.Array]] = {}
    for loss in losses_:
        if isinstance(loss, str):
            found[loss] = _public(loss)
            continue
        name = loss.name if isinstance(loss, losses.Objective) else getattr(loss, "__name__", type(loss).__name__)
        repeated = sum(label.startswith(f"own {name}") for label in found)
        found[f"own {name}" + (f" {repeated + 1}" if repeated else "")] = _scalar(loss)
    return found


def _scalar(loss: Any) -> Callable[..., jax.Array]:
    """Returns the total of an objective, and any other function as it is."""
    return (lambda logits, labels: loss(logits, labels)[0]) if isinstance(loss, losses.Objective) else loss


def _public(name: str) -> Callable[..., jax.Array]:
    return getattr(losses.presets if name in PRESETS else losses, name)


def _taken_options(
    functions: Mapping[str, Callable[..., jax.Array]], options: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Returns those of the options that each loss has."""
    known = {name: _known_options(name) for name in functions}
    if options:
        _check("options", list(options), sorted(set().union(*known.values())))
    return {name: {key: value for key, value in options.items() if key in known[name]} for name in functions}


def _known_options(name: str) -> set[str]:
    """Returns the options of a loss, without those that are arguments of the check."""
    return set(resolved_options(name, {})) - set(_ARGUMENTS) if name in LOSSES + PRESETS else set()


def _options(
    names: Iterable[str],
    regions: int | Sequence[int],
    mode: str,
    where: ArrayLike | None,
    spatial_dims: int,
    taken: Mapping[str, Mapping[str, Any]],
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields the label, the name and the options of every loss that is to be checked."""
    for name in names:
        options = dict(taken[name])
        if name not in LOSSES + PRESETS:
            yield name, name, options
            continue
        if name in _REGIONS:
            options.setdefault(_REGIONS[name], regions)
        if where is not None:
            options["where"] = np.asarray(where, bool)
        options["spatial_dims"] = spatial_dims
        if name != "adaptive_region_specific":
            yield name, name, options
            continue
        for each in ("through", "stop") if mode == "both" else (mode,):
            yield f"{name} ({each})", name, {**options, "adaptive_gradient": each}


def _subject(
    label: str,
    name: str,
    function: Callable[..., jax.Array],
    options: dict[str, Any],
    logits: np.ndarray,
    labels: np.ndarray,
    dtype: Dtype,
) -> _Subject:
    with jax.enable_x64(dtype == "float64"):
        value, gradient = jax.value_and_grad(_loss(function, labels, options))(jnp.asarray(logits))
        value, gradient = float(value), np.asarray(gradient, np.float64)
    return _Subject(label, name, function, options, logits, labels, dtype, value, gradient)


def _loss(
    function: Callable[..., jax.Array], labels: np.ndarray, options: dict[str, Any]
) -> Callable[[jax.Array], jax.Array]:
    return lambda logits: function(logits, jnp.asarray(labels), **options)


def _compared(
    subject: _Subject, oracle: Oracle, tolerance: float, directions: int, seed: int, *, readable: bool
) -> Comparison:
    if reason := _not_comparable(subject.name, oracle):
        return _row(subject, oracle, tolerance, passed=None, reason=reason)
    if not readable and tolerance > _UNREADABLE and np.isfinite(subject.gradient).all():
        reason = "the prediction is so certain that its gradient is below the rounding of float32"
        return _row(subject, oracle, tolerance, passed=None, reason=reason)
    if oracle == "finite_differences":
        value, mine, other = _slopes(subject, directions, seed)
        if not other.size:
            reason = "the loss is too flat: its slope is below the rounding of a difference"
            return _row(subject, oracle, tolerance, passed=None, reason=reason)
        return _errors(subject, oracle, tolerance, value, mine, other)
    if oracle == "closed_form":
        exact = subject.logits.astype(np.float64)
        value, other = closed_form.value_and_gradient(subject.name, exact, subject.labels, **subject.options)
        return _errors(subject, oracle, tolerance, value, subject.gradient, other)
    try:
        value, other = pytorch.value_and_gradient(subject.name, subject.logits, subject.labels, **subject.options)
    except ValueError as error:  # an option that the other side does not have, such as `where` in some of MONAI's
        return _row(subject, oracle, tolerance, passed=None, reason=str(error))
    return _errors(subject, oracle, tolerance, value, subject.gradient, np.asarray(other, np.float64))


def _not_comparable(name: str, oracle: Oracle) -> str:
    if oracle == "closed_form" and name not in LOSSES:
        return "presets have none" if name in PRESETS else "a function of your own has none"
    if oracle != "pytorch":
        return ""
    if name not in LOSSES + PRESETS:
        return "a function of your own has none"
    if not pytorch.available():
        return "PyTorch is not installed: pip install torch"
    return "" if name in pytorch.names() else "no such loss in PyTorch, or MONAI is not installed"


def _errors(
    subject: _Subject, oracle: Oracle, tolerance: float, other_value: float, mine: np.ndarray, other: np.ndarray
) -> Comparison:
    sides = {"the package": (subject.value, mine), oracle: (other_value, other)}
    broken = [side for side, (v, g) in sides.items() if not (math.isfinite(v) and np.isfinite(g).all())]
    if broken:
        reason = f"value or gradient of {' and '.join(broken)} is not finite"
        return _row(subject, oracle, tolerance, passed=False, reason=reason, other_value=other_value)
    value_error = abs(subject.value - other_value) / max(abs(other_value), 1)
    difference, largest = float(np.abs(mine - other).max()), float(np.abs(other).max())
    gradient_error = difference / largest if largest > 0 else math.inf if difference > 0 else 0.0
    return _row(
        subject,
        oracle,
        tolerance,
        other_value=other_value,
        value_error=value_error,
        cosine=_cosine(mine, other),
        gradient_error=gradient_error,
        passed=max(value_error, gradient_error) <= tolerance,
        reason="" if math.isfinite(gradient_error) else f"the gradient of {oracle} is 0, the package's is not",
    )


def _row(
    subject: _Subject, oracle: Oracle, tolerance: float, *, passed: bool | None, reason: str = "", **numbers: float
) -> Comparison:
    found = {"value": subject.value, "other_value": None, "value_error": None, "cosine": None, "gradient_error": None}
    finite = {k: v if v is not None and math.isfinite(v) else None for k, v in (found | numbers).items()}
    return Comparison(subject.label, oracle, subject.dtype, **finite, tolerance=tolerance, passed=passed, reason=reason)


def _cosine(x: np.ndarray, y: np.ndarray) -> float:
    lengths = float(np.linalg.norm(x) * np.linalg.norm(y))
    if lengths == 0:
        return float(not x.any() and not y.any())
    return float(np.clip(np.vdot(x, y) / lengths, -1, 1))


def _slopes(subject: _Subject, directions: int, seed: int) -> tuple[float, np.ndarray, np.ndarray]:
    """Returns the loss in float64, and the slopes along directions by the gradient and by differences of the loss.

    Both are in units of what a random direction of that size gives, |slope| being about 1; none at all where neither
    stands out from the rounding of a difference.
    """
    g = subject.gradient
    with jax.enable_x64(True):
        z = subject.logits.astype(np.float64)
        loss = _frozen(subject, z) if subject.options.get("adaptive_gradient") == "stop" else None
        loss = loss or _loss(subject.function, subject.labels, subject.options)
        value = float(loss(jnp.asarray(z)))
        rounding = np.finfo(np.float64).eps * abs(value) / _STEP
        slopes = []
        for direction in _directions(g, directions, seed):
            scale = float(np.linalg.norm(g * direction))
            pair = _difference(lambda z: float(loss(jnp.asarray(z))), z, g, direction)
            if max(abs(pair[1]), scale) * default_tolerance("finite_differences", "float64") <= rounding:
                return value, np.zeros(0), np.zeros(0)
            slopes.append(pair / (scale or 1))
    mine, other = np.array(slopes).T
    return value, mine, other


def _difference(loss: Callable[[np.ndarray], float], z: np.ndarray, g: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Returns the slopes at z by a gradient and by central differences of two widths, without their common error.

    Large logits round the steps, as 3e4 + 0.002 is off by 4e-12; the gradient's slope is taken along the steps that
    were made instead of those that were meant.
    """
    pairs = []
    for h in (_STEP, _STEP / 2):
        ahead, behind = z + h * direction, z - h * direction
        pairs.append(np.array([np.vdot(g, ahead - behind), loss(ahead) - loss(behind)]) / (2 * h))
    return (4 * pairs[1] - pairs[0]) / 3


def _directions(gradient: np.ndarray, count: int, seed: int) -> Iterator[np.ndarray]:
    """Yields the gradient's direction, its largest entry 1 (if it has one), and random ones of entries 1 and -1."""
    largest = np.abs(gradient).max()
    if largest > 0:
        yield gradient / largest
    rng = np.random.default_rng(seed)
    for _ in range(count - 1):
        yield rng.integers(0, 2, gradient.shape) * 2.0 - 1.0


def _frozen(subject: _Subject, logits: np.ndarray) -> Callable[[jax.Array], jax.Array]:
    """Returns the adaptive loss with the penalties that it has at the given logits."""

    def chosen(*keys: str) -> dict[str, Any]:
        return {key: subject.options[key] for key in keys if subject.options.get(key) is not None}

    labels = jnp.asarray(subject.labels)
    measured = chosen("regions", "where", "ignore_label", "spatial_dims")
    reduction = chosen("levels", "absent_classes", "reduction", "class_weights")

    def sums(logits: jax.Array) -> losses.OverlapStatistics:
        s = losses.overlap_statistics(logits, labels, **measured)
        s = s if subject.options.get("include_background", True) else s.foreground()
        return s.batch_total() if subject.options.get("batch_dice") else s

    levels = [sums(jnp.asarray(logits))]
    for _ in range(subject.options.get("levels", 1) - 1):
        levels.append(levels[-1].coarser())
    fixed = [losses.adaptive_weights(s, **chosen("min_penalty", "penalty_range", "exponent", "eps")) for s in levels]

    def loss(logits: jax.Array) -> jax.Array:
        left = iter(fixed)

        def of_level(s: losses.OverlapStatistics) -> jax.Array:
            fp_weight, fn_weight = next(left)
            return losses.tversky_loss(s, fp_weight=fp_weight, fn_weight=fn_weight, **chosen("eps"))

        return losses.pyramid_loss(of_level, sums(logits), **reduction)

    return loss
