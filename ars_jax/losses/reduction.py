"""From a loss per region and class to one number."""

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import jax
import jax.numpy as jnp

from ars_jax.losses.statistics import OverlapStatistics

Absent = Literal["skip", "count"]
Reduction = Literal["sum", "mean", "class_mean"]
ClassWeights = Sequence[float] | jax.Array


def reduce_loss(
    values: jax.Array,
    statistics: OverlapStatistics,
    *,
    absent: Absent = "skip",
    reduction: Reduction = "sum",
    class_weights: ClassWeights | None = None,
) -> jax.Array:
    """Reduces a loss per region and class to one number per sample, then to its mean over the batch.

    Args:
        values: `[b, *grid, c]`, or `[b, *grid, 1]` of a loss of all classes together.
        statistics: those that the values were computed from.
        absent: `"skip"` leaves out pairs of region and class without any reference voxel, as the paper does; `"count"`
            keeps them, each adding about 1 to the sum, with gradients up to 1 / eps where the prediction is near 0.
        reduction: over the counted pairs, `"sum"` (the paper), `"mean"`, or `"class_mean"`: the mean over a class's
            counted regions, summed over classes, which is the scale of the global Dice loss.
        class_weights: factors of the classes' values, `[c]`; nothing is divided by their sum.

    Returns:
        A scalar; a sample without counted pairs gives 0.

    Raises:
        ValueError: another word for `absent` or `reduction`, or another number of class weights.
    """
    check_word("absent", absent, Absent)
    check_word("reduction", reduction, Reduction)
    present = statistics.reference > 0
    if values.shape[-1] == 1:
        present = present.any(-1, keepdims=True)
    counted = present if absent == "skip" else jnp.ones(values.shape, bool)
    values = jnp.where(counted, class_factors(class_weights, values) * values, 0)
    regions = tuple(range(1, values.ndim - 1))
    per_class, pairs = values.sum(regions), counted.sum(regions).astype(values.dtype)
    if reduction == "mean":
        return jnp.mean(per_class.sum(-1) / jnp.maximum(pairs.sum(-1), 1))
    if reduction == "class_mean":
        per_class = per_class / jnp.maximum(pairs, 1)
    return jnp.mean(per_class.sum(-1))


def pyramid_loss(
    loss: Callable[[OverlapStatistics], jax.Array],
    statistics: OverlapStatistics,
    *,
    levels: int = 1,
    absent: Absent = "skip",
    reduction: Reduction = "sum",
    class_weights: ClassWeights | None = None,
) -> jax.Array:
    """Mean of a loss over a pyramid of grids, each level reduced by itself.

    Args:
        loss: from statistics to values `[b, *grid, c]` or `[b, *grid, 1]`.
        statistics: those of the finest grid; each further level is the sum of pairs of regions along every axis.
        levels: grids, the finest among them; 1 is no pyramid.
        absent: see `reduce_loss`.
        reduction: see `reduce_loss`.
        class_weights: see `reduce_loss`.

    Returns:
        A scalar.

    Raises:
        ValueError: levels below 1, or a grid that cannot be halved so often; and as `reduce_loss`.
    """
    if levels < 1:
        raise ValueError(f"levels (={levels}) must be at least 1, the grid itself")
    results = []
    for level in range(levels):
        statistics = statistics.coarser() if level else statistics
        values = loss(statistics)
        results.append(reduce_loss(values, statistics, absent=absent, reduction=reduction, class_weights=class_weights))
    return jnp.stack(results).mean()


def check_word(name: str, word: str, allowed: object) -> None:
    """Raises a ValueError for a word that is not among those of a Literal type."""
    if word not in get_args(allowed):
        raise ValueError(f"{name} (={word!r}) must be one of {', '.join(map(repr, get_args(allowed)))}")


def check_positive(name: str, value: float | jax.Array) -> None:
    """Raises a ValueError for a number that is not above 0; a traced one cannot be looked at."""
    if isinstance(value, int | float) and not value > 0:
        raise ValueError(f"{name} (={value}) must be above 0")


def class_factors(weights: ClassWeights | None, values: jax.Array) -> jax.Array:
    """Returns weights shaped to multiply values `[b, *grid, c]`, ones where none are given."""
    classes = values.shape[-1]
    factors = jnp.ones(classes, values.dtype) if weights is None else jnp.asarray(weights, values.dtype)
    if factors.shape != (classes,):
        raise ValueError(f"class_weights of shape {factors.shape} must be {(classes,)}, one number per counted class")
    return factors.reshape((1,) * (values.ndim - 1) + (classes,))
