"""Gradients against float64 differences of the oracle, against closed forms, and of second order."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import pytest

from ars_jax import losses
from ars_jax.gradients.closed_form import value_and_gradient
from tests.losses.cases import LOSSES, SPACE, every_loss, gradient, loss, random_case, random_mask, statistics
from tests.oracles import losses as oracle
from tests.oracles import partitions

pytestmark = pytest.mark.usefixtures("quick")
OPTIONS: list[tuple[str, dict[str, Any]]] = [
    ("dice", {}),
    ("cross_entropy", {}),
    ("baseline", {"cross_entropy_weight": 0.4, "cross_entropy_reduction": "sum"}),
    ("tversky", {"absent_classes": "skip", "reduction": "mean"}),
    ("focal_tversky", {"gamma": 2.0}),
    ("generalized_dice", {}),
    ("sensitivity_specificity", {"sensitivity_weight": 0.4}),
    ("region_specific", {"regions": 2}),
    ("region_specific", {"regions": 3, "absent_classes": "include", "reduction": "class_mean", "eps": 1e-2}),
    ("adaptive_region_specific", {"regions": 2}),
    ("adaptive_region_specific", {"regions": 3, "reduction": "mean", "min_penalty": 0.1, "penalty_range": 0.8}),
    (
        "adaptive_region_specific",
        {"regions": losses.RegionSize(3), "absent_classes": "include", "reduction": "class_mean", "eps": 1e-2},
    ),
]


def assert_gradient_near(found: Any, wanted: np.ndarray, tolerance: float = 2e-5) -> None:
    """Float32 rounding is relative to the largest slope, as every slope is a difference of terms of that size."""
    np.testing.assert_allclose(np.asarray(found), wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max())


def assert_slopes_along_directions(value: Callable[[np.ndarray], float], logits: np.ndarray, slopes: Any) -> None:
    """Against central differences in float64 along three random directions."""
    for direction in np.random.default_rng(0).normal(size=(3, *logits.shape)):
        up, down = (value(np.float64(logits) + sign * 1e-5 * direction) for sign in (1, -1))
        terms = np.float64(slopes) * direction
        np.testing.assert_allclose(terms.sum(), (up - down) / 2e-5, atol=1e-6 * np.abs(terms).sum())


def equation(name: str, logits: np.ndarray, /, labels: np.ndarray, **options: Any) -> float:
    """The value by plain loops."""
    return (getattr(oracle, name, None) or partial(partitions.value, name))(logits, labels, **options)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize("case", OPTIONS, ids=lambda case: f"{case[0]}-{case[1]}")
def test_gradient_is_the_slope_of_the_equation(case: tuple[str, dict[str, Any]], soft: bool) -> None:
    name, options = case
    logits, labels = random_case(1, SPACE, soft=soft)
    where = random_mask(2, SPACE) if soft else None
    found = gradient(name, **options)(logits, labels, where=where)
    assert_slopes_along_directions(partial(equation, name, labels=labels, where=where, **options), logits, found)


def test_stopped_weights_are_constants_to_the_gradient() -> None:
    logits, labels = random_case(3, SPACE)
    frozen = partial(oracle.adaptive_region_specific, labels=labels, regions=2, frozen=logits)
    stopped = gradient("adaptive_region_specific", regions=2, adaptive_gradient="stop")(logits, labels)
    assert_slopes_along_directions(frozen, logits, stopped)
    through = gradient("adaptive_region_specific", regions=2, adaptive_gradient="through")(logits, labels)
    assert np.abs(np.asarray(through - stopped)).max() > 1e-2 * np.abs(np.asarray(stopped)).max()


@pytest.mark.parametrize("grid", [1, 2, 3])
def test_region_specific_gradient_is_its_closed_form(grid: int) -> None:
    logits, labels = random_case(4, SPACE)
    wanted = oracle.closed_form_gradient(oracle.dice_slope(1e-7), logits, labels, regions=grid)
    assert_gradient_near(gradient("region_specific", regions=grid)(logits, labels), wanted)


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft and masked"])
@every_loss
def test_float32_gradient_is_that_of_the_closed_form_in_float64(name: str, options: dict[str, Any], soft: bool) -> None:
    logits, labels = random_case(13, SPACE, soft=soft)
    where = random_mask(14, SPACE) if soft else None
    value, wanted = value_and_gradient(name, logits, labels, where=where, **options)
    found, slopes = jax.value_and_grad(loss(name, **options))(logits, labels, where=where)
    np.testing.assert_allclose(found, value, rtol=1e-5)
    assert_gradient_near(slopes, wanted)


@pytest.mark.parametrize("mode", ["through", "stop"])
@pytest.mark.parametrize("grid", [1, 2, 3])
def test_adaptive_gradient_is_its_closed_form(grid: int, mode: str) -> None:
    logits, labels = random_case(5, SPACE)
    where = random_mask(6, SPACE)
    slope = oracle.adaptive_slope(0.3, 0.4, 1e-7, mode)
    wanted = oracle.closed_form_gradient(slope, logits, labels, regions=grid, where=where)
    found = gradient("adaptive_region_specific", regions=grid, adaptive_gradient=mode)(logits, labels, where=where)
    assert_gradient_near(found, wanted)


@pytest.mark.parametrize(
    ("name", "options"),
    [case for case in LOSSES.values() if case[1].get("adaptive_gradient") != "stop"],
    ids=[case for case in LOSSES if "stopped" not in case],
)
def test_forward_over_reverse_is_the_slope_of_the_closed_form(name: str, options: dict[str, Any]) -> None:
    logits, labels = random_case(7, SPACE)
    direction = np.random.default_rng(8).normal(size=logits.shape).astype(np.float32)
    by_logits = gradient(name, **options)
    found = jax.jvp(lambda z: by_logits(z, labels), (logits,), (direction,))[1]
    step = 1e-4
    up, down = (
        value_and_gradient(name, np.float64(logits) + sign * step * direction, labels, **options)[1] for sign in (1, -1)
    )
    assert_gradient_near(found, (up - down) / (2 * step), tolerance=1e-4)


def test_stopped_weights_are_constants_to_the_second_derivative() -> None:
    logits, labels = random_case(7, SPACE)
    direction = np.random.default_rng(8).normal(size=logits.shape).astype(np.float32)
    by_logits = gradient("adaptive_region_specific", regions=2, adaptive_gradient="stop")
    found = jax.jvp(lambda z: by_logits(z, labels), (logits,), (direction,))[1]

    def frozen(along: float) -> float:
        moved = np.float64(logits) + along * direction
        return oracle.adaptive_region_specific(moved, labels, regions=2, frozen=logits)

    step = 1e-3
    wanted = (frozen(step) - 2 * frozen(0.0) + frozen(-step)) / step**2
    np.testing.assert_allclose((np.asarray(found) * direction).sum(), wanted, rtol=1e-4)


def test_reverse_over_reverse_equals_forward_over_reverse() -> None:
    logits, labels = random_case(9, SPACE)
    direction = np.random.default_rng(10).normal(size=logits.shape).astype(np.float32)
    by_logits = gradient("adaptive_region_specific", regions=2)
    forward = jax.jvp(lambda z: by_logits(z, labels), (logits,), (direction,))[1]
    reverse = jax.grad(lambda z: (by_logits(z, labels) * direction).sum())(logits)
    assert_gradient_near(reverse, np.asarray(forward))


def test_statistics_have_the_slopes_of_their_sums() -> None:
    """d/dp of I, P, P2 and Q are g, 1, 2p and 2pg, so a research tool may differentiate any function of them."""
    logits, labels = random_case(11, SPACE)
    p = oracle.softmax(logits).astype(np.float32)
    g = oracle.references(labels, 3, p.ndim)
    wanted = {
        "true_positives": g,
        "predicted": np.ones_like(g),
        "squared_predicted": 2 * p,
        "squared_true_positives": 2 * p * g,
    }
    for name, slope in wanted.items():

        def total(probabilities: jax.Array, name: str = name) -> jax.Array:
            return getattr(statistics(probabilities, labels, regions=2, from_probabilities=True), name).sum()

        np.testing.assert_allclose(jax.grad(total)(p), slope, rtol=1e-6, atol=1e-6, err_msg=name)


def test_a_region_wholly_of_one_class_has_no_error_over_others() -> None:
    """P2 - Q is then the rounding of two equal sums, which must not be divided by eps."""
    logits, _ = random_case(12, SPACE)
    labels = np.zeros((2, *SPACE), np.int32)
    options = {"regions": 3, "sensitivity_weight": 0.4}
    value, slopes = jax.value_and_grad(loss("sensitivity_specificity", **options))(logits, labels)
    wanted_value, wanted = value_and_gradient("sensitivity_specificity", logits, labels, **options)
    np.testing.assert_allclose(value, wanted_value, rtol=1e-5)
    assert_gradient_near(slopes, wanted)
