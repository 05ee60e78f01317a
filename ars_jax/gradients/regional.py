"""A prediction summed over regions in float64 NumPy, and slopes by these sums given back to its voxels."""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ars_jax.losses import _functions, presets
from ars_jax.losses._checks import suggest
from ars_jax.losses._regions import RegionMap, Regions, region_bounds
from ars_jax.losses._statistics import check_arrays, check_map, counted_voxels

Array = NDArray[np.float64]


class Voxels(NamedTuple):
    """Probabilities p, their logarithms and the references g, `[b, *space, c]`; the counted voxels, `[b, *space]`."""

    p: Array
    log_p: Array
    g: Array
    counted: NDArray[np.bool_]


class Level(NamedTuple):
    """Which region every voxel lies in.

    Attributes:
        ids: `[b, *space]`, `sample * per_sample + region`; `samples * per_sample` for voxels in no region.
        samples: b, or 1 where the batch is summed up as one sample.
        per_sample: regions of a sample.
    """

    ids: NDArray[np.int64]
    samples: int
    per_sample: int


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

    def scaled(self, factor: Array | float) -> "Slopes":
        """Returns the slopes of the loss times a factor."""
        return Slopes(*(factor * slope for slope in self))


def public_function(name: str) -> Callable[..., Any]:
    """Returns a function of `ars_jax.losses` or `ars_jax.losses.presets`."""
    return getattr(_functions, name, None) or getattr(presets, name)


def resolved_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns every option of a public loss or preset, the given value or the default.

    Args:
        name: a function of `ars_jax.losses` or `ars_jax.losses.presets`.
        options: of that function.

    Raises:
        TypeError: an option that the loss does not have.
    """
    parameters = inspect.signature(public_function(name)).parameters.values()
    defaults = {each.name: each.default for each in parameters if each.kind is each.KEYWORD_ONLY}
    for option in options:
        if option not in defaults:
            meant = suggest(option, list(defaults))
            raise TypeError(f"{name} has no option {option!r}" + (f": the option is {meant!r}" if meant else ""))
    return {**defaults, **options}


def voxels_of(
    logits: ArrayLike,
    labels: ArrayLike,
    *,
    where: ArrayLike | None,
    ignore_label: int | None,
    spatial_dims: int,
    from_probabilities: bool,
) -> Voxels:
    """Returns the softmax and the references of every voxel.

    Args:
        logits: `[b, *space, c]`.
        labels: `[b, *space]` integers, or `[b, *space, c]` one-hot or soft.
        where: `[b, *space]`, false leaves a voxel out; its logits may be anything.
        ignore_label: label whose voxels are left out.
        spatial_dims: 2 or 3.
        from_probabilities: `logits` holds probabilities; their logarithm is clipped at the smallest normal number.

    Raises:
        ValueError: shapes or a type of labels that do not fit.
    """
    x, labels = np.asarray(logits, np.float64), np.asarray(labels)
    counted = np.ones(x.shape[:-1], bool) if where is None else np.asarray(where)
    check_arrays(x, labels, counted, spatial_dims)
    counted = np.asarray(counted_voxels(labels, counted.astype(bool), ignore_label, x.ndim))
    x = np.where(counted[..., None], x, 0)
    g = labels if labels.ndim == x.ndim else labels[..., None] == np.arange(x.shape[-1])
    if from_probabilities:
        return Voxels(x, np.log(np.maximum(x, np.finfo(np.float64).tiny)), g.astype(np.float64), counted)
    x = x - x.max(-1, keepdims=True)
    log_p = x - np.log(np.exp(x).sum(-1, keepdims=True))
    return Voxels(np.exp(log_p), log_p, g.astype(np.float64), counted)


def pyramid(counted: NDArray[np.bool_], regions: Regions | None, *, levels: int, batch_dice: bool) -> Iterator[Level]:
    """Yields the regions of each level, the finest first.

    Each level is cut anew from the volume, not summed from the finer one.

    Args:
        counted: `[b, *space]`, false for voxels that are in no region.
        regions: division of the volume; None makes it one region.
        levels: grids of the pyramid, each with half the regions of the one before along every axis.
        batch_dice: whether a region is that of all samples together.

    Raises:
        ValueError: a division that does not fit the volume, or that cannot be halved so often.
    """
    if levels < 1:
        raise ValueError(f"levels (={levels}) must be at least 1, the grid itself")
    indices, counts = _finest(counted.shape, regions)
    if any(count % 2 ** (levels - 1) for count in counts):
        raise ValueError(f"a grid of {'x'.join(map(str, counts))} regions cannot be halved {levels - 1} times")
    samples = 1 if batch_dice else len(counted)
    sample = (np.arange(len(counted)) % samples).reshape(-1, *(1,) * (counted.ndim - 1))
    for level in range(levels):
        at, sides = [index >> level for index in indices], [count >> level for count in counts]
        inside, count = counted, math.prod(sides)
        for index, side in zip(at, sides, strict=True):
            inside = inside & (index >= 0) & (index < side)
        ids = sample * count + np.ravel_multi_index(at, sides, mode="clip")
        yield Level(np.where(inside, ids, samples * count), samples, count)


def _finest(shape: tuple[int, ...], regions: Regions | None) -> tuple[list[NDArray[np.int64]], list[int]]:
    """Returns a voxel's region along each axis of the grid, as arrays that broadcast, and the regions per axis."""
    if isinstance(regions, RegionMap):
        ids = np.asarray(regions.ids)
        check_map(regions, np.empty((*shape, 0)))
        return [ids], [regions.count]
    bounds = region_bounds(shape[1:], regions)
    along = [np.repeat(np.arange(len(axis)), np.diff(axis).ravel()) for axis in bounds]
    return list(np.ix_(*along)), [len(axis) for axis in bounds]


