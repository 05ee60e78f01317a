"""Augmentation on a device beside that of the host: the same draws, the same labels, images but for rounding."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from ars_jax.data.augment import UNCHANGED, Augmentation, Draw, apply, draw
from ars_jax.data.plan import Sample
from ars_jax.data.staging import OUTSIDE, stage, staging_shape
from ars_jax.mesh import by_batch, make_mesh, put_batch
from ars_jax.resample import resample
from tests.small_runs import quick_compilation

CANVAS = (6, 9, 8)
SWAP = ((1, 254), (2, 3))
RANDOM = Augmentation((True, True, True), 0.3, (0.7, 1.4), 0.3, 0.2, SWAP)
LARGEST = (11, 20, 9)
STAGING = staging_shape(CANVAS, RANDOM.scale[0], LARGEST)
FILL = -1.5


@pytest.fixture(scope="module", autouse=True)
def quick(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    base = tmp_path_factory.getbasetemp()
    with quick_compilation(base):
        yield base


def sample_of(shape: tuple[int, ...], seed: int) -> Sample:
    rng = np.random.default_rng(seed)
    label = rng.choice(np.array([0, 1, 2, 3, 254], np.uint8), shape)
    return Sample("case", rng.normal(size=shape).astype(np.float32), label, rng.random(255) < 0.5)


SAMPLES = [sample_of(shape, seed) for seed, shape in enumerate([(5, 8, 7), LARGEST, (11, 5, 8), (6, 20, 9)] * 8)]
"""Smaller and larger than the canvas, along all axes or some."""


def staged_batch(draws: list[Draw], samples: list[Sample], swap: tuple[tuple[int, int], ...] = SWAP) -> dict:
    parts = [stage(drawn, sample, CANVAS, STAGING, swap, FILL) for drawn, sample in zip(draws, samples, strict=True)]
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}


def random_draws() -> list[Draw]:
    return [draw(np.random.default_rng(seed), one.image.shape, CANVAS, RANDOM) for seed, one in enumerate(SAMPLES)]


def assert_equal_to_host(found: dict[str, jax.Array], draws: list[Draw], samples: list[Sample]) -> None:
    for row, (drawn, sample) in enumerate(zip(draws, samples, strict=True)):
        expected = apply(drawn, sample, CANVAS, SWAP, FILL)
        np.testing.assert_array_equal(found["label"][row], expected.label)
        np.testing.assert_array_equal(found["labelled"][row], expected.labelled)
        np.testing.assert_allclose(found["image"][row, ..., 0], expected.image, atol=1e-5)


@pytest.fixture(scope="module")
def on_device() -> dict[str, jax.Array]:
    return jax.jit(partial(resample, canvas=CANVAS, swap=SWAP))(staged_batch(random_draws(), SAMPLES))


def test_a_device_makes_the_same_samples_as_the_host(on_device: dict[str, jax.Array]) -> None:
    """Labels to the last voxel, images but for rounding; flips, shifts, both ways of scaling, intensity."""
    draws = random_draws()
    assert {flip for drawn in draws for flip in drawn.flip} == {True, False}
    assert min(drawn.scale for drawn in draws) < 0.8 < 1.2 < max(drawn.scale for drawn in draws)
    assert_equal_to_host(on_device, draws, SAMPLES)


def test_shapes_and_types_are_those_of_the_loader(on_device: dict[str, jax.Array]) -> None:
    found = {name: (array.shape[1:], array.dtype.name) for name, array in on_device.items()}
    assert found == {
        "image": ((*CANVAS, 1), "float32"),
        "label": (CANVAS, "uint8"),
        "labelled": ((255,), "bool"),
    }


def test_eight_devices_equal_one(on_device: dict[str, jax.Array]) -> None:
    mesh = make_mesh()
    divided = jax.jit(partial(resample, canvas=CANVAS, swap=SWAP), out_shardings=by_batch(mesh))
    found = divided(put_batch(mesh, staged_batch(random_draws(), SAMPLES)))
    assert len(found["image"].sharding.device_set) == 8
    for name, array in found.items():
        np.testing.assert_allclose(array, on_device[name], atol=1e-6)


def test_what_is_not_drawn_is_placed() -> None:
    staged = staged_batch([UNCHANGED] * 4, SAMPLES[:4])
    found = jax.jit(partial(resample, canvas=CANVAS, swap=SWAP))(staged)
    for row, sample in enumerate(SAMPLES[:4]):
        expected = apply(UNCHANGED, sample, CANVAS, (), FILL)
        np.testing.assert_array_equal(found["label"][row], expected.label)
        np.testing.assert_allclose(found["image"][row, ..., 0], expected.image, atol=1e-6)


def test_a_sample_beside_the_canvas_leaves_it_empty() -> None:
    """On either side."""
    draws = [Draw(shift=(0, 0, 50)), Draw(shift=(-50, 0, 0))]
    assert (staged_batch(draws, SAMPLES[:2])["nearest"] == OUTSIDE).any(axis=1).all()
    found = jax.jit(partial(resample, canvas=CANVAS))(staged_batch(draws, SAMPLES[:2]))
    assert not np.any(found["label"])
    np.testing.assert_array_equal(found["image"], np.float32(FILL))


def test_no_draw_shows_more_than_is_staged() -> None:
    """A sample of the largest size fills the canvas from what was staged of it, at the smallest magnification too."""
    canvas, shape, scale = (16, 24, 32), (60, 70, 80), 0.85
    staging = staging_shape(canvas, scale, shape)
    assert staging == (21, 31, 40)
    sample = Sample("case", np.zeros(shape, np.float32), np.ones(shape, np.uint8), np.ones(2, bool))
    augmentation = Augmentation((True, True, True), 0.0, (scale, scale))
    for seed in range(50):
        staged = stage(draw(np.random.default_rng(seed), shape, canvas, augmentation), sample, canvas, staging, (), 0)
        assert (staged["nearest"] >= 0).all()
        assert (staged["below"] >= 0).all()
        assert (staged["above"][staged["weight"] > 0] >= 0).all()


def test_small_samples_are_staged_as_they_are() -> None:
    assert staging_shape((48, 48, 48), 0.9, (40, 48, 55)) == (40, 48, 55)
    assert staging_shape((48, 48, 48), 1.0, (90, 90, 90)) == (50, 50, 50)
