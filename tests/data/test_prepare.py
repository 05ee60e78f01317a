import dataclasses

import numpy as np
import pytest

from ars_jax.data.cases import Case
from ars_jax.data.crop import crop_box
from ars_jax.data.geometry import Geometry, divided
from ars_jax.data.plan import Plan
from ars_jax.data.prepare import (
    canvas_for,
    fill_value,
    pad_to,
    padded_shape,
    prepare_case,
    prepare_image,
    restore_label,
    unpad,
)
from ars_jax.data.volumes import Volume, canonical, read_volume, resample
from ars_jax.errors import UserError
from tests.data.synthetic import LABELS, ORIENTATIONS, PLAN, SPACING, ct, grid, written
from tests.oracles.resample import nearest_in_space
from tests.realdata import real_data


def matrix(geometry: Geometry) -> np.ndarray:
    """Index to millimetres."""
    out = np.eye(4)
    out[:3, :3] = np.reshape(geometry.direction, (3, 3)) @ np.diag(geometry.spacing)
    out[:3, 3] = geometry.origin
    return out


def channels(label: Volume) -> Volume:
    table = np.zeros(256, np.uint8)
    table[list(LABELS.values())] = 1, 2
    return Volume(table[label.array], label.geometry)


def dice(one: np.ndarray, two: np.ndarray) -> float:
    return 2 * np.count_nonzero(one & two) / (np.count_nonzero(one) + np.count_nonzero(two))


@pytest.mark.parametrize("direction", ORIENTATIONS.values(), ids=ORIENTATIONS)
@pytest.mark.parametrize("crop", ["none", "body"])
def test_restoring_at_the_same_spacing_gives_the_label_back(direction, crop):
    image, label = ct(grid(spacing=(4.0, 4.0, 4.0), direction=direction))
    plan = dataclasses.replace(PLAN, crop=crop)
    array, prepared = prepare_image(image, plan)
    assert (array.size < image.array.size) == (crop == "body")
    moved = resample(channels(label), prepared, interpolation="nearest", fill=0)
    restored = restore_label(moved.array, prepared, image.geometry)
    np.testing.assert_array_equal(restored.array, channels(label).array)
    assert restored.geometry == image.geometry
    assert restored.array.dtype == np.uint8


