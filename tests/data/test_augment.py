import itertools

import numpy as np
import pytest
from scipy import ndimage

from ars_jax.data import augment as module
from ars_jax.data.augment import (
    UNCHANGED,
    Augmentation,
    Draw,
    apply,
    draw,
    exchange_table,
    sample_linear,
    sample_nearest,
    shift_limit,
    source_line,
)
from ars_jax.data.plan import Sample
from ars_jax.data.prepare import pad_to
from tests.oracles import resample as oracle

SHAPE = (7, 8, 9)
EVERYTHING = Augmentation((True, True, True), 0.2, (0.8, 1.25), 0.3, 0.2, ((1, 2),))


def sample_of(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Sample:
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 4, shape, dtype=np.uint8)
    return Sample("case", rng.normal(size=shape).astype(np.float32), label, np.array([True, True, False, True]))


def augment(
    rng: np.random.Generator, sample: Sample, canvas: tuple[int, ...], augmentation: Augmentation, fill: float
) -> Sample:
    return apply(draw(rng, sample.label.shape, canvas, augmentation), sample, canvas, augmentation.swap, fill)


def place(sample: Sample, canvas: tuple[int, ...], fill: float) -> Sample:
    return apply(UNCHANGED, sample, canvas, (), fill)


def lines_of(shape: tuple[int, ...], canvas: tuple[int, ...], **change) -> list[np.ndarray]:
    return [source_line(side, target, **change) for side, target in zip(shape, canvas, strict=True)]


@pytest.mark.parametrize("change", [{"scale": 1.23, "shift": 1.7}, {"scale": 0.7, "flip": True}, {"shift": -2.0}])
def test_sampling_equals_loops_over_voxels(change):
    sample, lines = sample_of(), lines_of(SHAPE, (6, 10, 9), **change)
    np.testing.assert_allclose(
        sample_linear(sample.image, lines, -1), oracle.linear(sample.image, lines, -1), atol=1e-6
    )
    np.testing.assert_array_equal(sample_nearest(sample.label, lines), oracle.nearest(sample.label, lines))


def test_sampling_equals_scipy_affine_transform():
    sample, canvas = sample_of(), (10, 6, 12)
    lines = lines_of(SHAPE, canvas, scale=1.1, shift=0.4)
    matrix = np.eye(4)
    matrix[:3, :3] = np.diag([line[1] - line[0] for line in lines])
    matrix[:3, 3] = [line[0] for line in lines]
    expected = ndimage.affine_transform(
        sample.image, matrix, output_shape=canvas, order=1, mode="grid-constant", cval=-3.0
    )
    np.testing.assert_allclose(sample_linear(sample.image, lines, -3.0), expected, atol=1e-5)


@pytest.mark.parametrize("size", [1, 700])
def test_slabs_are_the_whole(monkeypatch, size):
    """One plane at a time, or two and a rest of one."""
    sample, lines = sample_of(), lines_of(SHAPE, (5, 10, 9), scale=1.23, shift=1.7)
    whole = sample_linear(sample.image, lines, -1)
    monkeypatch.setattr(module, "_SLAB_BYTES", size)
    np.testing.assert_array_equal(sample_linear(sample.image, lines, -1), whole)


def test_a_draw_is_plain_numbers():
    """So that it is printed, compared and written down as it is."""
    drawn = draw(np.random.default_rng(7), SHAPE, SHAPE, EVERYTHING)
    numbers = (*drawn.shift, drawn.scale, drawn.factor, drawn.offset)
    assert {type(number) for number in numbers} == {float}
    assert {type(flip) for flip in drawn.flip} == {bool}


def test_the_highest_channel_is_exchanged_too():
    label = np.arange(255, dtype=np.uint8).reshape(1, 1, 255)
    sample = Sample("case", np.zeros(label.shape, np.float32), label, np.arange(255) != 254)
    result = apply(Draw(flip=(False, False, True)), sample, label.shape, ((1, 254),), 0)
    expected = exchange_table(255, ((1, 254),))[label[..., ::-1]]
    np.testing.assert_array_equal(result.label, expected)
    assert np.flatnonzero(~result.labelled).tolist() == [1]
    assert result.label.flags.writeable


