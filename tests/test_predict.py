"""From image to label map: on the image's own grid, whatever way it is stored, whole or by windows."""

import dataclasses
import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from ars_jax import predict
from ars_jax.data.geometry import Geometry, mismatches
from ars_jax.data.plan import Plan
from ars_jax.data.volumes import Volume, map_to, read_geometry, read_volume, resample, write_volume
from ars_jax.errors import UserError
from ars_jax.models import packing, vnet
from ars_jax.models.packing import Layout
from ars_jax.options import read_config
from ars_jax.predict import (
    load_network,
    output_names,
    predict_array,
    predict_files,
    predict_logits,
    predict_volume,
    window_starts,
)
from ars_jax.train.inputs import prepare_inputs
from ars_jax.train.validate import validate
from tests.data.synthetic import IDENTITY, LABELS, ORIENTATIONS, PLAN, ct, grid
from tests.realdata import real_data
from tests.small_runs import SmallRun, files_of, lines_of, quick_compilation, random_network, trained_run

SMALL = dataclasses.replace(PLAN, whole=(16, 16, 16))
COARSE = Plan(("A", "B"), shape=(14, 30, 26), intensity="window", window=(-200, 400), whole=(16, 32, 32))
"""For real volumes of any size: one compilation serves all."""


@pytest.fixture(scope="module", autouse=True)
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with quick_compilation(tmp_path_factory.getbasetemp()):
        yield tmp_path_factory.getbasetemp()


@pytest.fixture(scope="module")
def run(base: Path) -> SmallRun:
    return trained_run(base)


def stored(volume: Volume, order: tuple[int, ...], flips: tuple[bool, ...]) -> Volume:
    """The same voxels with their axes in another order, some of them backwards."""
    old = volume.geometry
    shape, spacing = (tuple(np.asarray(values)[list(order)].tolist()) for values in (old.shape, old.spacing))
    columns = np.reshape(old.direction, (3, 3))[:, order]
    last = columns * np.asarray(spacing) * (np.asarray(shape) - 1)
    origin = np.asarray(old.origin) + last[:, list(flips)].sum(axis=1)
    direction = columns * np.where(flips, -1, 1)
    array = volume.array.transpose(order)[tuple(slice(None, None, -1 if flip else 1) for flip in flips)]
    return Volume(array, Geometry(shape, spacing, tuple(origin.tolist()), tuple(direction.ravel().tolist())))