@pytest.mark.parametrize("direction", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_restoring_is_nearest_in_space(direction):
    image, label = ct(grid((6, 7, 9), direction=direction))
    plan = dataclasses.replace(PLAN, spacing=(2.2, 2.9, 1.3))
    _, prepared = prepare_image(image, plan)
    moved = resample(channels(label), prepared, interpolation="nearest", fill=0).array
    back = restore_label(moved, prepared, image.geometry).array
    expected = nearest_in_space(moved, matrix(prepared), matrix(image.geometry), image.geometry.shape)
    np.testing.assert_array_equal(back, expected)


def test_preparation_is_the_same_for_every_storage_order():
    image, _ = ct(grid())
    plan = dataclasses.replace(PLAN, crop="body", spacing=(2.0, 2.5, 2.5))
    array, prepared = prepare_image(image, plan)
    for axes, flip in (((0, 1, 2), (1, 2)), ((2, 0, 1), ()), ((1, 2, 0), (0, 1))):
        stored = image.array.transpose(axes)
        steps = (matrix(image.geometry)[:3, :3])[:, axes]
        start = np.asarray(image.geometry.origin)
        for axis in flip:
            start = start + steps[:, axis] * (stored.shape[axis] - 1)
            steps[:, axis] *= -1
            stored = np.flip(stored, axis)
        spacing = np.linalg.norm(steps, axis=0)
        z, y, x = stored.shape
        dz, dy, dx = (float(value) for value in spacing)
        oz, oy, ox = (float(value) for value in start)
        geometry = Geometry((z, y, x), (dz, dy, dx), (oz, oy, ox), tuple(float(v) for v in (steps / spacing).ravel()))
        other, place = prepare_image(Volume(np.ascontiguousarray(stored), geometry), plan)
        np.testing.assert_allclose(other, array, atol=1e-5)
        np.testing.assert_allclose(matrix(place), matrix(prepared), atol=1e-9)


@pytest.mark.parametrize("shape", [(12, 18, 24), (6, 36, 10), (1, 5, 7)])
def test_division_keeps_the_edges_of_the_box(shape):
    old = grid(direction=ORIENTATIONS["oblique"])
    new = divided(old, shape)
    assert new.shape == shape
    for corner in np.ndindex(2, 2, 2):
        edges = [np.append(np.array(corner) * item.shape - 0.5, 1) for item in (old, new)]
        np.testing.assert_allclose(matrix(new) @ edges[1], matrix(old) @ edges[0], atol=1e-9)


def test_the_same_number_of_voxels_is_the_same_grid():
    assert divided(grid(), grid().shape) == grid()


def test_spacing_is_met_up_to_whole_voxels():
    image, _ = ct(grid())
    array, prepared = prepare_image(image, dataclasses.replace(PLAN, spacing=(2.0, 2.0, 2.0)))
    assert array.shape == prepared.shape == (18, 18, 18)
    np.testing.assert_allclose(prepared.spacing, 2.0)


def test_shape_is_met_exactly():
    image, _ = ct(grid())
    array, prepared = prepare_image(image, dataclasses.replace(PLAN, crop="body", shape=(16, 8, 10)))
    assert array.shape == prepared.shape == (16, 8, 10)


def test_resampling_keeps_a_linear_image():
    """Trilinear interpolation is exact on a ramp, except in the half voxel at the border, which has no neighbours."""
    geometry = grid((10, 12, 14))
    ramp = np.indices(geometry.shape).sum(0) * 10.0
    plan = dataclasses.replace(PLAN, window=(0, 400), shape=(14, 13, 19))
    array, prepared = prepare_image(Volume(ramp, geometry), plan)
    index = np.linalg.inv(matrix(geometry)) @ matrix(prepared) @ np.array([5, 6, 9, 1])
    assert (array[5, 6, 9] + 1) * 200 == pytest.approx(10 * index[:3].sum(), abs=1e-3)


def test_strong_downsampling_averages_before_it_samples():
    rng = np.random.default_rng(0)
    noise = Volume(rng.normal(0, 100, (32, 32, 32)), grid((32, 32, 32)))
    array, _ = prepare_image(noise, dataclasses.replace(PLAN, window=(-1000, 1000), shape=(8, 8, 8)))
    assert array.std() < 0.3 * 0.1


# crop and intensity


def test_body_crop_keeps_the_body_and_its_margin_and_leaves_the_table():
    image = np.full((20, 40, 40), -1000, np.int16)
    image[3:17, 5:25, 8:30] = 30
    image[3:17, 27:28, :] = 200  # a table: thin, and not connected
    image[0, 39, 39] = 3000
    plan = dataclasses.replace(PLAN, crop="body", crop_margin_mm=4.0)
    assert crop_box(image, (4.0, 4.0, 4.0), plan) == (slice(2, 18), slice(4, 26), slice(7, 31))


def test_body_crop_of_small_voxels_contains_the_body():
    image = np.full((30, 90, 90), -1000, np.int16)
    image[5:27, 11:70, 23:80] = 30
    box = crop_box(image, (2.5, 0.9, 0.9), dataclasses.replace(PLAN, crop="body", crop_margin_mm=0.0))
    for side, (first, last) in zip(box, ((5, 27), (11, 70), (23, 80)), strict=True):
        assert first - 6 <= side.start <= first
        assert last <= side.stop <= last + 6


def test_nonzero_crop_is_the_box_of_what_is_not_zero():
    image = np.zeros((9, 9, 9))
    image[2, 3:5, 4:8] = -1
    plan = dataclasses.replace(PLAN, crop="nonzero", crop_margin_mm=0.0)
    assert crop_box(image, SPACING, plan) == (slice(2, 3), slice(3, 5), slice(4, 8))


def test_margins_end_at_the_image():
    image = np.ones((4, 5, 6))
    plan = dataclasses.replace(PLAN, crop="nonzero", crop_margin_mm=100.0)
    assert crop_box(image, SPACING, plan) == (slice(0, 4), slice(0, 5), slice(0, 6))


@pytest.mark.parametrize("crop", ["body", "nonzero"])
def test_nothing_to_crop_to_names_what_was_found(crop):
    value = -1000 if crop == "body" else 0
    image = Volume(np.full((8, 8, 8), value, np.int16), grid((8, 8, 8)))
    with pytest.raises(UserError, match=f"scan: found values from {value} to {value}"):
        prepare_image(image, dataclasses.replace(PLAN, crop=crop), "scan")


def test_window_maps_its_ends_to_one_and_clips():
    image = Volume(np.array([-1000, -200, 100, 400, 3000], np.int16).reshape(1, 1, 5), grid((1, 1, 5)))
    array, _ = prepare_image(image, PLAN)
    np.testing.assert_allclose(array.ravel(), [-1, -1, 0, 1, 1], atol=1e-6)
    assert array.dtype == np.float32
    assert fill_value(array) == -1


def test_zscore_ignores_the_scale_of_the_scanner():
    rng = np.random.default_rng(0)
    values = rng.normal(50, 9, (6, 7, 8))
    plan = Plan(("Organ",), intensity="zscore")
    one, two = (prepare_image(Volume(v, grid((6, 7, 8))), plan)[0] for v in (values, 1000 * values + 12345))
    np.testing.assert_allclose(one, two, atol=1e-4)
    assert one.mean() == pytest.approx(0, abs=1e-5)
    assert one.std() == pytest.approx(1, abs=1e-4)
    values[0, 0, 0] = 1e6
    assert prepare_image(Volume(values, grid((6, 7, 8))), plan)[0].max() == 5


def test_zscore_of_a_constant_image_is_a_user_error():
    with pytest.raises(UserError, match="scan: found the value 3 everywhere"):
        prepare_image(Volume(np.full((4, 4, 4), 3.0), grid((4, 4, 4))), Plan(("Organ",), intensity="zscore"), "scan")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_are_user_errors(value):
    array = np.zeros((4, 4, 4))
    array[1, 2, 3] = value
    with pytest.raises(UserError, match="scan: found 1 voxels NaN or infinite"):
        prepare_image(Volume(array, grid((4, 4, 4))), PLAN, "scan")


def test_image_and_label_of_a_case_lie_on_the_same_grid(tmp_path):
    case = written(tmp_path, geometry=grid((20, 18, 24), direction=ORIENTATIONS["permuted and flipped"]))
    sample = prepare_case(case, LABELS, dataclasses.replace(PLAN, spacing=(2.0, 2.0, 2.0)))
    assert sample.image.shape == sample.label.shape
    assert (sample.image.dtype, sample.label.dtype) == (np.float32, np.uint8)
    assert sample.labelled.tolist() == [True, True, True]
    # Ball_L is 140 HU and Ball_R 240 HU, soft tissue between them.
    means = [np.median(sample.image[sample.label == channel]) for channel in (1, 2)]
    np.testing.assert_allclose(np.array(means) * 300 + 100, [140, 240], atol=10)


def test_organs_that_the_case_declares_unlabelled_are_marked_and_their_voxels_are_background(tmp_path):
    drawn = written(tmp_path)
    sample = prepare_case(dataclasses.replace(drawn, unlabelled=("Ball_L",)), LABELS, PLAN)
    assert sample.labelled.tolist() == [True, False, True]
    whole = prepare_case(drawn, LABELS, PLAN).label
    np.testing.assert_array_equal(sample.label, np.where(whole == 1, 0, whole))
    assert (whole == 1).any()


def test_a_label_on_another_grid_is_named_with_both_values(tmp_path):
    case = written(tmp_path, "pt_9", label_geometry=grid(spacing=(2.5, 2.0, 1.5)))
    with pytest.raises(UserError, match=r"case pt_9.*spacing \(2\.5, 2, 1\.5\).*\(3, 2, 1\.5\).*check --repair"):
        prepare_case(case, LABELS, PLAN)


def test_a_case_without_label_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="case pt_9: found no label"):
        prepare_case(dataclasses.replace(written(tmp_path, "pt_9"), label=None), LABELS, PLAN)


