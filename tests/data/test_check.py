import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ars_jax.data.check import REPAIR, Fault, check_case, check_dataset, repair_case, repair_dataset
from ars_jax.data.layouts import Case, Dataset, find_dataset, read_label
from ars_jax.data.volumes import Geometry, Volume, mismatches, read_geometry, read_volume, write_volume
from ars_jax.errors import UserError
from tests.realdata import real_data

GRID = Geometry((6, 7, 8), (2.0, 1.0, 1.0), (10.0, 20.0, 30.0))
LABELS = {"Heart": 3, "Lung": 5}


def image_of(grid: Geometry = GRID, dtype: str = "int16") -> Volume:
    return Volume(np.random.default_rng(0).integers(-100, 100, grid.shape).astype(dtype), grid)


def label_of(grid: Geometry = GRID, dtype: str = "uint8") -> Volume:
    array = np.zeros(grid.shape, dtype)
    array[1:3, 1:3, 1:4] = LABELS["Heart"]
    array[4, 4:6, 4:7] = LABELS["Lung"]
    return Volume(array, grid)


def map_case(root: Path, *, image: Volume | None = None, label: Volume | None = None, name: str = "a") -> Case:
    case = Case(name, root / "images" / f"{name}.nii.gz", root / "labels" / f"{name}.nii.gz")
    write_volume(case.image, image or image_of())
    write_volume(root / "labels" / f"{name}.nii.gz", label or label_of())
    return case


def mask_case(root: Path, **masks: Volume) -> Case:
    paths = {organ: root / "labels" / "a" / f"{organ}.nrrd" for organ in masks}
    for organ, path in paths.items():
        write_volume(path, masks[organ])
    write_volume(root / "images" / "a.nrrd", image_of())
    return Case("a", root / "images" / "a.nrrd", masks=paths)


def organ(value: int, grid: Geometry = GRID) -> Volume:
    return Volume((label_of(grid).array == value).astype(np.uint8), grid)


def kinds(faults: list[Fault]) -> list[tuple[str, str]]:
    return [(fault.kind, fault.severity) for fault in faults]


def flipped(volume: Volume) -> Volume:
    """The same points stored with the y axis the other way round."""
    z, y, x = volume.geometry.origin
    origin = (z, y + (volume.array.shape[1] - 1) * volume.geometry.spacing[1], x)
    direction = (1.0, 0, 0, 0, -1.0, 0, 0, 0, 1.0)
    grid = Geometry(volume.array.shape, volume.geometry.spacing, origin, direction)
    return Volume(np.ascontiguousarray(volume.array[:, ::-1]), grid)


def test_a_sound_case_has_no_fault(tmp_path: Path):
    assert check_case(map_case(tmp_path), LABELS) == []
    assert check_case(map_case(tmp_path, label=label_of(dtype="float32")), LABELS) == []
    assert check_case(mask_case(tmp_path / "m", Heart=organ(3), Lung=organ(5)), LABELS) == []


@pytest.mark.parametrize(
    ("grid", "kind", "found", "wanted"),
    [
        (Geometry((6, 7, 9), GRID.spacing, GRID.origin), "size", "(6, 7, 9) voxels", "the image's (6, 7, 8) voxels"),
        (Geometry(GRID.shape, (1.9, 1, 1), GRID.origin), "spacing", "(1.9, 1, 1) mm", "the image's (2, 1, 1) mm"),
        (
            Geometry(GRID.shape, GRID.spacing, (10.5, 20, 30)),
            "origin",
            "(10.5, 20, 30) mm",
            "the image's (10, 20, 30) mm",
        ),
    ],
)
def test_a_label_on_another_grid_is_named_with_both_values(
    tmp_path: Path, grid: Geometry, kind: str, found: str, wanted: str
):
    case = map_case(tmp_path, label=label_of(grid))
    assert check_case(case, LABELS) == [Fault("a", str(case.label), kind, found, wanted, REPAIR, "error")]


def test_a_label_elsewhere_in_space_cannot_be_repaired(tmp_path: Path):
    case = map_case(tmp_path, label=label_of(Geometry(GRID.shape, GRID.spacing, (10.0, 24.0, 30.0))))
    (fault,) = check_case(case, LABELS)
    assert (fault.kind, fault.severity) == ("origin", "error")
    assert fault.fix != REPAIR


