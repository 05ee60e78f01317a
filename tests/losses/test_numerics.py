"""Numbers at the edges: low precision, extreme logits, empty masks, large regions, and the memory that is held."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ars_jax import losses
from tests.losses.cases import SPACE, loss, random_case, statistics
from tests.oracles import losses as oracle

EVERY: list[tuple[str, dict[str, Any]]] = [
    ("dice", {}),
    ("cross_entropy", {}),
    ("baseline", {}),
    ("tversky", {}),
    ("region_specific", {"grid": 2}),
    ("region_specific", {"grid": 2, "absent": "count"}),
    ("adaptive_region_specific", {"grid": 2}),
    ("adaptive_region_specific", {"grid": 2, "absent": "count", "adaptive_gradient": "stop"}),
    ("adaptive_region_specific", {"grid": 2, "absent": "count", "reduction": "class_mean"}),
]
every_loss = pytest.mark.parametrize(("name", "options"), EVERY, ids=[f"{name}-{options}" for name, options in EVERY])


def value_and_gradient(name: str, options: dict[str, Any], *arrays: Any, **masks: Any) -> tuple[float, np.ndarray]:
    value, by_logits = jax.value_and_grad(loss(name, **options))(*arrays, **masks)
    return float(value), np.asarray(by_logits, np.float64)


def assert_finite(value: float, by_logits: np.ndarray) -> None:
    assert np.isfinite(value)
    assert np.isfinite(by_logits).all()


@every_loss
@pytest.mark.parametrize("right", [True, False], ids=["perfect", "all wrong"])
def test_extreme_logits_give_finite_values_and_gradients(name: str, options: dict[str, Any], right: bool) -> None:
    _, labels = random_case(1, SPACE)
    favoured = labels if right else (labels + 1) % 3
    logits = np.where(oracle.references(favoured, 3, 5) > 0, 1e4, -1e4).astype(np.float32)
    value, by_logits = value_and_gradient(name, options, logits, labels)
    assert_finite(value, by_logits)
    np.testing.assert_allclose(value, 0, atol=1e-6) if right else None
    if not right and "entropy" not in name and name != "baseline":
        wanted = getattr(oracle, name)(
            logits, labels, **{key: option for key, option in options.items() if key != "adaptive_gradient"}
        )
        np.testing.assert_allclose(value, wanted, rtol=1e-5)


def test_cross_entropy_of_extreme_logits_is_their_distance() -> None:
    logits = np.array([[[[1e4, -1e4]], [[-1e4, 1e4]]]], np.float32)
    value, by_logits = value_and_gradient("cross_entropy", {}, logits, np.zeros((1, 2, 1), np.int32))
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


@pytest.mark.parametrize("name", ["baseline", "tversky", "adaptive_region_specific"])
def test_a_single_class_is_always_right(name: str) -> None:
    logits, labels = random_case(4, SPACE, classes=1)
    value, by_logits = value_and_gradient(name, {"grid": 2} if "region" in name else {}, logits, labels)
    assert value == pytest.approx(0, abs=1e-6)
    assert not by_logits.any()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
def test_low_precision_logits_are_summed_in_float32(dtype: Any) -> None:
    """131,072 voxels in one region: float16 ends at 65,504 and bfloat16 stops counting at 256."""
    rng = np.random.default_rng(5)
    logits = jnp.asarray(rng.normal(size=(1, 64, 64, 32, 2)), dtype)
    labels = rng.integers(0, 2, (1, 64, 64, 32)).astype(np.uint8)
    found = jax.jit(losses.overlap_statistics)(logits, labels).total()
    wanted = oracle.statistics(np.asarray(logits, np.float64), labels)
    for name in ("intersection", "predicted", "reference", "predicted_squared", "intersection_squared", "voxels"):
        value = getattr(found, name)
        assert value.dtype == jnp.float32, name
        np.testing.assert_allclose(np.ravel(value), np.ravel(wanted[name]), rtol=1e-5, err_msg=name)
    np.testing.assert_allclose(np.ravel(found.log_loss), np.ravel(wanted["log_loss"]), rtol=1e-5)
    assert np.ravel(found.voxels) == 131_072


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])
def test_low_precision_logits_get_gradients_of_their_own_type(dtype: Any) -> None:
    logits, labels = random_case(6, SPACE)
    low = jnp.asarray(logits, dtype)
    value, by_logits = jax.value_and_grad(partial(losses.adaptive_region_specific, grid=2))(low, labels)
    assert value.dtype == jnp.float32 and by_logits.dtype == dtype
    wanted = jax.grad(partial(losses.adaptive_region_specific, grid=2))(low.astype(jnp.float32), labels)
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
        "adaptive_region_specific", {"grid": 1, "adaptive_gradient": mode}, logits, labels
    )
    np.testing.assert_allclose(value, oracle.adaptive_region_specific(logits, labels, grid=1), rtol=1e-3, atol=1e-6)
    slope = oracle.adaptive_slope(0.3, 0.4, 1e-7, mode)
    wanted = oracle.closed_form_gradient(slope, logits, labels, grid=1)
    assert np.isfinite(by_logits).all()
    rounding = 1e-12  # of slopes 1 / G times the spacing of float32 below 1
    np.testing.assert_allclose(by_logits, wanted, rtol=5e-2, atol=2e-2 * np.abs(wanted).max() + rounding)


def test_rounding_cannot_make_an_error_negative() -> None:
    """Sums taken in another order may leave P or G a little below I; a negative error would leave [A, A + B]."""
    found = statistics(*random_case(8, SPACE), grid=2)
    less = found.intersection * np.float32(1 - 1e-6)
    rounded = dataclasses.replace(found, predicted=less, reference=less)
    assert not rounded.false_positives.any() and not rounded.false_negatives.any()
    weights = losses.adaptive_weights(rounded)
    assert all((0.3 <= weight).all() and (weight <= 0.7 + 1e-6).all() for weight in weights)


def test_no_one_hot_volume_is_stored() -> None:
    """Value and gradient of baseline + ARS hold less than 2.5 times the logits; plain jnp holds 7 times."""
    logits = jax.ShapeDtypeStruct((1, 64, 64, 64, 8), jnp.float32)
    labels = jax.ShapeDtypeStruct((1, 64, 64, 64), jnp.uint8)
    weights = {"dice": 1.0, "cross_entropy": 1.0, "adaptive_region_specific": 1.0}
    function = jax.jit(jax.value_and_grad(losses.weighted_sum(weights, grid=16), has_aux=True))
    analysis = function.lower(logits, labels).compile().memory_analysis()
    assert analysis is not None
    held = analysis.temp_size_in_bytes / (logits.size * 4)
    assert held < 2.5, f"temporaries are {held:.2f} times the logits"