def assert_same_grid(found: Geometry, wanted: Geometry) -> None:
    assert found.shape == wanted.shape
    for name in ("spacing", "origin", "direction"):
        np.testing.assert_allclose(getattr(found, name), getattr(wanted, name), rtol=1e-6, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(
    "flips", [(False, False, False), (False, True, True), (True, False, False), (True, True, True)]
)
@pytest.mark.parametrize("order", [(0, 1, 2), (1, 2, 0), (2, 1, 0)])
def test_a_prediction_does_not_depend_on_how_the_image_is_stored(order: tuple, flips: tuple) -> None:
    """Every voxel gets the label that it has in the canonical volume, right-handed or left-handed."""
    image, _ = ct(grid((14, 16, 12)))
    network = random_network(SMALL)
    expected = predict_volume(network, image)
    assert set(np.unique(expected.array)) == {0, 1, 2}
    changed = stored(image, order, flips)
    found = predict_volume(network, changed)
    assert found.geometry == changed.geometry
    np.testing.assert_array_equal(found.array, stored(expected, order, flips).array)


@pytest.mark.parametrize("direction", ORIENTATIONS.values(), ids=ORIENTATIONS)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_a_label_map_lies_on_the_grid_of_its_image(tmp_path: Path, ending: str, direction: np.ndarray) -> None:
    image, _ = ct(grid((14, 16, 12), direction=direction))
    path = tmp_path / f"image{ending}"
    write_volume(path, image)
    (written,) = predict_files(random_network(SMALL), [path], tmp_path / "out")
    assert written == tmp_path / "out" / f"image{ending}"
    assert_same_grid(read_geometry(written), read_geometry(path))
    label = read_volume(written)
    assert label.array.dtype == np.uint8
    np.testing.assert_array_equal(label.array, predict_volume(random_network(SMALL), image).array)


@pytest.mark.parametrize("parts", [("dicom_ct", "series"), ("abdomen_ct", "img", "img0001.nii.gz")], ids="/".join)
def test_label_maps_of_real_volumes_lie_on_their_grids(tmp_path: Path, parts: tuple[str, ...]) -> None:
    path = real_data(*parts)
    (written,) = predict_files(random_network(COARSE), [path], tmp_path)
    assert written.name == f"{parts[-1].removesuffix('.nii.gz')}.nii.gz"
    assert_same_grid(read_geometry(written), read_geometry(path))
    assert len(np.unique(read_volume(written).array)) > 1


def test_a_series_and_its_copy_with_another_axis_direction_get_the_same_labels() -> None:
    """The label map beside the series is stored with y backwards; the same points have the same labels on its grid."""
    image = read_volume(real_data("dicom_ct", "series"))
    other = read_geometry(real_data("dicom_ct", "segmentation.nii.gz"))
    assert "direction" in [difference.kind for difference in mismatches(other, image.geometry)]
    network = random_network(COARSE)
    expected = predict_volume(network, image)
    found = predict_volume(network, resample(image, other, interpolation="linear", fill=-1024))
    assert found.geometry == other
    np.testing.assert_array_equal(map_to(found, image.geometry).array, expected.array)
    assert (found.array != expected.array).any(), "the voxels themselves lie elsewhere"


def test_a_cropped_image_is_background_around_the_crop() -> None:
    """And its inside is what the crop alone gives."""
    image, _ = ct(grid((14, 16, 12)))
    around = np.full((20, 30, 22), -1000, np.int16)
    inside = (slice(3, 17), slice(6, 22), slice(5, 17))
    around[inside] = image.array
    plan = dataclasses.replace(SMALL, crop="body", crop_margin_mm=0.0, whole=(32, 32, 32))
    found = predict_volume(random_network(plan), Volume(around, grid(around.shape)))
    assert found.geometry == grid(around.shape)
    outside = np.ones(around.shape, bool)
    outside[inside] = False
    assert not found.array[outside].any()
    assert found.array[inside].any()


def test_a_loaded_network_scores_what_its_training_recorded(run: SmallRun) -> None:
    """The newest checkpoint, on one device, after reading everything from disk."""
    config = read_config(run.folder / "config.yaml")
    validations = [line for line in lines_of(run.folder) if line["kind"] == "validation"]
    inputs = prepare_inputs(config)
    scores = validate(load_network(run.folder, config, "newest"), inputs.validation)
    assert scores["dsc"] == pytest.approx(validations[-1]["dsc"], abs=0.02)
    best = validate(load_network(run.folder, config, "best"), inputs.validation)
    assert best["mean_dsc"] == pytest.approx(max(line["mean_dsc"] for line in validations), abs=0.02)


def fake_network(monkeypatch: pytest.MonkeyPatch, plan: Plan, function) -> predict.Network:
    """A network whose probabilities are a NumPy function of the window `[z, y, x]`."""
    seen = jax.tree.map(lambda x: x, random_network(SMALL))
    monkeypatch.setattr(predict, "_probabilities", lambda *arguments: function(arguments[-1][0, ..., 0])[None])
    return dataclasses.replace(seen, plan=plan)


def by_value(window: np.ndarray) -> np.ndarray:
    """Class k is the likelier the nearer the value is to k."""
    scores = -((window[..., None] - np.arange(3)) ** 2)
    return np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)


