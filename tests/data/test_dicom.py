import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from ars_jax.data.cases import Case
from ars_jax.data.check import examine_dataset
from ars_jax.data.dicom import Export, find_export
from ars_jax.data.geometry import mismatches
from ars_jax.data.layouts import find_dataset, read_label
from ars_jax.data.prepare import prepare_dataset
from ars_jax.data.streams import STRUCTURE_SET, dicom_kind
from ars_jax.data.volumes import read_volume, write_volume
from ars_jax.errors import UserError
from tests.data.dicom_files import FRAME, SERIES, box_contours, write_dose, write_series, write_structures
from tests.data.synthetic import LABELS, ORIENTATIONS, PLAN, ct, grid
from tests.realdata import real_data

IMAGE, LABEL = ct(grid())
CONTOURS = {organ: box_contours(LABEL.array, LABEL.geometry, value) for organ, value in LABELS.items()}


def put(path: Path, content: object) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def nested(folder: Path) -> Path:
    """A case as archives hand it out: a folder per study and series, names that mean nothing, more than is needed."""
    study = folder / "2031-05-04 planning"
    write_series(study / "2.000 head" / "files", IMAGE, ending="")
    write_structures(study / "1.000 contours" / "1-1", CONTOURS)
    write_dose(study / "0.000 dose" / "1-1.dcm")
    (study / "report.pdf").write_bytes(b"%PDF")
    (study / ".hidden.nii").write_bytes(b"")
    return folder


def flat(folder: Path) -> Path:
    """A case as planning systems export it: everything in one folder."""
    write_series(folder, IMAGE)
    write_structures(folder / "RS.1.dcm", CONTOURS)
    write_dose(folder / "RD.1.dcm")
    return folder


@pytest.mark.parametrize("export", [nested, flat])
def test_contours_are_found_beside_the_series_and_read_on_it(tmp_path: Path, export):
    export(tmp_path / "case")
    dataset = find_dataset(tmp_path, labels=LABELS)
    (case,) = dataset.cases
    assert (dataset.layout, dataset.labels, case.name, case.labelled) == ("dicom", LABELS, "case", True)
    image = read_volume(case.image)
    np.testing.assert_array_equal(image.array, IMAGE.array)
    label = read_label(case, dataset.labels, image.geometry)
    expected = np.select([LABEL.array == value for value in LABELS.values()], [1, 2])
    np.testing.assert_array_equal(label.array, expected)


def test_a_label_map_beside_a_series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for name in ("a", "b"):
        write_series(tmp_path / name / "ct", IMAGE)
    write_volume(tmp_path / "a" / "label.nii.gz", LABEL)
    put(tmp_path / "labels.json", LABELS)
    monkeypatch.setitem(sys.modules, "pydicom", None)  # which only structure sets need
    dataset = find_dataset(tmp_path)
    a, b = dataset.cases
    assert (dataset.layout, dataset.labels, b.labelled) == ("dicom", LABELS, False)
    assert (a.image, a.label) == (tmp_path / "a" / "ct", tmp_path / "a" / "label.nii.gz")
    assert set(np.unique(read_label(a, dataset.labels, read_volume(a.image).geometry).array)) == {0, 1, 2}


def test_what_was_drawn_without_a_series_is_named(tmp_path: Path):
    flat(tmp_path / "case")
    structures = write_structures(tmp_path / "lost" / "RS.dcm", CONTOURS)
    assert find_dataset(tmp_path, labels=LABELS).orphans == (structures,)


def test_the_series_that_the_structure_set_refers_to_is_taken(tmp_path: Path):
    folder = nested(tmp_path / "case")
    write_series(folder / "scout", IMAGE, series="1.2.3")
    assert find_export(folder).image == folder / "2031-05-04 planning" / "2.000 head" / "files"
    write_series(folder / "again", IMAGE, series=SERIES)
    assert re.search(r"case: found 3 image series: .*files, again, scout; wanted one", str(find_export(folder).fault))


