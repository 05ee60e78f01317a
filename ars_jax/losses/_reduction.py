"""From a loss per region and class to one number."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from ars_jax.losses._checks import ArgumentError, check_integer, check_word
from ars_jax.losses._documented import documented
from ars_jax.losses._objective import AbsentClasses
from ars_jax.losses._statistics import OverlapStatistics
from ars_jax.losses._types import ClassWeights

Reduction = Literal["sum", "mean", "class_mean", "none"]


@documented
def reduce_loss(
    values: jax.Array,
    statistics: OverlapStatistics,
    *,
    absent_classes: AbsentClasses = "skip",
    class_weights: ClassWeights | None = None,
    reduction: Reduction = "sum",
) -> jax.Array:
    """Reduces a loss per region and class to one number per sample, then to its mean over the batch.

    An included pair without reference adds about 1 to the sum, with gradients up to 1 / eps where the prediction is
    near 0. Nothing is divided by the sum of the class weights.

    Returns:
        A scalar, 0 for samples without counted pairs; or with `"none"` the values, 0 for skipped pairs.
    """
    check_word("absent_classes", absent_classes, AbsentClasses)
    check_word("reduction", reduction, Reduction)
    present = statistics.reference > 0
    if values.shape[-1] == 1:
        present = present.any(-1, keepdims=True)
    counted = present if absent_classes == "skip" else jnp.ones(values.shape, bool)
    values = jnp.where(counted, class_factors(class_weights, values) * values, 0)
    if reduction == "none":
        return values
    regions = tuple(range(1, values.ndim - 1))
    per_class, pairs = values.sum(regions), counted.sum(regions).astype(values.dtype)
    if reduction == "mean":
        return jnp.mean(per_class.sum(-1) / jnp.maximum(pairs.sum(-1), 1))
    if reduction == "class_mean":
        per_class = per_class / jnp.maximum(pairs, 1)
    return jnp.mean(per_class.sum(-1))


@documented
def pyramid_loss(
    loss: Callable[[OverlapStatistics], jax.Array],
    statistics: OverlapStatistics,
    *,
    levels: int = 1,
    absent_classes: AbsentClasses = "skip",
    class_weights: ClassWeights | None = None,
    reduction: Reduction = "sum",
) -> jax.Array:
    """Mean of a loss over a pyramid of grids, each level reduced by itself.

    Args:
        loss: from statistics to values `[b, *grid, c]` or `[b, *grid, 1]`.

    Returns:
        A scalar; or with `reduction="none"`, of one level, the values.

    Raises:
        ValueError: levels below 1, or a grid that cannot be halved so often; and as `reduce_loss`.
    """
    check_integer("levels", levels, least=1)
    if levels > 1 and reduction == "none":
        raise ArgumentError("levels", levels, 'one for reduction="none": grids of several levels differ in shape')
    how = {"absent_classes": absent_classes, "class_weights": class_weights, "reduction": reduction}
    results = []
    for level in range(levels):
        statistics = statistics.coarser() if level else statistics
        results.append(reduce_loss(loss(statistics), statistics, **how))
    return results[0] if levels == 1 else jnp.stack(results).mean()


def class_factors(weights: ClassWeights | None, values: jax.Array) -> jax.Array:
    """Returns weights shaped to multiply values `[b, *grid, c]`, ones where none are given."""
    classes = values.shape[-1]
    factors = jnp.ones(classes, values.dtype) if weights is None else jnp.asarray(weights, values.dtype)
    if factors.shape != (classes,):
        raise ArgumentError("class_weights.shape", factors.shape, f"{(classes,)}, one number per counted class")
    return factors.reshape((1,) * (values.ndim - 1) + (classes,))