def test_without_change_the_sample_is_copied():
    sample = sample_of()
    for result in (augment(np.random.default_rng(0), sample, SHAPE, Augmentation(), -1), place(sample, SHAPE, -1)):
        np.testing.assert_array_equal(result.image, sample.image)
        np.testing.assert_array_equal(result.label, sample.label)
        np.testing.assert_array_equal(result.labelled, sample.labelled)
        assert not np.shares_memory(result.image, sample.image)


def test_flipping_twice_gives_the_sample_back():
    sample = sample_of()
    lines = lines_of(SHAPE, SHAPE, flip=True)
    once = sample_linear(sample.image, lines, 0)
    np.testing.assert_array_equal(once, sample.image[::-1, ::-1, ::-1])
    np.testing.assert_array_equal(sample_linear(once, lines, 0), sample.image)


def flipped_along_x(augmentation: Augmentation) -> tuple[Sample, Sample]:
    """A sample and its augmentation by the first generator that flips it."""
    sample = sample_of()
    for seed in itertools.count():
        if np.random.default_rng(seed).random(3)[2] < 0.5:
            return sample, augment(np.random.default_rng(seed), sample, SHAPE, augmentation, -1)
    raise AssertionError


def test_flip_along_x_swaps_left_and_right():
    sample, result = flipped_along_x(Augmentation(flip=(False, False, True), swap=((1, 2),)))
    mirrored = sample.label[:, :, ::-1]
    for before, after in ((0, 0), (1, 2), (2, 1), (3, 3)):
        np.testing.assert_array_equal(mirrored == before, result.label == after)
    np.testing.assert_array_equal(result.image, sample.image[:, :, ::-1])
    assert result.labelled.tolist() == [True, False, True, True]
    assert result.label.dtype == np.uint8


def test_flips_along_y_and_z_swap_nothing():
    augmentation = Augmentation(flip=(True, True, False), swap=((1, 2),))
    sample = sample_of()
    flipped = [augment(np.random.default_rng(seed), sample, SHAPE, augmentation, -1) for seed in range(8)]
    assert any(not np.array_equal(result.label, sample.label) for result in flipped)
    for result in flipped:
        assert np.bincount(result.label.ravel()).tolist() == np.bincount(sample.label.ravel()).tolist()
        assert result.labelled.tolist() == sample.labelled.tolist()


def test_image_and_label_move_together():
    """The image is the label's indicator: after any change the interpolated image is above one half where it is 1."""
    label = np.zeros((12, 12, 12), np.uint8)
    label[3:9, 4:10, 2:7] = 1
    sample = Sample("case", label.astype(np.float32), label, np.ones(2, bool))
    augmentation = Augmentation((True, True, True), 0.2, (0.8, 1.3))
    for seed in range(20):
        result = augment(np.random.default_rng(seed), sample, (14, 10, 12), augmentation, 0.0)
        assert result.label.any()
        # The corners of a box are rounded by trilinear interpolation, never displaced.
        assert np.all(result.label[result.image > 0.5 + 1e-6] == 1)
        assert np.all(result.image[result.label == 1] >= 0.125 - 1e-6)


def test_shape_and_element_types_are_the_canvas_and_the_samples():
    for seed in range(10):
        result = augment(np.random.default_rng(seed), sample_of(), (5, 12, 9), EVERYTHING, -1.0)
        assert result.image.shape == result.label.shape == (5, 12, 9)
        assert (result.image.dtype, result.label.dtype, result.labelled.dtype) == (np.float32, np.uint8, np.bool_)
        assert (result.name, len(result.labelled)) == ("case", 4)