def test_one_of_several_series_cannot_be_chosen_for_a_label_map(tmp_path: Path):
    for name in ("a", "b"):
        write_series(tmp_path / name, IMAGE)
    with pytest.raises(UserError, match=r"found 2 image series: a, b; wanted one"):
        find_export(tmp_path)
    write_volume(tmp_path / "label.nii", LABEL)
    assert "found 2 image series: a, b; wanted one" in str(find_export(tmp_path).fault)


SEVERAL = {
    "structure sets": (lambda folder: write_structures(folder / "RS.2.dcm", CONTOURS), "0 label maps and 2 structure"),
    "a label map too": (lambda folder: write_volume(folder / "l.nrrd", LABEL), "1 label maps and 1 structure sets"),
    "series": (lambda folder: write_series(folder / "b", IMAGE), "2 image series: ., b"),
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_a_case_of_several_labels_or_series_is_listed_by_the_check_and_stops_a_training(tmp_path: Path, kind: str):
    """The check goes on to the other cases."""
    add, words = SEVERAL[kind]
    for name in ("a", "b", "c"):
        flat(tmp_path / name)
    add(tmp_path / "b")
    dataset = find_dataset(tmp_path, labels=LABELS)
    assert [case.labelled for case in dataset.cases] == [True] * 3
    examination = examine_dataset(dataset)
    errors = [fault for fault in examination.faults if fault.case == "b" and fault.severity == "error"]
    assert any(words in fault.found for fault in errors)
    assert all(survey.organs for survey in examination.cases if survey.case != "b")
    with pytest.raises(UserError, match=f"b: found {words}"):
        prepare_dataset(dataset.cases, LABELS, PLAN, tmp_path / "cache")
    with pytest.raises(UserError, match=f"b: found {words}"):
        read_label(dataset.cases[1], LABELS, IMAGE.geometry)


def test_two_label_maps_are_a_fault_too(tmp_path: Path):
    write_series(tmp_path / "case", IMAGE)
    for name in ("l.nii", "m.nii"):
        write_volume(tmp_path / "case" / name, LABEL)
    faults = examine_dataset(find_dataset(tmp_path, labels=LABELS)).faults
    assert [fault.found for fault in faults] == ["2 label maps and 0 structure sets: l.nii, m.nii"]


def test_a_structure_set_that_ends_early_does_not_hide_the_names_in_others(tmp_path: Path):
    paths = [flat(tmp_path / name) / "RS.1.dcm" for name in ("a", "b")]
    paths[0].write_bytes(paths[0].read_bytes()[:-200])
    with pytest.raises(UserError, match=r"RS.1.dcm has Ball_L, Ball_R; wanted labels in the configuration"):
        find_dataset(tmp_path)
    faults = examine_dataset(find_dataset(tmp_path, labels=LABELS)).faults
    assert {fault.case for fault in faults if fault.severity == "error"} == {"a"}
    paths[1].write_bytes(paths[1].read_bytes()[:-200])
    with pytest.raises(UserError, match=r"a/RS.1.dcm: found no whole DICOM file"):
        find_dataset(tmp_path)


def test_a_folder_without_dicom_has_no_case(tmp_path: Path):
    assert find_export(tmp_path) == Export(None, None, None)


def test_organs_are_found_by_the_names_that_a_clinic_gives_them(tmp_path: Path):
    flat(tmp_path / "case")
    write_structures(tmp_path / "case" / "RS.1.dcm", {"ball li": CONTOURS["Ball_L"], "BALL R": CONTOURS["Ball_R"]})
    put(tmp_path / "contours.json", {"Ball_R": [], "Ball_L": "Ball Li"})
    dataset = find_dataset(tmp_path)
    (case,) = dataset.cases
    assert dataset.labels == {"Ball_R": 1, "Ball_L": 2}
    assert case.contours == {"Ball_R": ("Ball_R",), "Ball_L": ("Ball_L", "Ball Li")}
    assert find_dataset(tmp_path, labels={"Ball_L": 5}).cases[0].contours == {"Ball_L": ("Ball_L", "Ball Li")}
    assert set(np.unique(read_label(case, dataset.labels, IMAGE.geometry).array)) == {0, 1, 2}


def test_without_a_list_of_organs_the_names_that_are_there_are_shown(tmp_path: Path):
    flat(tmp_path / "case")
    with pytest.raises(UserError, match=r"RS.1.dcm has Ball_L, Ball_R; wanted labels in the configuration, or contour"):
        find_dataset(tmp_path)


@pytest.mark.parametrize("content", [{"Ball_L": 3}, {"Ball_L": [3]}, ["Ball_L"], 7])
def test_mistakes_in_contours_json_are_errors(tmp_path: Path, content: object):
    flat(tmp_path / "case")
    put(tmp_path / "contours.json", content)
    with pytest.raises(UserError, match=r"contours.json: found another form"):
        find_dataset(tmp_path)


def test_an_undrawn_organ_may_be_missing_where_it_is_listed(tmp_path: Path):
    flat(tmp_path / "case")
    write_structures(tmp_path / "case" / "RS.1.dcm", {"Ball_R": CONTOURS["Ball_R"]})
    with pytest.raises(UserError, match=r"no contour named Ball_L; wanted one of: Ball_R; fix: .*unlabelled.json"):
        read_label(find_dataset(tmp_path, labels=LABELS).cases[0], LABELS, IMAGE.geometry)
    put(tmp_path / "unlabelled.json", {"case": ["Ball_L"]})
    label = read_label(find_dataset(tmp_path, labels=LABELS).cases[0], LABELS, IMAGE.geometry)
    assert set(np.unique(label.array)) == {0, 2}


@pytest.mark.parametrize("direction", ORIENTATIONS.values(), ids=ORIENTATIONS)
def test_a_series_is_read_at_its_place_in_any_orientation(tmp_path: Path, direction: np.ndarray):
    image = ct(grid(direction=direction))[0]
    read = read_volume(write_series(tmp_path, image))
    assert not mismatches(read.geometry, image.geometry)
    np.testing.assert_array_equal(read.array, image.array)


def test_other_files_in_a_folder_of_slices_are_passed_over_but_no_slice_may_be_lost(tmp_path: Path):
    flat(tmp_path)
    np.testing.assert_array_equal(read_volume(tmp_path).array, IMAGE.array)
    (tmp_path / "000.dcm").write_bytes(b"no slice any more")
    with pytest.raises(UserError, match=r"000.dcm: found an unreadable DICOM slice"):
        read_volume(tmp_path)
    write_series(tmp_path, IMAGE)
    write_series(tmp_path, IMAGE, series=f"{SERIES[:-3]}", ending=".ima", frame=FRAME)
    with pytest.raises(UserError, match=r"found 2 DICOM series"):
        read_volume(tmp_path)


def test_kinds_of_files(tmp_path: Path):
    assert dicom_kind(write_structures(tmp_path / "a", {})) == STRUCTURE_SET
    (tmp_path / "b").write_bytes(b"DICM" * 100)
    assert [dicom_kind(path) for path in (tmp_path / "b", tmp_path, tmp_path / "none")] == ["", "", ""]


def test_a_real_series_with_a_label_map(tmp_path: Path):
    (tmp_path / "case").symlink_to(real_data("dicom_ct"))
    values = np.unique(read_volume(real_data("dicom_ct", "segmentation.nii.gz")).array)
    labels = {f"Organ{value}": int(value) for value in values if value}
    dataset = find_dataset(tmp_path, labels=labels)
    assert (dataset.layout, dataset.orphans) == ("dicom", ())
    assert dataset.cases == (Case("case", tmp_path / "case" / "series", tmp_path / "case" / "segmentation.nii.gz"),)