def set_voxel(value: float, dtype: str) -> Callable[[Volume], Volume]:
    def change(volume: Volume) -> Volume:
        array = volume.array.astype(dtype)
        array[0, 0, 0] = value
        return Volume(array, volume.geometry)

    return change


@pytest.mark.parametrize(
    ("value", "dtype", "kind"),
    [
        (9, "uint8", "unknown label value"),
        (-3, "int16", "unknown label value"),
        (1.5, "float32", "unknown label value"),
        (np.nan, "float32", "NaN"),
    ],
)
def test_a_wrong_label_value_is_an_error(tmp_path: Path, value: float, dtype: str, kind: str):
    map_fault = check_case(map_case(tmp_path, label=set_voxel(value, dtype)(label_of())), LABELS)
    assert kinds(map_fault) == [(kind, "error")]
    mask = set_voxel(value, dtype)(organ(5))
    case = mask_case(tmp_path / "m", Heart=organ(3), Lung=mask)
    (fault,) = check_case(case, LABELS)
    assert (fault.kind, fault.severity, fault.file) == (kind, "error", str(case.masks["Lung"]))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_infinity_in_an_image_are_errors(tmp_path: Path, value: float):
    case = map_case(tmp_path, image=set_voxel(value, "float32")(image_of()))
    (fault,) = check_case(case, LABELS)
    assert (fault.kind, fault.file, fault.found) == ("NaN", str(case.image), "NaN or infinity in 1 voxels")


def test_empty_labels_and_missing_organs_are_warnings_unless_declared(tmp_path: Path):
    empty = Volume(np.zeros(GRID.shape, np.uint8), GRID)
    assert kinds(check_case(map_case(tmp_path, label=empty), LABELS)) == [("empty label", "warning")]
    half = Volume(organ(3).array * np.uint8(3), GRID)
    case = map_case(tmp_path, label=half)
    (fault,) = check_case(case, LABELS)
    assert (fault.kind, fault.found, fault.severity) == ("empty label", "no voxel of Lung", "warning")
    assert check_case(Case("a", case.image, case.label, unlabelled=("Lung",)), LABELS) == []


def test_missing_and_empty_masks_are_warnings_unless_declared(tmp_path: Path):
    case = mask_case(tmp_path / "one", Heart=organ(3))
    (fault,) = check_case(case, LABELS)
    assert (fault.kind, fault.found, fault.severity) == ("missing organ mask", "no mask of Lung", "warning")
    assert check_case(Case("a", case.image, masks=case.masks, unlabelled=("Lung",)), LABELS) == []
    empty = mask_case(tmp_path / "two", Heart=organ(3), Lung=organ(77))
    assert kinds(check_case(empty, LABELS)) == [("empty label", "warning")]


def test_an_organ_drawn_although_declared_unlabelled_is_a_warning(tmp_path: Path):
    for case in (map_case(tmp_path), mask_case(tmp_path / "m", Heart=organ(3), Lung=organ(5))):
        declared = Case("a", case.image, case.label, case.masks, unlabelled=("Lung",))
        assert kinds(check_case(declared, LABELS)) == [("drawn although unlabelled", "warning")]


def test_overlapping_masks_are_a_warning_with_the_number_of_voxels(tmp_path: Path):
    both = Volume(organ(3).array | organ(5).array, GRID)
    (fault,) = check_case(mask_case(tmp_path, Heart=organ(3), Lung=both), LABELS)
    assert (fault.kind, fault.severity) == ("overlapping masks", "warning")
    assert fault.found == "12 voxels in both Heart and Lung"


def test_unreadable_files_are_faults_not_crashes(tmp_path: Path):
    case = map_case(tmp_path)
    for path, content in ((case.image, b""), (tmp_path / "labels" / "a.nii.gz", b"no volume")):
        path.write_bytes(content)
    faults = check_case(case, LABELS)
    assert kinds(faults) == [("unreadable file", "error")] * 2
    assert [fault.file for fault in faults] == [str(case.image), str(case.label)]
    masked = mask_case(tmp_path / "m", Heart=organ(3), Lung=organ(5))
    masked.masks["Heart"].write_bytes(b"NRRD0004\n")
    assert kinds(check_case(masked, LABELS)) == [("unreadable file", "error")]
    gone = Case("a", tmp_path / "none.nii", tmp_path / "nor this.nii")
    assert kinds(check_case(gone, LABELS)) == [("unreadable file", "error")] * 2


