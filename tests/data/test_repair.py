"""A repaired copy is sound, keeps what was right byte by byte, and the source is never touched."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from ars_jax.data.cases import Case
from ars_jax.data.check import examine_case, examine_dataset
from ars_jax.data.faults import LABEL_HEADER, REPAIR
from ars_jax.data.layouts import find_dataset, read_label
from ars_jax.data.repair import repair_case, repair_dataset
from ars_jax.data.volumes import Geometry, Volume, mismatches, read_geometry, read_volume
from ars_jax.errors import UserError
from tests.data.dicom_files import box_contours, write_series, write_structures
from tests.data.small_sets import GRID, LABELS, flipped, folder, image_of, label_of, map_case, mask_case, organ
from tests.data.synthetic import LABELS as BALLS
from tests.data.synthetic import ct, grid
from tests.realdata import real_data


def test_repair_writes_a_sound_copy_and_leaves_the_source(tmp_path: Path):
    dataset = folder(tmp_path / "source")
    before = {path: path.read_bytes() for path in (tmp_path / "source").rglob("*") if path.is_file()}
    left = repair_dataset(examine_dataset(dataset), tmp_path / "out")
    assert [(fault.case, fault.kind) for fault in left] == [("wrong", "unknown label value")]
    repaired = find_dataset(tmp_path / "out")
    assert (repaired.layout, repaired.labels) == ("folders", LABELS)
    assert [case.name for case in repaired.cases] == ["bare", "sound", "turned"]
    assert [fault.kind for fault in examine_dataset(repaired).faults] == ["image without label"]
    np.testing.assert_array_equal(read_volume(tmp_path / "out/labels/turned.nii.gz").array, label_of(mark=1).array)
    for name in ("images/sound.nii.gz", "labels/sound.nii.gz", "images/turned.nii.gz", "images/bare.nrrd"):
        assert (tmp_path / "out" / name).read_bytes() == before[tmp_path / "source" / name]
    assert before == {path: path.read_bytes() for path in (tmp_path / "source").rglob("*") if path.is_file()}


def test_repair_combines_masks_and_keeps_what_is_unlabelled(tmp_path: Path):
    mask_case(tmp_path / "source", Heart=flipped(organ(3)), Liver=organ(5))
    (tmp_path / "source" / "unlabelled.json").write_text('{"a": ["Liver"]}')
    dataset = find_dataset(tmp_path / "source", labels={"Liver": 1, "Heart": 2})
    assert repair_dataset(examine_dataset(dataset), tmp_path / "out") == []
    repaired = find_dataset(tmp_path / "out")
    assert list(repaired.labels) == ["Liver", "Heart"]
    assert repaired.cases[0].unlabelled == ("Liver",)
    array = read_volume(tmp_path / "out/labels/a.nii.gz").array
    np.testing.assert_array_equal(array, 2 * organ(3).array + organ(5).array)


def test_repair_drops_values_that_were_not_chosen(tmp_path: Path):
    map_case(tmp_path / "source")
    (tmp_path / "source" / "labels.json").write_text(json.dumps(LABELS))
    assert (
        repair_dataset(examine_dataset(find_dataset(tmp_path / "source", labels={"Lung": 5})), tmp_path / "out") == []
    )
    assert examine_dataset(find_dataset(tmp_path / "out")).faults == ()
    np.testing.assert_array_equal(read_volume(tmp_path / "out/labels/a.nii.gz").array, 5 * organ(5).array)


def test_repair_never_writes_over_or_into_anything(tmp_path: Path):
    dataset = folder(tmp_path / "source")
    with pytest.raises(UserError, match="something there already"):
        repair_dataset(examine_dataset(dataset), tmp_path / "source")
    with pytest.raises(UserError, match="a place in the data set"):
        repair_dataset(examine_dataset(dataset), tmp_path / "source" / "new")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="wanted a place that can be written"):
        repair_dataset(examine_dataset(dataset), tmp_path / "file" / "out")


NOWHERE = Geometry(GRID.shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, -1.0, 0, 0, 0, -1.0))


def test_headers_are_taken_over_only_when_asked(tmp_path: Path):
    """An image without a place takes its label's header, a label its image's; a rightly placed label is resampled."""
    root = tmp_path / "source"
    map_case(root, name="image", image=image_of(NOWHERE, seed=1), label=label_of(mark=1))
    map_case(root, name="label", image=image_of(seed=2), label=label_of(NOWHERE, mark=2))
    map_case(root, name="turned", image=image_of(seed=3), label=flipped(label_of(mark=3)))
    (root / "labels.json").write_text(json.dumps(LABELS))
    examination = examine_dataset(find_dataset(root))
    assert {fault.case for fault in repair_dataset(examination, tmp_path / "plain")} == {"image", "label"}
    assert [case.name for case in find_dataset(tmp_path / "plain").cases] == ["turned"]
    assert repair_dataset(examination, tmp_path / "out", headers=True) == []
    repaired = find_dataset(tmp_path / "out")
    assert examine_dataset(repaired).faults == ()
    for case, seed in zip(repaired.cases, (1, 2, 3), strict=True):
        image = read_volume(case.image)
        assert mismatches(image.geometry, GRID) == []
        np.testing.assert_array_equal(image.array, image_of(seed=seed).array)
        label = read_volume(tmp_path / "out" / "labels" / f"{case.name}.nii.gz")
        assert mismatches(label.geometry, GRID) == []
        np.testing.assert_array_equal(label.array, label_of(mark=seed).array)


def test_headers_of_masks_and_images_beside_masks_are_taken_over(tmp_path: Path):
    nowhere = Volume(organ(5).array, NOWHERE)
    mask_case(tmp_path / "source", Heart=organ(3), Lung=nowhere)
    examination = examine_dataset(find_dataset(tmp_path / "source", labels=LABELS))
    assert [fault.fix for fault in examination.faults] == [LABEL_HEADER]
    assert repair_dataset(examination, tmp_path / "out", headers=True) == []
    np.testing.assert_array_equal(read_volume(tmp_path / "out/labels/a.nii.gz").array, label_of().array)


def test_a_flipped_label_of_a_dicom_series_is_repaired_by_place(tmp_path: Path):
    case = Case("ct", real_data("dicom_ct", "series"), real_data("dicom_ct", "segmentation.nii.gz"))
    assert case.label is not None
    source = read_volume(case.label)
    values = np.unique(source.array)
    labels = {f"Organ{value}": int(value) for value in values if value}
    faults, _ = examine_case(case, labels)
    assert [(fault.kind, fault.fix) for fault in faults] == [("origin", REPAIR), ("direction", REPAIR)]
    repair_case(case, labels, tmp_path, {fault.file: fault.fix for fault in faults})
    repaired = Case("ct", tmp_path / "images" / "ct.nii.gz", tmp_path / "labels" / "ct.nii.gz")
    image, label = read_volume(repaired.image), read_volume(tmp_path / "labels" / "ct.nii.gz")
    np.testing.assert_array_equal(image.array, read_volume(case.image).array)
    assert mismatches(label.geometry, read_geometry(case.image)) == []
    # Every index of y meets the same millimetre on the other grid, where the axis runs backwards.
    step, start = source.geometry.spacing[1], source.geometry.origin[1]
    rows = [round((start - (label.geometry.origin[1] + row * step)) / step) for row in range(label.array.shape[1])]
    np.testing.assert_array_equal(label.array, source.array[:, rows])
    assert (label.array != source.array).any()
    assert examine_case(repaired, labels)[0] == []


def test_a_repaired_real_case_reads_the_same(tmp_path: Path):
    dataset = find_dataset(real_data("openkbp"))
    case = dataset.cases[0]
    examination = examine_dataset(dataclasses.replace(dataset, cases=(case,)))
    assert repair_dataset(examination, tmp_path / "out") == []
    repaired = find_dataset(tmp_path / "out")
    grid = read_geometry(case.image)
    np.testing.assert_array_equal(
        read_label(repaired.cases[0], repaired.labels, grid).array, read_label(case, dataset.labels, grid).array
    )


def test_structure_sets_are_measured_and_become_label_maps(tmp_path: Path):
    image, label = ct(grid())
    contours = {organ: box_contours(label.array, label.geometry, value) for organ, value in BALLS.items()}
    write_series(tmp_path / "source" / "case", image)
    write_structures(tmp_path / "source" / "case" / "RS.1.dcm", contours)
    examination = examine_dataset(find_dataset(tmp_path / "source", labels=BALLS))
    assert examination.faults == ()
    for ball, value in BALLS.items():
        assert examination.cases[0].organs[ball].voxels == np.count_nonzero(label.array == value)
    assert repair_dataset(examination, tmp_path / "out") == []
    np.testing.assert_array_equal(read_volume(tmp_path / "out/labels/case.nii.gz").array, label.array)
    write_structures(tmp_path / "source" / "case" / "RS.1.dcm", {"Nose": contours["Ball_L"]})
    (fault,) = examine_dataset(find_dataset(tmp_path / "source", labels=BALLS)).faults
    assert (fault.kind, fault.severity) == ("structure set", "error")
    assert "Nose" in fault.wanted
