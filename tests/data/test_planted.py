"""Every planted fault is found and named, and sound data are left in peace."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from ars_jax.data.check import examine_dataset
from ars_jax.data.faults import CANNOT_TELL, IMAGE_HEADER, LABEL_HEADER, REPAIR, Fault
from ars_jax.data.geometry import mismatches
from ars_jax.data.layouts import find_dataset
from ars_jax.data.overview import overview
from ars_jax.data.repair import repair_dataset
from ars_jax.data.volumes import Volume, read_volume, write_volume
from tests.data import planted
from tests.data.small_sets import flipped
from tests.realdata import real_data


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.write_sound(tmp_path_factory.mktemp("sound") / "set")


def faults_of(root: Path) -> tuple[Fault, ...]:
    return examine_dataset(find_dataset(root)).faults


def test_a_sound_set_has_no_fault_as_maps_and_as_masks(sound: Path, sound_masks: Path) -> None:
    assert faults_of(sound) == ()
    assert faults_of(sound_masks) == ()


def assert_found(faults: tuple[Fault, ...], wanted: set[tuple[str, str, str, str]], root: Path) -> None:
    fixes = {REPAIR, LABEL_HEADER, IMAGE_HEADER, CANNOT_TELL}
    found = {(fault.case, fault.kind, fault.severity, fault.fix if fault.fix in fixes else "") for fault in faults}
    assert found == wanted
    for fault in faults:
        assert fault.file.startswith(str(root))
        assert fault.found
        assert fault.wanted
        assert fault.fix
        assert "\n" not in str(fault)


@pytest.mark.parametrize("name", planted.PLANTS)
def test_a_planted_fault_is_found_and_nothing_else(sound: Path, tmp_path: Path, name: str) -> None:
    plant, wanted = planted.PLANTS[name]
    root = planted.planted(sound, tmp_path / "set", plant)
    assert_found(faults_of(root), wanted, root)


@pytest.fixture(scope="module")
def sound_masks(sound: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return planted.masks_of(sound, tmp_path_factory.mktemp("masks") / "set")


@pytest.mark.parametrize("name", planted.MASK_PLANTS)
def test_a_fault_planted_in_masks_is_found_and_nothing_else(sound_masks: Path, tmp_path: Path, name: str) -> None:
    plant, wanted = planted.MASK_PLANTS[name]
    root = planted.planted(sound_masks, tmp_path / "set", plant)
    assert_found(faults_of(root), wanted, root)


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


def test_the_known_faults_of_lits_are_listed_and_repaired_only_when_asked(sound: Path, tmp_path: Path) -> None:
    """A volume of 3D-IRCADb under an identity affine, label 53 under another, and mixed directions, which are none.

    And a volume that alone lost its place, which its label still holds.
    """
    root = tmp_path / "lits"
    for name, number in zip(planted.CASES, (0, 1, 28, 53, 60, 68, 70, 71), strict=True):
        image, label = read_volume(planted.image_path(sound, name)), read_volume(planted.label_path(sound, name))
        array = np.where(label.array <= 2, label.array, 0).astype(np.uint8)
        write_volume(root / f"volume-{number}.nii", image)
        write_volume(root / f"segmentation-{number}.nii", Volume(array, label.geometry))
    planted.identity(root / "volume-28.nii", root / "segmentation-28.nii")
    planted.identity(root / "segmentation-53.nii", root / "volume-60.nii")
    for path in (root / "volume-68.nii", root / "segmentation-68.nii"):
        write_volume(path, flipped(read_volume(path)))
    examination = examine_dataset(find_dataset(root))
    assert {(Path(fault.file).name, fault.kind, fault.severity) for fault in examination.faults} == {
        ("volume-28.nii", "identity affine", "warning"),
        ("segmentation-53.nii", "identity affine", "error"),
        ("volume-60.nii", "identity affine", "error"),
    }
    assert overview(examination).orientations == {"LPS": 5, "RAS": 2, "LAS": 1}
    assert len(repair_dataset(examination, tmp_path / "plain")) == 2
    assert repair_dataset(examination, tmp_path / "out", headers=True) == []
    (copy,) = (tmp_path / "out" / "images").glob("*60.nii.gz")
    assert mismatches(read_volume(copy).geometry, read_volume(root / "segmentation-60.nii").geometry) == []
    kinds = [fault.kind for fault in examine_dataset(find_dataset(tmp_path / "out")).faults]
    assert kinds == ["identity affine"], "no file holds the true spacing of volume 28"


@pytest.mark.parametrize(
    ("name", "kinds"),
    [("openkbp", {"volume"}), ("Task04_Hippocampus", set()), ("abdomen_ct", {"empty label"})],
)
def test_real_sets_have_no_error_and_few_warnings(name: str, kinds: set[str]) -> None:
    """The warnings of OpenKBP are contours that end early: most are a third to two thirds as long as usual."""
    dataset = find_dataset(real_data(name))
    faults = examine_dataset(dataclasses.replace(dataset, cases=dataset.cases[:40])).faults
    assert {fault.severity for fault in faults} <= {"warning"}
    assert {fault.kind for fault in faults} == kinds
    assert len(faults) <= 6