def test_unpadding_takes_padding_back():
    array = np.random.default_rng(0).normal(size=(3, 4, 5, 2))
    padded = pad_to(array, (4, 7, 5), -1)
    assert padded.shape == (4, 7, 5, 2)
    assert padded.sum() == pytest.approx(array.sum() - (padded.size - array.size))
    np.testing.assert_array_equal(unpad(padded, (3, 4, 5)), array)


def test_padding_never_cuts():
    with pytest.raises(ValueError, match="cannot pad"):
        pad_to(np.zeros((4, 4, 4)), (4, 3, 8), 0)


def test_canvas_is_the_smallest_multiple_that_holds_every_case():
    assert padded_shape((1, 16, 17), 16) == (16, 16, 32)
    assert canvas_for([(10, 40, 16), (30, 20, 17)], 16) == (32, 48, 32)


# real volumes


@pytest.mark.parametrize(
    "change",
    [{}, {"crop": "body"}, {"crop": "body", "spacing": (2.5, 2.5, 2.5)}, {"shape": (112, 96, 144)}],
    ids=["as it is", "body", "spacing", "the paper's shape"],
)
def test_a_real_label_comes_back_on_its_own_grid(change):
    image = read_volume(real_data("abdomen_ct", "img", "img0001.nii.gz"))
    label = read_volume(real_data("abdomen_ct", "label", "label0001.nii.gz"))
    organs = np.unique(label.array)[1:]
    plan = dataclasses.replace(PLAN, labels=tuple(map(str, organs)), pairs=(), **change)
    array, prepared = prepare_image(image, plan)
    assert array.shape == prepared.shape
    moved = resample(Volume(label.array, image.geometry), prepared, interpolation="nearest", fill=0)
    restored = restore_label(moved.array, prepared, image.geometry)
    assert restored.geometry == image.geometry
    scores = [dice(restored.array == organ, label.array == organ) for organ in organs]
    assert min(scores) > 0.9 if "spacing" in change or "shape" in change else min(scores) == 1


