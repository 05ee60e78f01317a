"""Batch and depth spread over eight devices give what one device gives, without gathering the volume."""

from typing import Any

import jax
import numpy as np
import pytest

from ars_jax import losses
from tests.losses.cases import SPACE, random_case

WEIGHTS = {"dice": 1.0, "cross_entropy": 1.0, "region_specific": 0.5, "adaptive_region_specific": 2.0}


def spread(*arrays: Any) -> list[jax.Array]:
    """Arrays [b, z, ...] with the batch over four groups of devices and the depth over two."""
    if jax.device_count() < 8:
        pytest.skip(f"needs 8 devices, found {jax.device_count()}: jax was started before tests/conftest.py could ask")
    mesh = jax.make_mesh((4, 2), ("data", "space"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    return [jax.device_put(array, jax.NamedSharding(mesh, jax.P("data", "space"))) for array in arrays]


@pytest.mark.parametrize(
    ("options", "fits"),
    [
        ({"grid": 1}, True),
        ({"grid": (4, 2, 2), "adaptive_gradient": "stop"}, True),
        ({"grid": 3, "absent": "count", "reduction": "mean"}, False),
    ],
    ids=["a region over all", "regions that fit", "regions that do not fit"],
)
def test_eight_devices_equal_one(options: dict[str, Any], fits: bool) -> None:
    """Regions that devices hold whole or share whole need sums from each other and nothing else."""
    logits, labels = random_case(1, SPACE, batch=4)
    where = np.random.default_rng(2).random(labels.shape) < 0.8
    function = jax.jit(jax.value_and_grad(losses.weighted_sum(WEIGHTS, **options), has_aux=True))
    (total, parts), by_logits = function(logits, labels, where)
    arrays = spread(logits, labels, where)
    program = function.lower(*arrays).compile()
    (spread_total, spread_parts), spread_by_logits = program(*arrays)

    np.testing.assert_allclose(spread_total, total, rtol=2e-6)
    for name, value in parts.items():
        np.testing.assert_allclose(spread_parts[name], value, rtol=2e-6, err_msg=name)
    np.testing.assert_allclose(spread_by_logits, by_logits, rtol=1e-5, atol=2e-6 * np.abs(by_logits).max())
    assert spread_by_logits.sharding.is_equivalent_to(arrays[0].sharding, logits.ndim)
    text = program.as_text() or ""
    assert "all-reduce" in text
    if fits:
        for collective in ("all-gather", "all-to-all", "collective-permute"):
            assert collective not in text, collective