@pytest.mark.parametrize("shape", [(16, 16, 16), (20, 33, 17), (7, 40, 16), (5, 6, 7), (33, 16, 50)])
def test_windows_of_a_network_that_sees_single_voxels_change_nothing(monkeypatch, shape: tuple[int, int, int]) -> None:
    """Whatever the windows' places and weights, every voxel is seen and the average of equal values is the value."""
    network = fake_network(monkeypatch, dataclasses.replace(SMALL, patch=(16, 16, 16)), by_value)
    image = np.random.default_rng(0).uniform(0, 2, shape).astype(np.float32)
    image[np.abs(image % 1 - 0.5) < 0.01] = 0  # no ties
    found = predict_array(network, image)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, image.round())


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_where_windows_overlap_the_nearer_middle_decides(monkeypatch: pytest.MonkeyPatch, axis: int) -> None:
    """Two windows of 16 voxels on a side of 24: their middles are at 7.5 and 15.5."""
    answers = itertools.cycle([1, 2])
    one_hot = np.eye(3, dtype=np.float32)
    plan = dataclasses.replace(SMALL, patch=(16, 16, 16))
    network = fake_network(
        monkeypatch, plan, lambda window: np.broadcast_to(one_hot[next(answers)], (*window.shape, 3))
    )
    shape = [16, 16, 16]
    shape[axis] = 24
    found = np.moveaxis(predict_array(network, np.zeros(shape, np.float32)), axis, 0)
    assert (found == np.repeat([1, 2], 12)[:, None, None]).all()


def test_a_window_as_large_as_the_volume_is_the_whole_volume() -> None:
    """Also where both are padded."""
    whole, window = SMALL, dataclasses.replace(SMALL, patch=(16, 16, 16))
    rng = np.random.default_rng(0)
    for shape in ((16, 16, 16), (13, 16, 9)):
        image = rng.uniform(-1, 1, shape).astype(np.float32)
        found, expected = (predict_array(random_network(plan), image) for plan in (window, whole))
        np.testing.assert_array_equal(found, expected)
        assert len(np.unique(expected)) == 3


@pytest.mark.parametrize("window", [2, 16, 32, 48])
def test_windows_cover_a_side_and_overlap_by_half(window: int) -> None:
    for side in range(window, 6 * window + 3):
        starts = window_starts(side, window)
        assert (starts[0], starts[-1]) == (0, side - window)
        steps = np.diff(starts)
        assert (steps > 0).all()
        assert (steps <= window / 2).all()
        assert len(starts) == 1 or np.ptp(steps) <= 1, "evenly"


def test_label_maps_come_with_the_names_of_their_values(tmp_path: Path) -> None:
    image, _ = ct(grid((14, 16, 12)))
    write_volume(tmp_path / "a.nrrd", image)
    seen = []
    predict_files(random_network(SMALL), [tmp_path / "a.nrrd"], tmp_path / "out", lambda *news: seen.append(news))
    assert json.loads((tmp_path / "out" / "labels.json").read_text(encoding="utf-8")) == {"Ball_L": 1, "Ball_R": 2}
    assert list(LABELS) == list(SMALL.labels)
    assert sorted(files_of(tmp_path / "out")) == ["a.nrrd", "labels.json"]
    assert seen == [(1, 1, "a.nrrd")]


@pytest.mark.parametrize(
    ("images", "names"),
    [
        (["x/one.nii.gz", "x/two.NRRD", "y/three.mha"], ["one", "two", "three"]),
        (["x/img.nrrd", "y/img.nrrd", "z/other.nii"], ["x", "y", "other"]),
        (["series/1.2.840", "series/1.2.841"], ["1.2.840", "1.2.841"]),
        (["a.b.nii.gz"], ["a.b"]),
    ],
)
def test_outputs_are_named_by_file_or_else_by_folder(images: list[str], names: list[str]) -> None:
    assert output_names([Path(image) for image in images]) == names


@pytest.mark.parametrize(
    "images", [["x/a.nii", "x/a.nrrd"], ["x/a.nii", "x/a.nii"], ["a/img.nii", "b/img.nii", "b.nii"]]
)
def test_outputs_of_one_name_are_refused(images: list[str]) -> None:
    with pytest.raises(UserError, match=r"another image named"):
        output_names([Path(image) for image in images])


