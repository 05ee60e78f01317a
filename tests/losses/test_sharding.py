"""Batch, depth or both spread over devices give what one device gives, without gathering the volume."""

from functools import cache
from typing import Any

import jax
import numpy as np
import pytest

from ars_jax import losses
from tests.losses.cases import DIVISIBLE, SPACE, random_case, region_map

pytestmark = pytest.mark.usefixtures("quick")
WEIGHTS = {**dict.fromkeys(DIVISIBLE, 0.5), "cross_entropy": 1.0, "adaptive_region_specific": 2.0}
LOGITS, LABELS = random_case(1, SPACE, batch=4)
WHERE = np.random.default_rng(2).random(LABELS.shape) < 0.8
IDS = np.random.default_rng(3).integers(-1, 6, LABELS.shape).astype(np.int32)
DIVISIONS: dict[str, dict[str, Any]] = {
    "grid": {"regions": (4, 2, 2), "adaptive_gradient": "stop"},
    "grid that does not fit": {"regions": 3, "absent_classes": "include", "reduction": "mean"},
    "map": {},
}


def arrays(division: str) -> list[Any]:
    """Logits, labels, mask and, for the map, the regions' numbers."""
    return [LOGITS, LABELS, WHERE, *([IDS] if division == "map" else [])]


@cache
def on_one_device(division: str) -> tuple[Any, Any]:
    """The compiled loss with its gradient, and its results."""
    combined = losses.Objective(WEIGHTS, **{"adaptive_gradient": "through", **DIVISIONS[division]})

    def total(logits: jax.Array, labels: jax.Array, where: jax.Array, ids: jax.Array | None = None) -> Any:
        return combined(logits, labels, where, None if ids is None else region_map(ids, 6))

    function = jax.jit(jax.value_and_grad(total, has_aux=True))
    return function, function(*arrays(division))


def spread(shape: tuple[int, int], values: list[Any]) -> list[jax.Array]:
    """Arrays [b, z, ...] with the batch over so many groups of devices and the depth over so many."""
    if jax.device_count() < 8:
        pytest.skip(f"needs 8 devices, found {jax.device_count()}: jax was started before tests/conftest.py could ask")
    devices = jax.devices()[: shape[0] * shape[1]]
    mesh = jax.make_mesh(shape, ("data", "space"), (jax.sharding.AxisType.Auto,) * 2, devices=devices)
    return [jax.device_put(value, jax.NamedSharding(mesh, jax.P("data", "space"))) for value in values]


@pytest.mark.parametrize(
    ("division", "shape"),
    [("grid", (1, 8)), ("grid that does not fit", (4, 2)), ("map", (2, 4))],
    ids=["depth", "both, a grid that does not fit", "both, a map"],
)
def test_many_devices_equal_one(division: str, shape: tuple[int, int]) -> None:
    """Devices need sums from each other and nothing else, also where a region lies on several of them."""
    function, ((total, parts), by_logits) = on_one_device(division)
    spread_arrays = spread(shape, arrays(division))
    program = function.lower(*spread_arrays).compile()
    (spread_total, spread_parts), spread_by_logits = program(*spread_arrays)

    assert set(parts) == set(spread_parts) == {*DIVISIBLE, "cross_entropy"}
    np.testing.assert_allclose(spread_total, total, rtol=2e-6)
    for name, value in parts.items():
        np.testing.assert_allclose(spread_parts[name], value, rtol=2e-6, err_msg=name)
    np.testing.assert_allclose(spread_by_logits, by_logits, rtol=1e-5, atol=2e-6 * np.abs(by_logits).max())
    assert spread_by_logits.sharding.is_equivalent_to(spread_arrays[0].sharding, LOGITS.ndim)
    text = program.as_text() or ""
    assert "all-reduce" in text
    for collective in ("all-gather", "all-to-all", "collective-permute"):
        assert collective not in text, collective
