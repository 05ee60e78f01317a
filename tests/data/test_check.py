"""What is wrong with a case is named with both values; nothing stops the check."""

import json
import os
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from ars_jax.data.cases import Case
from ars_jax.data.check import examine_case, examine_dataset
from ars_jax.data.faults import CANNOT_TELL, IMAGE_HEADER, LABEL_HEADER, REPAIR, Fault
from ars_jax.data.geometry import Geometry
from ars_jax.data.layouts import find_dataset
from ars_jax.data.volumes import Volume, read_volume, write_volume
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
    set_voxel,
)


def check_case(case: Case, labels: Mapping[str, int]) -> list[Fault]:
    return examine_case(case, labels)[0]


def kinds(faults: list[Fault]) -> list[tuple[str, str]]:
    return [(fault.kind, fault.severity) for fault in faults]


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


def test_a_label_elsewhere_in_space_is_not_resampled(tmp_path: Path):
    """If it has the image's shape, its header may be wrong; else nothing mends it."""
    case = map_case(tmp_path, label=label_of(Geometry(GRID.shape, GRID.spacing, (10.0, 24.0, 30.0))))
    (fault,) = check_case(case, LABELS)
    assert (fault.kind, fault.severity, fault.fix) == ("origin", "error", LABEL_HEADER)
    case = map_case(tmp_path, label=label_of(Geometry((7, 7, 8), GRID.spacing, (10.0, 24.0, 30.0))))
    for fault in check_case(case, LABELS):
        assert fault.severity == "error"
        assert fault.fix not in (REPAIR, LABEL_HEADER, IMAGE_HEADER)


@pytest.mark.parametrize("axis", range(3))
@pytest.mark.parametrize("header_is_right", [True, False])
def test_the_image_tells_a_turned_label_from_a_turned_header(tmp_path: Path, axis: int, header_is_right: bool):
    label = label_of()
    turned = flipped(label, axis)
    stored = turned if header_is_right else Volume(label.array, turned.geometry)
    faults = check_case(map_case(tmp_path, image=bright_of(label), label=stored), LABELS)
    assert {fault.kind for fault in faults} == {"origin", "direction"}
    assert {fault.fix for fault in faults} == {REPAIR if header_is_right else LABEL_HEADER}


@pytest.mark.parametrize("axis", range(3))
def test_where_the_image_does_not_tell_a_turned_label_from_a_turned_header_nobody_does(tmp_path: Path, axis: int):
    """Left alone, a label could come to the wrong side without any sign of it."""
    label = label_of()
    even = bright_of(Volume(label.array | np.flip(label.array, axis), GRID))
    for stored in (flipped(label, axis), Volume(label.array, flipped(label, axis).geometry)):
        faults = check_case(map_case(tmp_path, image=even, label=stored), LABELS)
        assert {fault.fix for fault in faults} == {CANNOT_TELL}
    empty = Volume(np.zeros(GRID.shape, np.uint8), flipped(label, axis).geometry)
    faults = check_case(mask_case(tmp_path / "m", even, Heart=organ(3), Lung=empty), LABELS)
    assert {fault.fix for fault in faults if fault.severity == "error"} == {REPAIR}, "nothing comes to a wrong place"


@pytest.mark.parametrize("header_is_right", [True, False])
def test_paired_organs_tell_sides_where_the_image_is_even(tmp_path: Path, header_is_right: bool):
    sides = {"Lung_R": 3, "Lung_L": 5}  # x grows to the left
    label = label_of()
    even = bright_of(Volume(label.array | np.flip(label.array, 2), GRID))
    stored = flipped(label, 2) if header_is_right else Volume(label.array, flipped(label, 2).geometry)
    faults = check_case(map_case(tmp_path, image=even, label=stored), sides)
    leaning = {fault.fix for fault in faults}
    assert leaning == {REPAIR if header_is_right else LABEL_HEADER}
    # An image that lies as the label is stored is perhaps itself the one that is turned.
    shown = bright_of(Volume(stored.array, GRID))
    faults = check_case(map_case(tmp_path, image=shown, label=stored), sides)
    assert {fault.fix for fault in faults} == {CANNOT_TELL if header_is_right else LABEL_HEADER}


def contrast(label: Volume, ratio: float) -> Volume:
    """An image whose unrest within the label is this part of that within the label's mirror image."""
    rng = np.random.default_rng(0)
    array = rng.uniform(0, 1000, GRID.shape)
    calm = 0.15
    for number in np.unique(label.array)[1:]:
        for where, wanted in ((label.array == number, ratio * calm), (np.flip(label.array, 2) == number, calm)):
            width = 2 * (wanted - 0.02) * 900  # twice the distance of its quartiles
            array[where] = 500 + np.linspace(-width / 2, width / 2, np.count_nonzero(where))
    return Volume(array.astype(np.float32), GRID)


@pytest.mark.parametrize(("ratio", "fix"), [(0.4, LABEL_HEADER), (0.6, CANNOT_TELL), (1.6, CANNOT_TELL), (2.5, REPAIR)])
def test_what_is_mirrored_sideways_has_to_be_clearer(tmp_path: Path, ratio: float, fix: str):
    """A head meets itself: of 58 CTs, two are calmer by a third under the mirrored label, none by half."""
    label = label_of()
    stored = Volume(label.array, flipped(label, 2).geometry)
    faults = check_case(map_case(tmp_path, image=contrast(label, ratio), label=stored), LABELS)
    assert {fault.fix for fault in faults} == {fix}