def test_an_image_is_never_overwritten_by_its_label_map(tmp_path: Path) -> None:
    image, _ = ct(grid((14, 16, 12)))
    for name in ("a", "b"):
        write_volume(tmp_path / f"{name}.nii.gz", image)
    before = files_of(tmp_path)
    for out in (tmp_path, tmp_path / "away" / ".."):
        with pytest.raises(UserError, match=r"a\.nii\.gz: found an image to predict"):
            predict_files(random_network(SMALL), [tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"], out)
    assert files_of(tmp_path) == before


def test_all_images_are_looked_at_before_anything_is_written(tmp_path: Path) -> None:
    image, _ = ct(grid((14, 16, 12)))
    write_volume(tmp_path / "a.nii.gz", image)
    with pytest.raises(UserError, match=r"nowhere\.nii\.gz: found no such file"):
        predict_files(random_network(SMALL), [tmp_path / "a.nii.gz", tmp_path / "nowhere.nii.gz"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_image_without_numbers_is_named(tmp_path: Path) -> None:
    image, _ = ct(grid((14, 16, 12)))
    array = image.array.astype(np.float32)
    array[3, 4, 5] = np.nan
    write_volume(tmp_path / "broken.nrrd", Volume(array, image.geometry))
    with pytest.raises(UserError, match=r"broken\.nrrd: found 1 voxels NaN"):
        predict_files(random_network(SMALL), [tmp_path / "broken.nrrd"], tmp_path / "out")
    assert not (tmp_path / "out" / "broken.nrrd").exists()


def test_storing_a_volume_in_another_order_moves_no_voxel() -> None:
    """The helper of this module against the definition of a grid: point = origin + direction (spacing * index)."""
    image, _ = ct(grid((4, 12, 9), direction=IDENTITY))
    changed = stored(image, (1, 2, 0), (True, False, True))
    for index in [(0, 0, 0), (11, 0, 0), (5, 8, 3), (2, 7, 1)]:
        geometry = changed.geometry
        point = geometry.origin + np.reshape(geometry.direction, (3, 3)) @ np.multiply(geometry.spacing, index)
        source = np.rint((point - image.geometry.origin) / image.geometry.spacing).astype(int)
        assert changed.array[index] == image.array[tuple(source)]


@pytest.mark.parametrize("patch", [None, (16, 16, 16)], ids=["whole", "by windows"])
def test_logits_are_those_of_the_predicted_labels(patch: tuple[int, int, int] | None) -> None:
    """What a loss sees is what is predicted; logarithms of averaged probabilities sum to 1 under the softmax."""
    image = np.random.default_rng(0).uniform(-1, 1, (14, 16, 20)).astype(np.float32)
    network = random_network(dataclasses.replace(SMALL, whole=(16, 16, 32), patch=patch))
    logits = predict_logits(network, image)
    assert (logits.shape, logits.dtype) == ((*image.shape, 3), np.float32)
    np.testing.assert_array_equal(logits.argmax(-1), predict_array(network, image))
    if patch is not None:
        np.testing.assert_allclose(np.exp(logits).sum(-1), 1, rtol=1e-5)


def test_a_tpu_predicts_by_packed_volumes_what_others_predict_by_plain_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    network, packed = random_network(PLAN, seed=1), []
    image = np.random.default_rng(0).normal(size=(16, 16, 32)).astype(np.float32)
    plain = predict_logits(network, image)

    def stage_layouts(*arguments: int) -> tuple[Layout, ...]:
        packed.append(arguments)
        return packing.stage_layouts(*arguments)

    monkeypatch.setattr(vnet, "stage_layouts", stage_layouts)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    # Another network, so that its program is another, with equal results.
    network = dataclasses.replace(network, model=network.model.clone(dropout=0.1))
    np.testing.assert_allclose(predict_logits(network, image), plain, rtol=1e-3, atol=1e-4)
    assert packed == [(32, 2, 5)]
