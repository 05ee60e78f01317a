"""A repaired copy is sound, keeps what was right byte by byte, and the source is never touched."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from ars_jax.data.cases import Case
from ars_jax.data.check import examine_case, examine_dataset
from ars_jax.data.faults import CANNOT_TELL, IMAGE_HEADER, LABEL_HEADER, REPAIR
from ars_jax.data.geometry import Geometry, mismatches
from ars_jax.data.layouts import find_dataset, read_label
from ars_jax.data.repair import repair_case, repair_dataset
from ars_jax.data.splits import split_cases
from ars_jax.data.volumes import Volume, read_geometry, read_volume
from ars_jax.errors import UserError
from tests.data.dicom_files import box_contours, write_series, write_structures
from tests.data.small_sets import (
    GRID,
    LABELS,
    bright_of,
    flipped,
    folder,
    image_of,
    label_of,
    map_case,
    mask_case,
    organ,
)
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
    mask_case(tmp_path / "source", bright_of(label_of()), Heart=flipped(organ(3)), Liver=organ(5))
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
    map_case(root, name="turned", image=bright_of(label_of(mark=3), seed=3), label=flipped(label_of(mark=3)))
    (root / "labels.json").write_text(json.dumps(LABELS))
    examination = examine_dataset(find_dataset(root))
    assert {fault.case for fault in repair_dataset(examination, tmp_path / "plain")} == {"image", "label"}
    assert [case.name for case in find_dataset(tmp_path / "plain").cases] == ["turned"]
    assert repair_dataset(examination, tmp_path / "out", headers=True) == []
    repaired = find_dataset(tmp_path / "out")
    assert examine_dataset(repaired).faults == ()
    images = image_of(seed=1), image_of(seed=2), bright_of(label_of(mark=3), seed=3)
    for case, seed, source in zip(repaired.cases, (1, 2, 3), images, strict=True):
        image = read_volume(case.image)
        assert mismatches(image.geometry, GRID) == []
        np.testing.assert_array_equal(image.array, source.array)
        label = read_volume(tmp_path / "out" / "labels" / f"{case.name}.nii.gz")
        assert mismatches(label.geometry, GRID) == []
        np.testing.assert_array_equal(label.array, label_of(mark=seed).array)


def repaired_masks(root: Path, image: Volume | None = None, **masks: Volume) -> tuple[set[str], Path]:
    """The fixes of the errors, and the copy with headers."""
    mask_case(root / "source", image, **masks)
    examination = examine_dataset(find_dataset(root / "source", labels=LABELS))
    repair_dataset(examination, root / "out", headers=True)
    return {fault.fix for fault in examination.faults if fault.severity == "error"}, root / "out"


def test_headers_of_masks_and_images_beside_masks_are_taken_over(tmp_path: Path):
    nowhere = Volume(organ(5).array, NOWHERE)
    fixes, out = repaired_masks(tmp_path / "mask", Heart=organ(3), Lung=nowhere)
    assert fixes == {LABEL_HEADER}
    np.testing.assert_array_equal(read_volume(out / "labels/a.nii.gz").array, label_of().array)
    fixes, out = repaired_masks(tmp_path / "image", image_of(NOWHERE), Heart=organ(3), Lung=organ(5))
    assert fixes == {IMAGE_HEADER}
    image, label = read_volume(out / "images/a.nii.gz"), read_volume(out / "labels/a.nii.gz")
    assert mismatches(image.geometry, GRID) == mismatches(label.geometry, GRID) == []
    np.testing.assert_array_equal(image.array, image_of().array)
    np.testing.assert_array_equal(label.array, label_of().array)
    assert examine_dataset(find_dataset(out)).faults == ()


@pytest.mark.parametrize(
    ("heart", "lung"),
    [
        (NOWHERE, GRID),
        (GRID, NOWHERE),
        (GRID, Geometry(GRID.shape, GRID.spacing, (10.0, 20.0, 38.0))),
        (Geometry((12, 7, 8), (1.0, 1.0, 1.0), GRID.origin), GRID),
    ],
)
def test_an_image_takes_no_header_that_its_masks_do_not_share(tmp_path: Path, heart: Geometry, lung: Geometry):
    """Else the organs of the others would come to another place, or to none."""
    fixes, out = repaired_masks(tmp_path, image_of(NOWHERE), Heart=organ(3, heart), Lung=organ(5, lung))
    assert CANNOT_TELL in fixes
    assert not (out / "images").exists()
    assert not (out / "labels").exists()


def test_the_split_of_a_copy_names_its_cases(tmp_path: Path):
    dataset = folder(tmp_path / "source")
    split = tmp_path / "source" / "split.json"
    split.write_text('{"train": ["sound", "wrong"], "validation": ["turned"]}')
    repair_dataset(examine_dataset(dataset), tmp_path / "out")
    parts = split_cases(find_dataset(tmp_path / "out"), split=Path("split.json"))
    assert [[case.name for case in part] for part in parts] == [["sound"], ["turned"], []]
    for number, text in enumerate(('{"train": ["sound"],  "validation": ["turned"]}', '{"train": "all"}', "no JSON")):
        split.write_text(text)
        repair_dataset(examine_dataset(dataset), tmp_path / str(number))
        assert (tmp_path / str(number) / "split.json").read_text() == text


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