def test_masks_of_one_grid_are_judged_together(tmp_path: Path):
    """The image is clear about the heart alone; the lung, which meets itself, goes with it."""
    heart, lung = organ(3), Volume(np.zeros(GRID.shape, np.uint8), GRID)
    lung.array[4, 3, 3:5] = 1
    masks = {name: Volume(one.array, flipped(one, 2).geometry) for name, one in (("Heart", heart), ("Lung", lung))}
    image = image_of()
    image.array[heart.array > 0] = 50
    alone = check_case(mask_case(tmp_path / "alone", image, Lung=masks["Lung"]), {"Lung": 5})
    assert {fault.fix for fault in alone} == {CANNOT_TELL}
    faults = check_case(mask_case(tmp_path / "both", image, **masks), LABELS)
    assert {(Path(fault.file).name, fault.fix) for fault in faults} == {
        ("Heart.nrrd", LABEL_HEADER),
        ("Lung.nrrd", LABEL_HEADER),
    }


def test_an_origin_of_0_may_be_meant_where_voxels_are_1_mm(tmp_path: Path):
    cut = Geometry(GRID.shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    label = label_of(cut)
    case = map_case(tmp_path, image=bright_of(label), label=flipped(label))
    assert {fault.fix for fault in check_case(case, LABELS)} == {REPAIR}
    case = map_case(tmp_path, image=bright_of(label), label=Volume(label.array, flipped(label).geometry))
    assert {fault.fix for fault in check_case(case, LABELS)} == {IMAGE_HEADER}


def test_an_image_saved_as_a_label_is_told_by_its_values_first(tmp_path: Path):
    """Its grid is named and not judged, which would take long over thousands of values."""
    moved = Geometry(GRID.shape, GRID.spacing, (10.0, 21.0, 30.0))
    faults = check_case(map_case(tmp_path, label=Volume(image_of().array, moved)), LABELS)
    assert [fault.kind for fault in faults] == ["unknown label value", "origin"]
    assert faults[1].fix == "correct the values first, then check again"


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_no_number_of_an_image_stops_the_judgement_of_a_grid(tmp_path: Path, value: float):
    image = Volume(np.where(image_of().array > 0, value, -1.0), GRID)
    for grid, fix in (((10.0, 21.0, 30.0), REPAIR), ((10.0, 2000.0, 30.0), LABEL_HEADER)):
        case = map_case(tmp_path, image=image, label=label_of(Geometry(GRID.shape, GRID.spacing, grid)))
        assert {fault.fix for fault in check_case(case, LABELS) if fault.kind == "origin"} == {fix}
    faults = check_case(map_case(tmp_path, image=image, label=flipped(label_of())), LABELS)
    assert any(fault.kind == "direction" for fault in faults)


@pytest.mark.parametrize("corner", [0.0, 1.0])
def test_a_header_without_a_place_is_named_and_takes_the_other_one(tmp_path: Path, corner: float):
    """Also one that counts from 1, as of LiTS's label 53."""
    nowhere = Geometry(GRID.shape, (1.0, 1.0, 1.0), (corner, -corner, -corner), (1.0, 0, 0, 0, -1.0, 0, 0, 0, -1.0))
    (fault,) = check_case(map_case(tmp_path, label=label_of(nowhere)), LABELS)
    assert (fault.kind, fault.fix) == ("identity affine", LABEL_HEADER)
    assert "spacing (2, 1, 1) mm" in fault.wanted
    case = map_case(tmp_path, image=image_of(nowhere))
    (fault,) = check_case(case, LABELS)
    assert (fault.kind, fault.fix, fault.file) == ("identity affine", IMAGE_HEADER, str(case.image))


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


def test_overlaps_of_many_masks_are_counted_pair_by_pair(tmp_path: Path):
    """Against sets; masks that are set elsewhere in space do not overlap, though their indices do."""
    rng = np.random.default_rng(0)
    arrays = {f"Organ{number}": (rng.random(GRID.shape) < 0.02).astype(np.uint8) for number in range(9)}
    faults = check_case(
        mask_case(tmp_path, **{name: Volume(array, GRID) for name, array in arrays.items()}),
        {name: number for number, name in enumerate(arrays, start=1)},
    )
    sets = {name: set(np.flatnonzero(array).tolist()) for name, array in arrays.items()}
    wanted = [
        f"{len(sets[first] & sets[second])} voxels in both {first} and {second}"
        for first, second in combinations(sets, 2)
        if sets[first] & sets[second]
    ]
    assert [fault.found for fault in faults] == wanted
    assert wanted
    moved = Volume(organ(3).array, Geometry(GRID.shape, GRID.spacing, (12.0, 20.0, 30.0)))
    image = bright_of(Volume(np.roll(moved.array, 1, axis=0), GRID))
    faults = check_case(mask_case(tmp_path / "moved", image, Heart=organ(3), Lung=moved), LABELS)
    assert {fault.kind for fault in faults} == {"origin"}


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


def test_a_data_set_is_checked_in_order_with_progress(tmp_path: Path):
    dataset = folder(tmp_path)
    calls: list[tuple[int, int, str]] = []
    faults = examine_dataset(dataset, lambda done, total, name: calls.append((done, total, name))).faults
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
    (fault,) = examine_dataset(find_dataset(tmp_path)).faults
    assert (fault.kind, fault.found) == ("missing pair", "listed in dataset.json but not there")