def test_every_prefix_of_every_format_is_unreadable_or_whole(tmp_path: Path):
    case = map_case(tmp_path)
    for ending in (".nii", ".nii.gz", ".nrrd", ".mha"):
        path = tmp_path / f"cut{ending}"
        write_volume(path, label_of())
        whole = path.read_bytes()
        for length in {*range(0, len(whole) - 1, 41), len(whole) // 2}:
            path.write_bytes(whole[:length])
            if kinds(check_case(Case("a", case.image, path), LABELS)) != [("unreadable file", "error")]:
                # only the end of the compressed stream, which holds no voxels, may be cut off without harm
                np.testing.assert_array_equal(read_volume(path).array, label_of().array)


def folder(root: Path) -> Dataset:
    """Four cases: sound, flipped label, unknown value, no label; and a label without an image."""
    map_case(root, name="sound")
    map_case(root, name="turned", label=flipped(label_of()))
    map_case(root, name="wrong", label=set_voxel(9, "uint8")(label_of()))
    write_volume(root / "images" / "bare.nrrd", image_of())
    write_volume(root / "labels" / "alone.nrrd", label_of())
    (root / "labels.json").write_text(json.dumps(LABELS))
    return find_dataset(root)


def test_a_data_set_is_checked_in_order_with_progress(tmp_path: Path):
    dataset = folder(tmp_path)
    calls: list[tuple[int, int, str]] = []
    faults = check_dataset(dataset, lambda done, total, name: calls.append((done, total, name)))
    assert [(fault.case, fault.kind, fault.severity) for fault in faults] == [
        ("", "missing pair", "error"),
        ("bare", "image without label", "warning"),
        ("turned", "origin", "error"),
        ("turned", "direction", "error"),
        ("wrong", "unknown label value", "error"),
    ]
    assert calls == [(1, 4, "bare"), (2, 4, "sound"), (3, 4, "turned"), (4, 4, "wrong")]
    assert "alone.nrrd: missing pair: found a label without an image" in str(faults[0])


def test_an_image_that_is_listed_but_not_there_is_a_missing_pair(tmp_path: Path):
    map_case(tmp_path)
    for old, new in (("images", "imagesTr"), ("labels", "labelsTr")):
        os.rename(tmp_path / old, tmp_path / new)
    listed = {"labels": LABELS, "training": [{"image": "imagesTr/b.nii.gz", "label": "labelsTr/b.nii.gz"}]}
    (tmp_path / "dataset.json").write_text(json.dumps(listed))
    (fault,) = check_dataset(find_dataset(tmp_path))
    assert (fault.kind, fault.found) == ("missing pair", "listed in dataset.json but not there")


def test_repair_writes_a_sound_copy_and_leaves_the_source(tmp_path: Path):
    dataset = folder(tmp_path / "source")
    before = {path: path.read_bytes() for path in (tmp_path / "source").rglob("*") if path.is_file()}
    left = repair_dataset(dataset, tmp_path / "out")
    assert [(fault.case, fault.kind) for fault in left] == [("wrong", "unknown label value")]
    repaired = find_dataset(tmp_path / "out")
    assert (repaired.layout, repaired.labels) == ("folders", LABELS)
    assert [case.name for case in repaired.cases] == ["bare", "sound", "turned"]
    assert kinds(check_dataset(repaired)) == [("image without label", "warning")]
    np.testing.assert_array_equal(read_volume(tmp_path / "out/labels/turned.nii.gz").array, label_of().array)
    for name in ("images/sound.nii.gz", "labels/sound.nii.gz", "images/turned.nii.gz", "images/bare.nrrd"):
        assert (tmp_path / "out" / name).read_bytes() == before[tmp_path / "source" / name]
    assert before == {path: path.read_bytes() for path in (tmp_path / "source").rglob("*") if path.is_file()}


def test_repair_combines_masks_and_keeps_what_is_unlabelled(tmp_path: Path):
    mask_case(tmp_path / "source", Heart=flipped(organ(3)), Liver=organ(5))
    (tmp_path / "source" / "unlabelled.json").write_text('{"a": ["Liver"]}')
    dataset = find_dataset(tmp_path / "source", labels={"Liver": 1, "Heart": 2})
    assert repair_dataset(dataset, tmp_path / "out") == []
    repaired = find_dataset(tmp_path / "out")
    assert list(repaired.labels) == ["Liver", "Heart"]
    assert repaired.cases[0].unlabelled == ("Liver",)
    array = read_volume(tmp_path / "out/labels/a.nii.gz").array
    np.testing.assert_array_equal(array, 2 * organ(3).array + organ(5).array)


def test_repair_drops_values_that_were_not_chosen(tmp_path: Path):
    map_case(tmp_path / "source")
    (tmp_path / "source" / "labels.json").write_text(json.dumps(LABELS))
    assert repair_dataset(find_dataset(tmp_path / "source", labels={"Lung": 5}), tmp_path / "out") == []
    assert check_dataset(find_dataset(tmp_path / "out")) == []
    np.testing.assert_array_equal(read_volume(tmp_path / "out/labels/a.nii.gz").array, 5 * organ(5).array)


def test_repair_never_writes_over_or_into_anything(tmp_path: Path):
    dataset = folder(tmp_path / "source")
    with pytest.raises(UserError, match="something there already"):
        repair_dataset(dataset, tmp_path / "source")
    with pytest.raises(UserError, match="a place in the data set"):
        repair_dataset(dataset, tmp_path / "source" / "new")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="wanted a place that can be written"):
        repair_dataset(dataset, tmp_path / "file" / "out")


