import json
import sys
from pathlib import Path

import numpy as np
import pytest

from ars_jax.data.cases import Case
from ars_jax.data.dicom import Export, find_export
from ars_jax.data.layouts import find_dataset, read_label
from ars_jax.data.streams import STRUCTURE_SET, dicom_kind
from ars_jax.data.volumes import mismatches, read_volume, write_volume
from ars_jax.errors import UserError
from tests.data.dicom_files import FRAME, SERIES, box_contours, write_dose, write_series, write_structures
from tests.data.synthetic import LABELS, ORIENTATIONS, ct, grid
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
    with pytest.raises(UserError, match=r"case: found 3 image series: .*files, again, scout; wanted one"):
        find_export(folder)


def test_one_of_several_series_cannot_be_chosen_for_a_label_map(tmp_path: Path):
    for name in ("a", "b"):
        write_series(tmp_path / name, IMAGE)
    write_volume(tmp_path / "label.nii", LABEL)
    with pytest.raises(UserError, match=r"found 2 image series: a, b; wanted one"):
        find_export(tmp_path)


def test_several_labels_are_an_error(tmp_path: Path):
    flat(tmp_path)
    write_volume(tmp_path / "label.nrrd", LABEL)
    with pytest.raises(UserError, match=r"found 1 label maps and 1 structure sets: label.nrrd, RS.1.dcm; wanted one"):
        find_export(tmp_path)


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
