"""Meshes of Auto and of Explicit axes, and shard_map, give one device's values and gradients."""

import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ars_jax import losses
from ars_jax.losses import _pass
from ars_jax.losses._shardings import explicit_shards
from ars_jax.losses._statistics import sum_slabs
from tests.losses.cases import region_map

pytestmark = pytest.mark.usefixtures("quick")
WEIGHTS = {"dice": 1.0, "cross_entropy": 1.0, "adaptive_region_specific": 1.0}
SPACE = (24, 12, 8)
RNG = np.random.default_rng(0)
LOGITS: Any = RNG.normal(size=(8, *SPACE, 3)).astype(np.float32)
LABELS: Any = RNG.integers(0, 3, LOGITS.shape[:-1]).astype(np.uint8)
WHERE: Any = RNG.random(LABELS.shape) < 0.8
IDS: Any = RNG.integers(-1, 5, LABELS.shape).astype(np.int32)
GRIDS: dict[str, Any] = {"equal": 2, "unaligned": (2, 6, 2), "ragged": (5, 5, 3), "map": None}


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Slabs of four rows, so that everything here runs loops."""
    if jax.device_count() < 8:
        pytest.skip(f"needs 8 devices, found {jax.device_count()}: jax was started before tests/conftest.py could ask")
    jax.clear_caches()
    monkeypatch.setattr(_pass, "SLAB_ELEMENTS", {"cpu": 4 * LOGITS[0].size // SPACE[1]})
    yield
    jax.clear_caches()


def value(division: str, logits: Any, labels: Any, where: Any, ids: Any) -> jax.Array:
    regions = region_map(ids, 5) if division == "map" else None
    return losses.Objective(WEIGHTS, regions=GRIDS[division])(logits, labels, where, regions)[0]


def spread(arrays: Any, shape: tuple[int, int], kind: jax.sharding.AxisType) -> list[Any]:
    """Arrays with the batch over so many groups of devices and the depth over so many."""
    mesh = jax.make_mesh(shape, ("data", "space"), (kind, kind))
    return [jax.device_put(array, jax.NamedSharding(mesh, jax.P("data", "space"))) for array in arrays]


@pytest.mark.parametrize(
    ("division", "shape"), [("equal", (8, 1)), ("unaligned", (1, 8)), ("ragged", (2, 4)), ("map", (2, 4))]
)
@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit], ids=["Auto", "Explicit"])
def test_a_mesh_equals_one_device(division: str, shape: tuple[int, int], kind: jax.sharding.AxisType) -> None:
    arrays = (LOGITS, LABELS, WHERE, IDS)
    function = jax.jit(jax.value_and_grad(lambda *arrays: value(division, *arrays)))
    wanted = function(*arrays)
    placed = spread(arrays, shape, kind)
    with jax.set_mesh(placed[0].sharding.mesh):
        found = function(*placed)
    np.testing.assert_allclose(found[0], wanted[0], rtol=2e-6)
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-5, atol=2e-6 * np.abs(wanted[1]).max())
    assert found[1].sharding.is_equivalent_to(placed[0].sharding, LOGITS.ndim)


def test_arrays_on_explicit_axes_need_no_mesh_context() -> None:
    function = jax.jit(jax.value_and_grad(lambda *arrays: value("unaligned", *arrays)))
    wanted = function(LOGITS, LABELS, WHERE, IDS)
    found = function(*spread((LOGITS, LABELS, WHERE, IDS), (2, 4), jax.sharding.AxisType.Explicit))
    np.testing.assert_allclose(found[0], wanted[0], rtol=2e-6)
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-5, atol=2e-6 * np.abs(wanted[1]).max())


@pytest.mark.parametrize("division", GRIDS)
def test_shard_map_equals_one_device(division: str) -> None:
    arrays = (LOGITS, LABELS, WHERE, IDS)
    mesh = jax.make_mesh((8,), ("data",))
    function = jax.grad(lambda *arrays: value(division, *arrays))
    each = jax.jit(jax.shard_map(function, mesh=mesh, in_specs=jax.P("data"), out_specs=jax.P("data")))
    found = np.asarray(each(*(jax.device_put(array, jax.NamedSharding(mesh, jax.P("data"))) for array in arrays))) / 8
    wanted = np.asarray(jax.jit(function)(*arrays))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=2e-6 * np.abs(wanted).max())


@pytest.mark.parametrize("division", ["unaligned", "ragged", "map"])
def test_devices_along_the_depth_add_their_sums_up_once(division: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pass, "SLAB_ELEMENTS", {"cpu": LOGITS.size // SPACE[1] // 4})  # of a device's part
    bounds = losses.region_bounds(SPACE, GRIDS[division])
    regions = region_map(IDS, 5) if division == "map" else None

    def sums(logits: jax.Array, labels: jax.Array, where: jax.Array, ids: jax.Array, shards: int) -> Any:
        regions = region_map(ids, 5) if division == "map" else None
        return sum_slabs(bounds, False, logits, labels, where, regions, depth_shards=shards)

    arrays = (LOGITS, LABELS, WHERE, IDS)
    placed = spread(arrays, (1, 8), jax.sharding.AxisType.Auto)
    program = jax.jit(sums, static_argnums=4).lower(*placed, 8).compile()
    text = program.as_text() or ""
    assert " while(" in text
    assert len(re.findall(r" all-reduce(?:-start)?\(", text)) == 1
    names = ("all-reduce", "all-gather", "all-to-all", "collective-permute")
    exchanges = [line for line in text.splitlines() if any(f" {name}" in line for name in names)]
    assert not any("/while/" in line for line in exchanges), "devices meet within the loop"
    volumes = [line for line in exchanges if re.search(rf"\[8,\d+,\d+,{SPACE[2]},3\]", line)]
    assert not volumes, "devices exchange voxels"
    wanted = sum_slabs(bounds, False, LOGITS, LABELS, WHERE, regions)
    for found, expected in zip(jax.tree.leaves(program(*placed)), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_explicit_axes_say_how_the_depth_is_divided() -> None:
    """So that no argument has to."""
    logits, _ = spread((LOGITS, LABELS), (2, 4), jax.sharding.AxisType.Explicit)
    assert [explicit_shards(logits, axis) for axis in range(3)] == [2, 4, 1]
    assert explicit_shards(jnp.asarray(LOGITS), 1) is None


@pytest.mark.parametrize("kind", [jax.sharding.AxisType.Auto, jax.sharding.AxisType.Explicit], ids=["Auto", "Explicit"])
def test_shard_map_over_one_of_two_axes_equals_one_device(kind: jax.sharding.AxisType) -> None:
    arrays = (LOGITS, LABELS, WHERE, IDS)
    mesh = jax.make_mesh((2, 4), ("data", "space"), axis_types=(kind,) * 2)
    function = jax.grad(lambda *arrays: value("equal", *arrays))
    spec = jax.P("data")
    each = jax.jit(jax.shard_map(function, mesh=mesh, axis_names={"data"}, in_specs=spec, out_specs=spec))
    with jax.set_mesh(mesh):
        found = np.asarray(each(*(jax.device_put(array, jax.NamedSharding(mesh, spec)) for array in arrays))) / 2
    wanted = np.asarray(jax.jit(function)(*arrays))
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=2e-6 * np.abs(wanted).max())