def sums_over(regions: Level, p: Array, log_p: Array, g: Array) -> Sums:
    """Sums a prediction over every region.

    Args:
        regions: the region of every voxel.
        p: probabilities, `[b, *space, c]`.
        log_p: their logarithms; read where g is not 0.
        g: references.

    Returns:
        Sums `[samples, regions, c]`.
    """

    def regional(x: Array) -> Array:
        number = regions.samples * regions.per_sample
        classes = x.reshape(-1, x.shape[-1]).T
        sums = [np.bincount(regions.ids.ravel(), one, minlength=number + 1)[:-1] for one in classes]
        return np.stack(sums, -1).astype(np.float64).reshape(regions.samples, regions.per_sample, -1)

    return Sums(
        intersection=regional(p * g),
        predicted=regional(p),
        reference=regional(g),
        predicted_squared=regional(p**2),
        intersection_squared=regional(p**2 * g),
        log_loss=-regional(np.multiply(g, log_p, out=np.zeros_like(p), where=g > 0)),
        voxels=regional(np.ones((*regions.ids.shape, 1))),
    )


def spread(slopes: Slopes, regions: Level, p: Array, g: Array) -> tuple[Array, Array]:
    """Gives every voxel the slopes of its region, 0 where it is in none.

    Args:
        slopes: of a loss by its sums, `[samples, regions, c]`.
        regions: the region of every voxel.
        p: probabilities, `[b, *space, c]`.
        g: references.

    Returns:
        L_P + g L_I + 2 p (L_P2 + g L_Q), the slope by p apart from the log-loss, and -g L_E, that by log p, both
        `[b, *space, c]`.
    """

    def at_voxels(x: Array | float) -> Array:
        flat = np.broadcast_to(x, (regions.samples, regions.per_sample, p.shape[-1])).reshape(-1, p.shape[-1])
        return np.pad(flat, ((0, 1), (0, 0)))[regions.ids]

    by_i, by_p, by_p2, by_q, by_e = map(at_voxels, slopes)
    return by_p + g * by_i + 2 * p * (by_p2 + g * by_q), -g * by_e