def test_the_same_generator_gives_the_same_bits():
    first, second = (augment(np.random.default_rng(5), sample_of(), (9, 9, 9), EVERYTHING, -1) for _ in range(2))
    other = augment(np.random.default_rng(6), sample_of(), (9, 9, 9), EVERYTHING, -1)
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.label, second.label)
    assert not np.array_equal(first.image, other.image)


def test_the_sample_itself_is_never_changed():
    sample, kept = sample_of(), sample_of()
    augment(np.random.default_rng(1), sample, SHAPE, EVERYTHING, -1)
    np.testing.assert_array_equal(sample.image, kept.image)
    np.testing.assert_array_equal(sample.label, kept.label)
    np.testing.assert_array_equal(sample.labelled, kept.labelled)


def test_a_larger_sample_is_cropped_at_random_inside():
    image = np.arange(1, 31, dtype=np.float32).reshape(1, 1, 30)
    sample = Sample("case", image, np.ones((1, 1, 30), np.uint8), np.ones(2, bool))
    starts = set()
    for seed in range(300):
        result = augment(np.random.default_rng(seed), sample, (1, 1, 16), Augmentation(translate=0.4), -1)
        values = result.image.ravel()
        np.testing.assert_array_equal(values, np.arange(values[0], values[0] + 16))
        assert result.label.all()
        starts.add(int(values[0]))
    assert starts == set(range(1, 16))


def test_a_smaller_sample_shifts_up_to_the_fraction_of_the_canvas():
    sample = Sample("case", np.ones((1, 1, 8), np.float32), np.ones((1, 1, 8), np.uint8), np.ones(2, bool))
    firsts = set()
    for seed in range(200):
        result = augment(np.random.default_rng(seed), sample, (1, 1, 20), Augmentation(translate=0.1), 0)
        assert result.label.sum() == 8
        firsts.add(int(np.argmax(result.label)))
    assert firsts == {4, 5, 6, 7, 8}


def test_the_scaled_sample_is_larger_by_the_scale_and_stays_in_the_middle():
    line = source_line(10, 41, scale=3.0)
    inside = np.flatnonzero((line > -0.5) & (line < 9.5))
    assert len(inside) == pytest.approx(30, abs=1)
    assert inside.mean() == 20
    assert shift_limit(10, 20, 3.0, 0.1) == 5.0
    assert shift_limit(10, 20, 1.0, 0.1) == 2.0
    assert shift_limit(24, 20, 0.5, 0.1) == 0.0


def test_placing_is_padding_and_a_central_crop():
    sample = sample_of((7, 8, 9))
    placed = place(sample, (10, 13, 12), -2)
    np.testing.assert_array_equal(placed.image, pad_to(sample.image, (10, 13, 12), -2))
    np.testing.assert_array_equal(placed.label, pad_to(sample.label, (10, 13, 12), 0))
    np.testing.assert_array_equal(place(sample, (5, 8, 7), -2).image, sample.image[1:6, :, 1:8])


def test_intensity_changes_the_image_only():
    sample = sample_of()
    result = augment(
        np.random.default_rng(3), sample, SHAPE, Augmentation(intensity_shift=0.5, intensity_scale=0.4), -1
    )
    slope, offset = np.polyfit(sample.image.ravel(), result.image.ravel(), 1)
    np.testing.assert_allclose(result.image, slope * sample.image + offset, atol=1e-5)
    assert 0.6 <= slope <= 1.4
    assert slope != pytest.approx(1, abs=1e-3)
    assert 1e-3 < abs(offset) <= 0.5
    np.testing.assert_array_equal(result.label, sample.label)


def test_switching_one_change_off_leaves_the_others():
    sample = sample_of()
    alone = augment(np.random.default_rng(4), sample, SHAPE, Augmentation(translate=0.2), -1)
    with_intensity = augment(
        np.random.default_rng(4), sample, SHAPE, Augmentation(translate=0.2, intensity_scale=0.1), -1
    )
    np.testing.assert_array_equal(alone.label, with_intensity.label)