def test_a_flipped_label_of_a_dicom_series_is_repaired_by_place(tmp_path: Path):
    case = Case("ct", real_data("dicom_ct", "series"), real_data("dicom_ct", "segmentation.nii.gz"))
    assert case.label is not None
    source = read_volume(case.label)
    values = np.unique(source.array)
    labels = {f"Organ{value}": int(value) for value in values if value}
    faults = check_case(case, labels)
    assert [(fault.kind, fault.fix) for fault in faults] == [("origin", REPAIR), ("direction", REPAIR)]
    repair_case(case, labels, tmp_path)
    repaired = Case("ct", tmp_path / "images" / "ct.nii.gz", tmp_path / "labels" / "ct.nii.gz")
    image, label = read_volume(repaired.image), read_volume(tmp_path / "labels" / "ct.nii.gz")
    np.testing.assert_array_equal(image.array, read_volume(case.image).array)
    assert mismatches(label.geometry, read_geometry(case.image)) == []
    # Every index of y meets the same millimetre on the other grid, where the axis runs backwards.
    step, start = source.geometry.spacing[1], source.geometry.origin[1]
    rows = [round((start - (label.geometry.origin[1] + row * step)) / step) for row in range(label.array.shape[1])]
    np.testing.assert_array_equal(label.array, source.array[:, rows])
    assert (label.array != source.array).any()
    assert check_case(repaired, labels) == []


@pytest.mark.parametrize(("name", "warnings"), [("Task04_Hippocampus", 0), ("openkbp", 0), ("abdomen_ct", 1)])
def test_real_data_sets_have_no_errors(name: str, warnings: int):
    dataset = find_dataset(real_data(name))
    faults = check_dataset(Dataset(dataset.root, dataset.layout, dataset.labels, dataset.cases[:4]))
    assert [fault.severity for fault in faults] == ["warning"] * warnings


def test_a_repaired_real_case_reads_the_same(tmp_path: Path):
    dataset = find_dataset(real_data("openkbp"))
    case = dataset.cases[0]
    assert repair_dataset(Dataset(dataset.root, dataset.layout, dataset.labels, (case,)), tmp_path / "out") == []
    repaired = find_dataset(tmp_path / "out")
    grid = read_geometry(case.image)
    np.testing.assert_array_equal(
        read_label(repaired.cases[0], repaired.labels, grid).array, read_label(case, dataset.labels, grid).array
    )
