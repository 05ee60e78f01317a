"""Every loss with every option against its equation in float64 loops over masks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ars_jax import losses
from ars_jax.losses._checks import ArgumentError
from tests.losses.cases import (
    DIVISIBLE,
    LOSSES,
    PRESETS,
    SPACE,
    WHOLE,
    loss,
    public_losses,
    random_case,
    random_mask,
    region_map,
)
from tests.oracles import partitions

pytestmark = pytest.mark.usefixtures("quick")
SHAPE = (2, *SPACE)
IDS = np.random.default_rng(1).choice([0, 1, 2, 3, -1, 4], SHAPE).astype(np.int32)
HALF = partitions.grid(SHAPE, 2, 2, 2)
ONE = partitions.grid(SHAPE, 1, 1, 1)
MAP = partitions.ids(IDS, 4)
DIVISIONS: dict[str, tuple[dict[str, Any], list[partitions.Level]]] = {
    "grid": ({"regions": 2}, [HALF]),
    "map": ({"regions": region_map(IDS, 4)}, [MAP]),
    "pyramid": ({"regions": 2, "levels": 2}, [HALF, ONE]),
}
OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("grid", {}),
    "map": ("map", {}),
    "pyramid": ("pyramid", {"reduction": "mean"}),
    "class weights": ("grid", {"class_weights": [0.5, 2.0, 0.0]}),
    "no background": ("map", {"include_background": False, "class_weights": (1.0, 3.0), "reduction": "mean"}),
    "whole batch": ("grid", {"batch_dice": True, "reduction": "class_mean"}),
    "absent counted": ("map", {"absent_classes": "include", "reduction": "class_mean", "eps": 1e-2}),
}
SETTINGS: list[tuple[str, dict[str, Any]]] = [
    ("dice", {"squared": False}),
    ("tversky", {"fp_weight": 0.8, "fn_weight": 0.1}),
    ("focal_tversky", {"gamma": 2.0, "fp_weight": 0.5, "fn_weight": 0.5}),
    ("focal_tversky", {"gamma": 0.5}),
    ("sensitivity_specificity", {"sensitivity_weight": 0.4}),
    ("adaptive_region_specific", {"min_penalty": 0.1, "penalty_range": 0.8}),
    ("adaptive_region_specific", {"exponent": 2.0}),
    ("adaptive_region_specific", {"exponent": 0.5, "adaptive_gradient": "stop"}),
]


def assert_value_is_the_equation(name: str, division: str | None, *arrays: Any, **options: Any) -> None:
    regions, levels = DIVISIONS[division] if division else ({}, None)
    wanted = partitions.value(name, *arrays, levels=levels, **options)
    np.testing.assert_allclose(loss(name, **regions, **options)(*arrays), wanted, rtol=1e-5)


def test_every_public_loss_is_in_the_table_of_the_laws() -> None:
    assert public_losses(losses) == {name for name, _ in LOSSES.values()}
    assert {f"presets.{name}" for name in public_losses(losses.presets)} == PRESETS.keys()


@pytest.mark.parametrize("soft", [False, True], ids=["hard", "soft"])
@pytest.mark.parametrize(("division", "options"), OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("name", DIVISIBLE)
def test_an_option_means_its_equation(name: str, division: str, options: dict[str, Any], soft: bool) -> None:
    logits, labels = random_case(2, SPACE, soft=soft)
    where = random_mask(3, SPACE)
    assert_value_is_the_equation(name, division, logits, labels, where=where, **options)


@pytest.mark.parametrize(("name", "settings"), SETTINGS, ids=str)
def test_a_parameter_means_its_equation(name: str, settings: dict[str, Any]) -> None:
    logits, labels = random_case(4, SPACE)
    for division in [None, "grid"] if name in WHOLE else ["grid"]:
        assert_value_is_the_equation(name, division, logits, labels, **settings)


@pytest.mark.parametrize("name", DIVISIBLE)
def test_probabilities_give_the_loss_of_their_logits(name: str) -> None:
    logits, labels = random_case(5, SPACE)
    probabilities = partitions.softmax(logits).astype(np.float32)
    assert_value_is_the_equation(name, "grid", probabilities, labels, from_probabilities=True)


@pytest.mark.parametrize("errors", [0.0, 2.0**-22, 2.0**-21])
def test_focal_tversky_is_straight_below_a_millionth(errors: float) -> None:
    """The power's own slope at 0 would be infinite."""
    one = jnp.ones((1, 1))
    zero = dict.fromkeys(("false_negatives", "squared_false_positives", "squared_false_negatives", "log_loss"), 0 * one)

    def value(false_positives: jax.Array) -> jax.Array:
        s = losses.OverlapStatistics(false_positives=false_positives, reference=one, voxels=one, **zero)
        return losses.focal_tversky_loss(s, fp_weight=1.0, eps=0.0)[0, 0]

    found, slope = jax.value_and_grad(value)(errors * one)
    chord = 1e-6**0.75 / 1e-6
    np.testing.assert_allclose(found, errors * chord, rtol=1e-5)
    np.testing.assert_allclose(slope, chord, rtol=1e-5)


def test_class_weights_of_another_number_are_refused() -> None:
    logits, labels = random_case(7, SPACE)
    for name in (*DIVISIBLE, "cross_entropy"):
        regions = {"regions": 2} if "region" in name else {}
        with pytest.raises(ArgumentError) as caught:
            loss(name, class_weights=[1.0, 2.0], **regions)(logits, labels)
        assert (caught.value.name, caught.value.found) == ("class_weights.shape", (2,))
        assert "(3,)" in caught.value.wanted


def test_cross_entropy_weighs_its_mean_by_the_classes() -> None:
    logits, labels = random_case(8, SPACE)
    weights = np.array([1.0, 0.25, 4.0])
    log_loss = -np.take_along_axis(np.log(partitions.softmax(logits)), labels[..., None], -1)[..., 0]
    w = weights[labels]
    each = (w * log_loss).sum((1, 2, 3)) / w.sum((1, 2, 3))
    run = loss("cross_entropy", class_weights=weights)
    np.testing.assert_allclose(run(logits, labels), each.mean(), rtol=1e-5)
    together = (w * log_loss).sum() / w.sum()
    np.testing.assert_allclose(run(logits, labels, batch_dice=True), together, rtol=1e-5)
    total = (w * log_loss).sum() / 2
    np.testing.assert_allclose(run(logits, labels, reduction="sum"), total, rtol=1e-5)
