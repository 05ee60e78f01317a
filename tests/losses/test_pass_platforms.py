"""The pass follows the platform that a program is lowered for, and every platform's way gives the same sums."""

import re
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from ars_jax import losses
from ars_jax.losses import _pass
from tests.losses.cases import FIELDS, SPACE, random_case, random_mask, region_map

pytestmark = pytest.mark.usefixtures("quick")
WEIGHTS = {"dice": 1.0, "cross_entropy": 1.0, "adaptive_region_specific": 1.0}
PLATFORMS = ("cpu", "cuda", "tpu")


@pytest.fixture
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Slabs of a sample's 60 logits: several along every axis of the small volumes here."""
    jax.clear_caches()
    monkeypatch.setattr(_pass, "SLAB_ELEMENTS", {"cpu": 60, "tpu": 60})
    yield
    jax.clear_caches()


def lowered(shape: tuple[int, ...], platform: str, grid: Any = 16) -> str:
    """Value and gradient of baseline + ARS for a platform, as the compiler gets it."""

    def value(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return losses.Objective(WEIGHTS, regions=grid)(logits, labels)[0]

    arrays = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(shape[:-1], jnp.uint8)
    return jax.jit(jax.value_and_grad(value)).trace(*arrays).lower(lowering_platforms=(platform,)).as_text()


def slabs(text: str) -> set[str]:
    """The shapes that are cut out of the logits."""
    return set(re.findall(r"dynamic_slice .*-> tensor<((?:\d+x){5})f32>", text))


@pytest.mark.parametrize(
    ("platform", "slab"), [("cpu", "1x128x1x256x15x"), ("tpu", "1x8x144x256x15x"), ("cuda", None)], ids=PLATFORMS
)
def test_slabs_are_those_of_the_platform_lowered_for(platform: str, slab: str | None) -> None:
    text = lowered((1, 128, 144, 256, 15), platform)
    assert slabs(text) == ({slab} if slab else set())
    assert ("stablehlo.while" in text) == bool(slab)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_a_batch_has_the_loops_of_a_sample(platform: str) -> None:
    one, eight = (slabs(lowered((batch, 128, 144, 256, 15), platform)) for batch in (1, 8))
    assert {re.sub("^8", "1", slab) for slab in eight} == one


def test_a_side_that_does_not_divide_has_one_narrower_slab() -> None:
    assert slabs(lowered((1, 149, 128, 128, 8), "tpu", grid=1)) == {"1x64x128x128x8x", "1x21x128x128x8x"}


@pytest.mark.parametrize("division", ["grid", "ragged grid", "map"])
@pytest.mark.parametrize("reference", ["labels", "soft", "probabilities"])
def test_every_platform_gives_the_same_sums_and_slopes(division: str, reference: str, small_slabs: None) -> None:
    """Run on this machine, whatever they are made for; masked, in slabs, the last one narrower."""
    logits, labels = random_case(1, SPACE, soft=reference == "soft")
    where = random_mask(2, SPACE)
    if reference == "probabilities":
        logits = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    others: Any = labels, where
    regions = region_map(np.random.default_rng(3).integers(-1, 5, where.shape), 5) if division == "map" else None
    bounds = losses.region_bounds(SPACE, {"grid": 2, "ragged grid": (3, 4, 3), "map": None}[division])

    def curved(logits: Any, platform: str, shards: int) -> tuple[Any, losses.OverlapStatistics]:
        volume = _pass.Volume(logits, others[0], others[1], regions)
        found = losses.OverlapStatistics(
            *_pass._sum_volume(bounds, reference == "probabilities", shards, platform, volume)
        )
        return jnp.stack([(getattr(found, name) ** 2).sum() for name in FIELDS]).sum(), found

    run = jax.jit(jax.grad(curved, has_aux=True), static_argnums=(1, 2))
    wanted_slopes, wanted = run(logits, "cuda", 1)
    assert np.abs(wanted_slopes).max() > 0 and not np.asarray(wanted_slopes)[~where].any()
    for platform, shards in (("cpu", 1), ("tpu", 1), ("cpu", 2), ("tpu", 4)):
        slopes, found = run(logits, platform, shards)
        for name in FIELDS:
            np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-5, atol=1e-6, err_msg=name)
        np.testing.assert_allclose(slopes, wanted_slopes, rtol=1e-5, atol=3e-6 * np.abs(wanted_slopes).max())


@pytest.mark.parametrize("kind", [np.int32, np.int16, np.uint16])
def test_labels_beyond_the_classes_are_of_no_class_on_every_platform(kind: type) -> None:
    """Also those that are a class when they are cut to a byte, as a GPU has them."""
    logits, inside = random_case(1, SPACE)
    outside = np.array([255, 256, 257, 1000] + ([-1, -256] if kind is not np.uint16 else []))
    beyond = np.random.default_rng(4).random(inside.shape) < 0.3
    labels: Any = np.where(beyond, np.random.default_rng(5).choice(outside, inside.shape), inside).astype(kind)
    bounds = losses.region_bounds(SPACE, 2)
    run = jax.jit(
        lambda x, platform: _pass._sum_volume(bounds, False, 1, platform, _pass.Volume(x, labels, None, None)),
        static_argnums=1,
    )
    for platform in ("cpu", "tpu", "cuda"):
        sums = run(logits, platform)
        np.testing.assert_allclose(sums.reference.sum((0, 1, 2, 3)), [(labels == c).sum() for c in range(3)])
        p = np.exp(logits.astype(np.float64)) / np.exp(logits.astype(np.float64)).sum(-1, keepdims=True)
        wanted = (p * (labels[..., None] != np.arange(3))).sum((0, 1, 2, 3))
        np.testing.assert_allclose(sums.false_positives.sum((0, 1, 2, 3)), wanted, rtol=1e-5)


@pytest.mark.parametrize("division", ["grid", "ragged grid", "map"])
def test_one_export_serves_all_platforms_and_any_batch(division: str, small_slabs: None) -> None:
    logits, labels = random_case(4, SPACE, batch=3)
    ids = np.random.default_rng(5).integers(-1, 5, labels.shape).astype(np.int32)
    loss = losses.Objective(WEIGHTS, regions={"grid": 2, "ragged grid": 3, "map": None}[division])

    def value(logits: jax.Array, labels: jax.Array, ids: jax.Array) -> jax.Array:
        return loss(logits, labels, regions=region_map(ids, 5) if division == "map" else None)[0]

    function = jax.jit(jax.value_and_grad(value))
    (batch,) = export.symbolic_shape("b")
    arrays = (logits, labels, ids)
    shapes = [jax.ShapeDtypeStruct((batch, *array.shape[1:]), array.dtype) for array in arrays]
    exported = export.export(function, platforms=PLATFORMS)(*shapes)
    wanted, found = function(*arrays), exported.call(*arrays)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-6)
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-5, atol=1e-6 * np.abs(wanted[1]).max())
