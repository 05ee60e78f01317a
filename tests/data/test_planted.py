"""Every planted fault is found and named, and sound data are left in peace."""

import dataclasses
from pathlib import Path

import pytest

from ars_jax.data.check import examine_dataset
from ars_jax.data.faults import Fault
from ars_jax.data.layouts import find_dataset
from tests.data import planted
from tests.realdata import real_data


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.write_sound(tmp_path_factory.mktemp("sound") / "set")


def faults_of(root: Path) -> tuple[Fault, ...]:
    return examine_dataset(find_dataset(root)).faults


def test_a_sound_set_has_no_fault_as_maps_and_as_masks(sound: Path, tmp_path: Path) -> None:
    assert faults_of(sound) == ()
    assert faults_of(planted.masks_of(sound, tmp_path)) == ()


@pytest.mark.parametrize("name", planted.PLANTS)
def test_a_planted_fault_is_found_and_no_other_case_is_blamed(sound: Path, tmp_path: Path, name: str) -> None:
    plant, wanted = planted.PLANTS[name]
    faults = faults_of(planted.planted(sound, tmp_path / "set", plant))
    found = {(fault.case, fault.kind, fault.severity) for fault in faults}
    assert wanted <= found
    assert {case for case, _, _ in found} == {case for case, _, _ in wanted}
    for fault in faults:
        assert fault.file.startswith(str(tmp_path))
        assert fault.found
        assert fault.wanted
        assert fault.fix
        assert "\n" not in str(fault)


def test_faults_of_masks_are_found_too(sound: Path, tmp_path: Path) -> None:
    root = planted.masks_of(sound, tmp_path)
    structures = root / planted.VICTIM / "structures"
    left, right, keep = structures / "Parotid_L.nrrd", structures / "Parotid_R.nrrd", structures / "keep"
    left.rename(keep)
    right.rename(left)
    keep.rename(right)
    (structures / "Larynx.nrrd").unlink()
    planted.identity(root / planted.OTHER / "img.nrrd")
    assert {(fault.case, fault.kind) for fault in faults_of(root)} == {
        (planted.VICTIM, "left and right"),
        (planted.VICTIM, "missing organ mask"),
        (planted.OTHER, "identity affine"),
    }


@pytest.mark.parametrize(
    ("name", "kinds"),
    [("openkbp", {"volume"}), ("Task04_Hippocampus", set()), ("abdomen_ct", {"empty label"})],
)
def test_real_sets_have_no_error_and_few_warnings(name: str, kinds: set[str]) -> None:
    """OpenKBP's warnings are unfinished contours: brainstems and cords of a quarter of the usual length."""
    dataset = find_dataset(real_data(name))
    faults = examine_dataset(dataclasses.replace(dataset, cases=dataset.cases[:40])).faults
    assert {fault.severity for fault in faults} <= {"warning"}
    assert {fault.kind for fault in faults} == kinds
    assert len(faults) <= 6
