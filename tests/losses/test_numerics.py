"""Numbers at the edges: low precision, extreme logits, empty masks and large regions."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ars_jax import losses
from ars_jax.gradients import closed_form
from tests.losses.cases import (
    DIVISIBLE,
    FIELDS,
    REGIONS,
    SPACE,
    WHOLE,
    every_loss,
    every_loss_and_preset,
    gradient,
    loss,
    random_case,
    random_mask,
    region_map,
    statistics,
)
from tests.oracles import losses as oracle
from tests.oracles import partitions


def value_and_gradient(name: str, options: dict[str, Any], *arrays: Any, **masks: Any) -> tuple[float, np.ndarray]:
    value, by_logits = jax.value_and_grad(loss(name, **options))(*arrays, **masks)
    return float(value), np.asarray(by_logits, np.float64)


def assert_finite(value: float, by_logits: np.ndarray) -> None:
    assert np.isfinite(value)
    assert np.isfinite(by_logits).all()


_, LABELS = random_case(1, SPACE)
COUNTED = np.ones(LABELS.shape, bool)


def favouring(labels: np.ndarray, distance: float = 1e4) -> np.ndarray:
    """Logits that are sure of the given classes."""
    return np.where(oracle.references(labels, 3, 5) > 0, distance, -distance).astype(np.float32)


def ruled_out() -> np.ndarray:
    """Logits without class 2, as a network gives them whose classes are masked by -inf."""
    logits, _ = random_case(2, SPACE)
    logits[..., 2] = -np.inf
    return logits


EXTREMES: dict[str, tuple[np.ndarray, np.ndarray]] = {
    "perfect": (favouring(LABELS), LABELS),
    "all wrong": (favouring((LABELS + 1) % 3), LABELS),
    "class absent everywhere": (random_case(2, SPACE)[0], np.zeros_like(LABELS)),
    "class ruled out": (ruled_out(), np.minimum(LABELS, 1)),
    "all logits alike": (np.zeros((*LABELS.shape, 3), np.float32), LABELS),
}


@every_loss_and_preset
@pytest.mark.parametrize(("logits", "labels"), EXTREMES.values(), ids=EXTREMES.keys())
def test_value_and_gradient_are_finite_at_the_extremes(
    name: str, options: dict[str, Any], logits: np.ndarray, labels: np.ndarray
) -> None:
    assert_finite(*value_and_gradient(name, options, logits, labels, where=COUNTED))


@every_loss
def test_a_perfect_prediction_costs_nothing(name: str, options: dict[str, Any]) -> None:
    value, by_logits = value_and_gradient(name, options, *EXTREMES["perfect"], where=COUNTED)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    assert np.abs(by_logits).max() < 1e-6


@pytest.mark.parametrize("name", DIVISIBLE)
def test_a_wrong_prediction_costs_what_the_equation_says(name: str) -> None:
    options = {} if name in WHOLE else REGIONS
    levels = None if name in WHOLE else [partitions.grid(LABELS.shape, 2, 2, 2)]
    wanted = partitions.value(name, *EXTREMES["all wrong"], levels=levels)
    np.testing.assert_allclose(loss(name, **options)(*EXTREMES["all wrong"], where=COUNTED), wanted, rtol=1e-5)


@every_loss_and_preset
def test_masked_voxels_may_hold_anything(name: str, options: dict[str, Any]) -> None:
    """Not a number, infinities and labels that are no class, under a false mask."""
    logits, labels = random_case(3, SPACE)
    where = random_mask(4, SPACE)
    wanted = value_and_gradient(name, options, logits, labels, where=where)
    for rubbish in (np.nan, np.inf, -np.inf):
        spoilt = np.where(where[..., None], logits, np.float32(rubbish))
        value, by_logits = value_and_gradient(name, options, spoilt, np.where(where, labels, 255), where=where)
        assert value == wanted[0]
        np.testing.assert_array_equal(by_logits, wanted[1])
        assert not by_logits[~where].any()


def test_cross_entropy_of_extreme_logits_is_their_distance() -> None:
    logits = np.array([[[[1e4, -1e4]], [[-1e4, 1e4]]]], np.float32)
    value, by_logits = value_and_gradient("cross_entropy", {"spatial_dims": 2}, logits, np.zeros((1, 2, 1), np.int32))
    assert value == 1e4
    np.testing.assert_allclose(by_logits[0, 1, 0], [-0.5, 0.5])
    assert not by_logits[0, 0].any()


@every_loss
def test_a_wholly_masked_batch_gives_zero_and_no_gradient(name: str, options: dict[str, Any]) -> None:
    logits, labels = random_case(2, SPACE)
    value, by_logits = value_and_gradient(name, options, logits, labels, where=np.zeros(labels.shape, bool))
    assert value == 0
    assert not by_logits.any()


@every_loss
def test_a_wholly_masked_sample_counts_as_zero_in_the_mean(name: str, options: dict[str, Any]) -> None:
    logits, labels = random_case(3, SPACE)
    where = np.array([True, False])[:, None, None, None] & np.ones(labels.shape, bool)
    run = loss(name, **options)
    np.testing.assert_allclose(run(logits, labels, where=where), run(logits[:1], labels[:1]) / 2, rtol=2e-6)


@every_loss
def test_a_volume_of_one_voxel_has_a_finite_loss(name: str, options: dict[str, Any]) -> None:
    logits, labels = random_case(5, (1, 1, 1))
    value, by_logits = value_and_gradient(
        name, {**options, **({"regions": 1} if "regions" in options else {})}, logits, labels
    )
    assert_finite(value, by_logits)
    assert value > 0 and by_logits.any()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
def test_low_precision_logits_are_summed_in_float32(dtype: Any) -> None:
    """131,072 voxels in one region: float16 ends at 65,504 and bfloat16 stops counting at 256."""
    rng = np.random.default_rng(5)
    logits = jnp.asarray(rng.normal(size=(1, 64, 64, 32, 2)), dtype)
    labels = rng.integers(0, 2, (1, 64, 64, 32)).astype(np.uint8)
    wanted = oracle.statistics(np.asarray(logits, np.float64), labels)
    one_region = region_map(np.zeros(labels.shape, np.int32), 1)
    for regions in ({}, {"regions": (3, 1, 1)}, {"regions": one_region}):
        found = statistics(logits, labels, **regions).total()
        for name in FIELDS:
            value = getattr(found, name)
            assert value.dtype == jnp.float32, name
            np.testing.assert_allclose(np.ravel(value), np.ravel(wanted[name]), rtol=1e-5, err_msg=name)
        assert np.ravel(found.voxels) == 131_072


@pytest.mark.parametrize("regions", [{}, {"regions": (3, 1, 1)}, {"regions": 2}], ids=["whole", "grid", "map"])
def test_faint_probabilities_are_not_lost_in_a_large_sum(regions: dict[str, Any]) -> None:
    """Beside 131,072 voxels of nearly 1, one chain of float32 additions drops every further 0.001."""
    rng = np.random.default_rng(9)
    space = (64, 64, 64)
    labels = rng.integers(0, 2, (1, *space)).astype(np.uint8)
    p = np.where(labels == 1, 0.9999, 1e-3).astype(np.float32)
    probabilities = np.stack([1 - p, p], -1)
    if regions == {"regions": 2}:
        regions = {"regions": region_map(np.zeros(labels.shape, np.int32), 2)}
    found = statistics(probabilities, labels, from_probabilities=True, **regions).total()
    false_positives = p[labels == 0].sum(dtype=np.float64)
    np.testing.assert_allclose(found.predicted[0, 1], p.sum(dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(found.false_positives[0, 1], false_positives, rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
def test_low_precision_logits_get_gradients_of_their_own_type(dtype: Any) -> None:
    logits, labels = random_case(6, SPACE)
    low = jnp.asarray(logits, dtype)
    value, by_logits = jax.value_and_grad(partial(losses.adaptive_region_specific, regions=2))(low, labels)
    assert value.dtype == jnp.float32 and by_logits.dtype == dtype
    wanted = jax.grad(partial(losses.adaptive_region_specific, regions=2))(low.astype(jnp.float32), labels)
    np.testing.assert_allclose(by_logits.astype(jnp.float32), wanted, rtol=1e-2, atol=1e-3 * np.abs(wanted).max())


@pytest.mark.parametrize("distance", [4.0, 8.0, 12.0, 20.0])
@pytest.mark.parametrize("mode", ["through", "stop"])
def test_nearly_perfect_large_regions_keep_their_adaptive_loss(distance: float, mode: str) -> None:
    """P - I and G - I are small differences of large sums: their rounding must not become a loss or a spike."""
    rng = np.random.default_rng(7)
    labels = (rng.random((1, 48, 48, 48)) < 0.4).astype(np.int32)
    noise = rng.normal(scale=0.5, size=labels.shape)
    logits = np.stack([np.zeros(labels.shape), np.where(labels == 1, distance, -distance) + noise], -1)
    logits = logits.astype(np.float32)
    value, by_logits = value_and_gradient(
        "adaptive_region_specific", {"regions": 1, "adaptive_gradient": mode}, logits, labels
    )
    np.testing.assert_allclose(value, oracle.adaptive_region_specific(logits, labels, regions=1), rtol=1e-3, atol=1e-6)
    slope = oracle.adaptive_slope(0.3, 0.4, 1e-7, mode)
    wanted = oracle.closed_form_gradient(slope, logits, labels, regions=1)
    assert np.isfinite(by_logits).all()
    rounding = 1e-12  # of slopes 1 / G times the spacing of float32 below 1
    np.testing.assert_allclose(by_logits, wanted, rtol=5e-2, atol=2e-2 * np.abs(wanted).max() + rounding)


def test_small_errors_keep_their_digits_beside_large_sums() -> None:
    """P - I and G - I would leave a few rounded units of P; a near-perfect score needs the errors themselves."""
    logits, labels = random_case(8, (40, 48, 64), classes=2, batch=1, block=16)
    logits += 18 * (labels[..., None] == np.arange(2))
    found, wanted = statistics(logits, labels), oracle.statistics(logits, labels)
    assert (wanted["false_positives"] < 1e-5 * wanted["reference"]).all()
    np.testing.assert_allclose(np.ravel(found.false_positives), np.ravel(wanted["false_positives"]), rtol=1e-3)
    for name in ("dice", "sensitivity_specificity"):
        value, slope = closed_form.value_and_gradient(name, logits, labels)
        np.testing.assert_allclose(loss(name)(logits, labels), value, rtol=1e-3, err_msg=name)
        error = np.abs(gradient(name)(logits, labels) - slope).max() / np.abs(slope).max()
        assert error < 1e-3, (name, error)


def test_a_mask_of_any_integers_takes_voxels_out_and_weighs_none() -> None:
    """Of a shape that no other test has: both programs are then compiled here, with the same optimisation."""
    space = (8, 5, 4)
    logits, labels = random_case(8, space)
    where = random_mask(9, space)
    wanted = loss("dice")(logits, labels, where=where)
    assert loss("dice")(logits, labels, where=where.astype(np.uint8) * 255) == wanted


@pytest.mark.parametrize("trace", [2e-38, 1e-20, 1e-3])
def test_a_trace_of_a_class_weighs_no_more_than_a_voxel(trace: float) -> None:
    logits, labels = random_case(8, SPACE)
    labels[labels == 2] = 0
    labels[:, 0, 0, 0] = 2
    soft = np.array(labels[..., None] == np.arange(3), np.float32)
    voxel = float(loss("generalized_dice")(logits, soft))
    soft[:, 0, 0, 0] = [1 - trace, 0, trace]
    value, by_logits = value_and_gradient("generalized_dice", {}, logits, soft)
    assert_finite(value, by_logits)
    np.testing.assert_allclose(value, voxel, rtol=0.05)


def test_references_may_be_differentiated_beside_a_masked_class() -> None:
    logits, soft = random_case(8, SPACE, soft=True)
    logits[..., 2], soft[..., 2] = -np.inf, 0
    assert np.isfinite(jax.grad(loss("cross_entropy"), argnums=1)(logits, soft)).all()


def test_statistics_and_maps_can_be_compared() -> None:
    ids = region_map(np.zeros((1, *SPACE), np.int32), 1)
    assert ids == ids and ids != region_map(ids.ids, 1)
