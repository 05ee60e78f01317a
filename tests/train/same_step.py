"""Holds a training step on many devices against the same step on one."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from optax import tree_utils

from ars_jax.train.state import TrainState

Result = tuple[TrainState, dict[str, Any]]


def assert_same_step(found: Result, expected: Result) -> None:
    """Loss with its parts, gradients, running statistics and parameters, to 1e-5.

    Adam's first step is the sign of the gradient, so that of gradients near 0 it shows nothing but rounding.
    """
    (state, metrics), (single_state, single_metrics) = found, expected
    np.testing.assert_array_equal(state.step, single_state.step)
    for value, single_value in zip(jax.tree.leaves(metrics), jax.tree.leaves(single_metrics), strict=True):
        assert np.isfinite(single_value).all()
        np.testing.assert_allclose(value, single_value, rtol=1e-5)

    def pairs(part: Callable[[TrainState], Any]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        leaves = (jax.tree.leaves(part(one)) for one in (single_state, state))
        yield from ((np.asarray(first), np.asarray(second)) for first, second in zip(*leaves, strict=True))

    for single, spread in pairs(lambda one: one.batch_stats):
        np.testing.assert_allclose(spread, single, atol=1e-5)
    moments = list(pairs(lambda one: tree_utils.tree_get(one.opt_state, "mu")))
    largest = max(np.abs(single).max() for single, _ in moments)
    for (before, after), (single, spread) in zip(pairs(lambda one: one.params), moments, strict=True):
        np.testing.assert_allclose(spread, single, atol=1e-5 * np.abs(single).max())
        clear = np.abs(single) > 1e-4 * largest
        np.testing.assert_allclose(after[clear], before[clear], atol=1e-5)
