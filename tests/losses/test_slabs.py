"""The pass over the volume in slabs: any slab gives the same sums, and nothing as large as the volume is kept."""

import inspect
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ars_jax import losses
from ars_jax.losses import _pass as module
from tests.losses.cases import FIELDS, loss, random_case, random_mask, region_map

LARGEST = 2**62


def summed(grid: Any, elements: int, monkeypatch: pytest.MonkeyPatch, *arrays: Any) -> tuple[Any, np.ndarray]:
    """Statistics, and the gradient of a function of them all, with slabs of at most so many logits."""
    monkeypatch.setattr(module, "SLAB_ELEMENTS", {"cpu": elements})
    logits, labels, where, regions = arrays
    bounds = losses.region_bounds(logits.shape[1:-1], regions=grid)

    def curved(logits: jax.Array) -> tuple[jax.Array, losses.OverlapStatistics]:
        sums = inspect.unwrap(module.sum_slabs)(bounds, False, logits, labels, where, regions)
        found = losses.OverlapStatistics(*sums)
        return jnp.stack([(getattr(found, name) ** 2).sum() for name in FIELDS]).sum(), found

    slopes, found = jax.jit(jax.grad(curved, has_aux=True))(logits)
    return found, np.asarray(slopes)


@pytest.mark.parametrize(
    ("space", "grid", "widths"),
    [((4, 12, 3), (2, 6, 1), (1, 4, 8)), ((3, 7, 5), (1, 3, 2), (1, 3)), ((6, 8), "map", (2, 3))],
    ids=["regions alike", "prime sides", "2-D map"],
)
def test_slabs_of_any_width_give_the_same_sums(
    space: tuple[int, ...], grid: Any, widths: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slabs of a part of a region, of several regions, of the whole volume, and a last one that is narrower."""
    logits, labels = random_case(1, space)
    where = random_mask(2, space)
    ids = np.random.default_rng(3).integers(-1, 3, labels.shape)
    grid, regions = (None, region_map(ids, 3)) if grid == "map" else (grid, None)
    row = logits[0].size // space[1]
    wanted, wanted_slopes = summed(grid, LARGEST, monkeypatch, logits, labels, where, regions)
    for width in widths:
        found, slopes = summed(grid, width * row, monkeypatch, logits, labels, where, regions)
        for name in FIELDS:
            np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-5, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(slopes, wanted_slopes, rtol=1e-5, atol=1e-5 * np.abs(wanted_slopes).max())


def mapped(logits: jax.Array, labels: jax.Array, ids: jax.Array, count: int) -> jax.Array:
    return loss("adaptive_region_specific")(logits, labels, regions=losses.RegionMap(ids, count))


def weighted(grid: Any, logits: jax.Array, labels: jax.Array, where: jax.Array) -> jax.Array:
    weights = {"dice": 1.0, "cross_entropy": 1.0, "adaptive_region_specific": 1.0}
    return losses.Objective(weights, regions=grid, adaptive_gradient="through")(logits, labels, where)[0]


@pytest.mark.parametrize(
    ("space", "function", "third"),
    [
        ((80, 96, 112), partial(weighted, 16), jnp.bool_),
        ((83, 97, 113), partial(weighted, (4, 7, 5)), jnp.bool_),
        ((80, 96, 112), partial(mapped, count=2000), jnp.uint16),
    ],
    ids=["regions that fit", "sides that do not divide", "map of many regions"],
)
def test_temporaries_are_at_most_as_large_as_the_logits(space: tuple[int, ...], function: Any, third: Any) -> None:
    """Value and gradient of baseline + ARS; plain jnp with one-hot labels holds 7 times the logits."""
    logits = jax.ShapeDtypeStruct((1, *space, 8), jnp.float32)
    labels = jax.ShapeDtypeStruct((1, *space), jnp.uint8)
    program = jax.jit(jax.value_and_grad(function)).lower(logits, labels, jax.ShapeDtypeStruct((1, *space), third))
    program = program.compile()
    analysis = program.memory_analysis()
    assert analysis is not None
    held = analysis.temp_size_in_bytes / (logits.size * 4)
    assert held <= 1.1, f"temporaries are {held:.2f} times the logits"
    volume = ",".join(map(str, logits.shape))
    types = set(re.findall(rf"(\w+)\[{volume}\]", program.as_text() or ""))
    assert types == {"f32"}, "a one-hot volume would be of another type, or a second one of float32"


def test_equal_shapes_are_traced_once() -> None:
    traces = []

    def function(logits: jax.Array, labels: jax.Array, where: jax.Array) -> jax.Array:
        traces.append(logits.shape)
        return weighted(2, logits, labels, where)

    run = jax.jit(jax.value_and_grad(function))
    for seed in (4, 5):
        run(*random_case(seed, (4, 4, 4)), random_mask(seed, (4, 4, 4)))
    assert len(traces) == 1
    run(*random_case(6, (6, 4, 4)), random_mask(6, (6, 4, 4)))
    assert len(traces) == 2