def test_a_dicom_prediction_comes_back_on_both_storage_directions():
    image = read_volume(real_data("dicom_ct", "series"))
    label = read_volume(real_data("dicom_ct", "segmentation.nii.gz"))
    assert label.geometry.direction != image.geometry.direction
    _, prepared = prepare_image(image, dataclasses.replace(PLAN, crop="body"))
    liver = Volume((label.array == 5).astype(np.uint8), label.geometry)
    moved = resample(liver, prepared, interpolation="nearest", fill=0)
    on_image = restore_label(moved.array, prepared, image.geometry)
    on_label = restore_label(moved.array, prepared, label.geometry)
    assert (on_image.geometry, on_label.geometry) == (image.geometry, label.geometry)
    assert liver.array.any()
    np.testing.assert_array_equal(on_label.array, liver.array)
    np.testing.assert_array_equal(on_image.array, liver.array[:, ::-1])


def test_a_real_label_stored_the_other_way_round_is_named():
    folder = real_data("dicom_ct")
    case = Case("dicom", folder / "series", folder / "segmentation.nii.gz")
    values = np.unique(read_volume(folder / "segmentation.nii.gz").array)[1:]
    labels = {f"Organ{value}": int(value) for value in values}
    plan = Plan(tuple(labels), intensity="window", window=(-200, 400))
    with pytest.raises(UserError, match=r"case dicom: found label with .*direction .*-1.*--repair"):
        prepare_case(case, labels, plan)


def test_a_real_planning_ct_with_masks_is_prepared():
    folder = real_data("openkbp", "pt_1")
    masks = {path.stem: path for path in sorted((folder / "structures").glob("*.nrrd"))}
    labels = {organ: index for index, organ in enumerate(masks, 1)}
    plan = Plan(tuple(labels), crop="body", intensity="window", window=(-200, 400), spacing=(3.0, 3.0, 3.0))
    sample = prepare_case(Case("pt_1", folder / "img.nrrd", None, masks), labels, plan)
    assert set(np.unique(sample.label)) == set(range(len(masks) + 1))
    assert np.median(sample.image[sample.label == 1 + list(labels).index("Mandible")]) > 0.5
    whole = canonical(read_volume(folder / "img.nrrd"))
    assert np.prod(sample.image.shape) * 27 < whole.array.size * np.prod(whole.geometry.spacing) * 1.1
