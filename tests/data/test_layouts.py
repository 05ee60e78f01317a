import dataclasses
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from ars_jax.data.cases import Case, Dataset
from ars_jax.data.check import examine_case
from ars_jax.data.geometry import Geometry
from ars_jax.data.labels import BTCV_LABELS
from ars_jax.data.layouts import find_dataset, read_label
from ars_jax.data.volumes import Volume, read_geometry, write_volume
from ars_jax.errors import UserError
from tests.realdata import real_data

GRID = Geometry((3, 4, 5), (2.0, 1.0, 1.0), (0.0, 0.0, 0.0))


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def put(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def volume(
    path: Path, values: Mapping[tuple[int, int, int], float], dtype: str = "uint8", grid: Geometry = GRID
) -> Path:
    array = np.zeros(grid.shape, dtype)
    for index, value in values.items():
        array[index] = value
    write_volume(path, Volume(array, grid))
    return path


def names(dataset: Dataset) -> list[str]:
    return [case.name for case in dataset.cases]


def msd(root: Path, labels: object = None) -> Path:
    put(root / "dataset.json", {"labels": labels or {"0": "background", "1": "A", "2": "B"}})
    touch(root, "imagesTr/b 1.nii.gz", "imagesTr/ä.nii.gz", "labelsTr/b 1.nii.gz", "labelsTr/ä.nii.gz")
    touch(root, "imagesTr/._b 1.nii.gz", "imagesTr/notes.txt")
    return root


def pddca(root: Path) -> Path:
    touch(root, "c1/img.nrrd", "c1/structures/Mandible.nrrd", "c1/structures/Chiasm.nrrd")
    touch(root, "c2/img.nrrd", "c2/structures/BrainStem.nrrd", "c2/landmarks.fcsv")
    return root


def assert_only_the_first_is_faulty(dataset: Dataset, words: str) -> None:
    """The other cases can be checked; a training, which reads all labels, stops."""
    first, *others = dataset.cases
    assert first.labelled
    assert not any(case.fault for case in others)
    with pytest.raises(UserError, match=words):
        read_label(first, dataset.labels, GRID)
    _, survey = examine_case(first, dataset.labels)
    assert not survey.organs
    readable = dataclasses.replace(first, image=volume(dataset.root / "readable.nrrd", {(0, 0, 0): 1}))
    assert any(re.search(words, str(fault)) for fault in examine_case(readable, dataset.labels)[0])


def test_msd_pairs_by_name_and_skips_hidden_files(tmp_path: Path):
    dataset = find_dataset(msd(tmp_path / "data set"))
    assert (dataset.layout, dataset.labels, names(dataset)) == ("msd", {"A": 1, "B": 2}, ["b 1", "ä"])
    assert dataset.cases[0].label == tmp_path / "data set" / "labelsTr" / "b 1.nii.gz"
    assert dataset.orphans == ()


def test_nnunet_form_of_names_and_labels(tmp_path: Path):
    put(tmp_path / "dataset.json", {"labels": {"background": 0, "B": 2, "A": 1}, "channel_names": {"0": "CT"}})
    touch(tmp_path, "imagesTr/x_0000.nrrd", "imagesTr/y_0000.nrrd", "labelsTr/x.nrrd")
    dataset = find_dataset(tmp_path)
    assert (list(dataset.labels.items()), names(dataset)) == ([("B", 2), ("A", 1)], ["x", "y"])
    assert [case.labelled for case in dataset.cases] == [True, False]


def test_several_channels_per_case_are_an_error(tmp_path: Path):
    put(tmp_path / "dataset.json", {"labels": {"background": 0, "A": 1}, "channel_names": {"0": "T1", "1": "T2"}})
    touch(tmp_path, "imagesTr/x_0000.nrrd", "imagesTr/x_0001.nrrd", "labelsTr/x.nrrd")
    with pytest.raises(UserError, match=r"x_0001.nrrd: found not a first channel"):
        find_dataset(tmp_path)


def test_what_has_no_partner_is_kept_and_named(tmp_path: Path):
    root = msd(tmp_path)
    put(root / "dataset.json", {"labels": {"A": 1}, "training": [{"image": "./imagesTr/lost.nii.gz"}, 3]})
    touch(root, "labelsTr/alone.nii.gz", "imagesTr/bare.nii.gz")
    dataset = find_dataset(root)
    assert dataset.orphans == (root / "labelsTr/alone.nii.gz", root / "imagesTr/lost.nii.gz")
    assert [case.name for case in dataset.cases if not case.labelled] == ["bare"]


def test_pddca_takes_the_sorted_union_of_organs(tmp_path: Path):
    dataset = find_dataset(pddca(tmp_path))
    assert dataset.layout == "pddca"
    assert list(dataset.labels.items()) == [("BrainStem", 1), ("Chiasm", 2), ("Mandible", 3)]
    assert [list(case.masks) for case in dataset.cases] == [["Chiasm", "Mandible"], ["BrainStem"]]


def test_chosen_labels_decide_subset_and_order_of_masks(tmp_path: Path):
    dataset = find_dataset(pddca(tmp_path), labels={"Mandible": 7, "BrainStem": 3})
    assert list(dataset.labels) == ["Mandible", "BrainStem"]
    assert [list(case.masks) for case in dataset.cases] == [["Mandible"], ["BrainStem"]]


def test_folders_with_label_maps_masks_and_dicom_images(tmp_path: Path):
    touch(tmp_path, "images/a.nii.gz", "images/b.mha", "images/c/1.dcm")
    touch(tmp_path, "labels/a.nrrd", "labels/b/Heart.nii.gz", "labels/c/Heart.nii.gz")
    put(tmp_path / "labels.json", {"Heart": 4})
    dataset = find_dataset(tmp_path)
    a, b, c = dataset.cases
    assert (dataset.layout, dataset.labels) == ("folders", {"Heart": 4})
    assert (a.label, b.label, list(b.masks), c.image) == (
        tmp_path / "labels/a.nrrd",
        None,
        ["Heart"],
        tmp_path / "images/c",
    )


def test_folders_of_masks_need_no_table(tmp_path: Path):
    touch(tmp_path, "images/a.nii", "labels/a/B.nii", "labels/a/A.nii")
    assert find_dataset(tmp_path).labels == {"A": 1, "B": 2}


def test_folders_of_label_maps_need_organ_names(tmp_path: Path):
    touch(tmp_path, "images/a.nii", "labels/a.nii")
    with pytest.raises(UserError, match="label maps without organ names"):
        find_dataset(tmp_path)
    assert find_dataset(tmp_path, labels={"Heart": 2}).labels == {"Heart": 2}


@pytest.mark.parametrize("image", ["images/a.nii", "c1/img.nrrd"])
def test_a_set_without_any_label_says_so_and_can_be_checked(tmp_path: Path, image: str):
    touch(tmp_path, image)
    with pytest.raises(UserError, match=r"found 1 images and no label at all; wanted label maps, masks or structure"):
        find_dataset(tmp_path)
    dataset = find_dataset(tmp_path, labels={"Heart": 2})
    assert (dataset.labels, [case.labelled for case in dataset.cases]) == ({"Heart": 2}, [False])


def test_btcv_pairs_by_number(tmp_path: Path):
    touch(tmp_path, "img/img0002.nii.gz", "img/img0010.nii.gz", "label/label0002.nii.gz", "label/label0003.nii.gz")
    dataset = find_dataset(tmp_path, labels={"Liver": 6, "Spleen": 1})
    assert (dataset.layout, names(dataset), list(dataset.labels)) == (
        "btcv",
        ["img0002", "img0010"],
        ["Liver", "Spleen"],
    )
    assert dataset.cases[0].others == (2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13)
    assert dataset.orphans == (tmp_path / "label/label0003.nii.gz",)


def test_btcv_serves_eight_of_its_organs_in_the_order_asked_for(tmp_path: Path):
    values = range(14)
    path = volume(tmp_path / "label/label0001.nii.gz", {(0, value // 5, value % 5): value for value in values})
    touch(tmp_path, "img/img0001.nii.gz")
    organs = ("Aorta", "Gallbladder", "Kidney_L", "Kidney_R", "Liver", "Pancreas", "Spleen", "Stomach")
    dataset = find_dataset(tmp_path, labels={organ: BTCV_LABELS[organ] for organ in organs})
    assert (tuple(dataset.labels), dataset.cases[0].label) == (organs, path)
    label = read_label(dataset.cases[0], dataset.labels, GRID).array[0].ravel()
    assert label[:14].tolist() == [0, 7, 4, 3, 2, 0, 5, 8, 1, 0, 0, 6, 0, 0]


@pytest.mark.parametrize("zipped", ["", ".gz"])
@pytest.mark.parametrize(
    ("images", "labels"),
    [("", ""), ("Training Batch 1/", "Training Batch 1/"), ("media/nas/LITS/Training Batch 2/",) * 2, ("ct/", "seg/")],
    ids=["one folder", "batch", "deep", "apart"],
)
def test_lits_pairs_by_number_wherever_the_files_were_unpacked(tmp_path: Path, images: str, labels: str, zipped: str):
    touch(tmp_path, *(f"{images}volume-{number}.nii{zipped}" for number in (0, 28, 131)))
    touch(tmp_path, *(f"{labels}segmentation-{number}.nii{zipped}" for number in (0, 28, 53)))
    touch(tmp_path, f"{images}test-volume-0.nii{zipped}", f"{images}._volume-0.nii", f"{images}volume-0.txt")
    dataset = find_dataset(tmp_path)
    assert (dataset.layout, dataset.labels) == ("lits", {"Liver": 1, "Tumour": 2})
    assert names(dataset) == ["volume-0", "volume-131", "volume-28"]
    assert dataset.cases[2].label == tmp_path / f"{labels}segmentation-28.nii{zipped}"
    assert not dataset.cases[1].labelled
    assert dataset.orphans == (tmp_path / f"{labels}segmentation-53.nii{zipped}",)


def test_lits_takes_both_batches_and_no_number_twice(tmp_path: Path):
    touch(tmp_path, "Training Batch 1/volume-0.nii", "Training Batch 2/volume-28.nii")
    assert names(find_dataset(tmp_path)) == ["volume-0", "volume-28"]
    assert list(find_dataset(tmp_path, labels={"Liver": 1}).labels) == ["Liver"]
    touch(tmp_path, "Training Batch 2/volume-0.nii.gz")
    wanted = r"Training Batch 2/volume-0.nii.gz: .*found also .*Training Batch 1/volume-0"
    assert_only_the_first_is_faulty(find_dataset(tmp_path), wanted)


def test_the_files_beside_the_cases_of_pddca_are_passed_over(tmp_path: Path):
    root = pddca(tmp_path)
    touch(root, "c1/landmarks/chin.fcsv", "c1/structures/notes.txt", "c1/structures/._Mandible.nrrd", "c1/img.txt")
    touch(root, "readme.pdf", "docs/a.nii", "docs/a.nii.gz", "docs/b/c.nii", "c3/structures/Mandible.nrrd")
    dataset = find_dataset(root)
    assert (names(dataset), list(dataset.labels)) == (["c1", "c2"], ["BrainStem", "Chiasm", "Mandible"])
    assert dataset.orphans == (root / "c3" / "structures",)


def test_the_parts_of_pddca_may_lie_in_folders_of_their_own(tmp_path: Path):
    pddca(tmp_path / "part1")
    touch(tmp_path, "part2/c4/img.nrrd", "part2/c4/structures/Mandible.nrrd")
    assert names(find_dataset(tmp_path)) == ["c1", "c2", "c4"]
    touch(tmp_path, "part2/c1/img.nrrd")
    with pytest.raises(UserError, match=r"part2/c1: found also .*part1/c1"):
        find_dataset(tmp_path)
    shutil.rmtree(tmp_path / "part2" / "c1")
    touch(tmp_path, "part1/c1/img/1.dcm")
    assert_only_the_first_is_faulty(find_dataset(tmp_path), r"part1/c1/img: .*found also .*img.nrrd; wanted one f")


def test_a_folder_of_segmentations_beside_each_ct(tmp_path: Path):
    touch(tmp_path, "s1/ct.nii.gz", "s1/segmentations/liver.nii.gz", "s2/ct.nii.gz", "s2/segmentations/spleen.nii.gz")
    touch(tmp_path, "meta.csv")
    dataset = find_dataset(tmp_path)
    assert (dataset.layout, dataset.labels) == ("pddca", {"liver": 1, "spleen": 2})
    assert [list(case.masks) for case in dataset.cases] == [["liver"], ["spleen"]]


def test_an_unknown_folder_says_what_was_looked_for(tmp_path: Path):
    with pytest.raises(UserError, match=r"no known layout.*msd.*folders.*btcv.*lits.*pddca.*dicom"):
        find_dataset(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        find_dataset(tmp_path / "none")
    with pytest.raises(UserError, match="layout: found nnunet"):
        find_dataset(tmp_path, layout="nnunet")
    with pytest.raises(UserError, match="something else; wanted msd"):
        find_dataset(pddca(tmp_path), layout="msd")
    (tmp_path / "empty" / "images").mkdir(parents=True)
    with pytest.raises(UserError, match="no image"):
        find_dataset(tmp_path / "empty")


def test_two_files_for_one_case_are_an_error(tmp_path: Path):
    touch(tmp_path, "images/a.nii", "images/a.nii.gz", "labels/a.nii")
    with pytest.raises(UserError, match=r"a.nii.gz: found also a.nii"):
        find_dataset(tmp_path, labels={"A": 1})


def test_links_in_a_circle_do_no_harm(tmp_path: Path):
    root = pddca(tmp_path / "data")
    (root / "c3").symlink_to(root)
    (root / "c4").symlink_to(root / "c4")
    (root / "c1" / "up").symlink_to(root / "c1")
    assert names(find_dataset(root)) == ["c1", "c2"]


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"A": 1, "C": 3}, "labels: C: found no such organ; wanted A, B"),
        ({"A": 2}, "labels: A: found 2; wanted 1"),
        ({}, "no table of organs"),
        ({"A": 0}, "labels: A: found 0; wanted 1 to 65535"),
        ({"A": 1, "B": 1}, "labels: B: found 1, as A"),
    ],
)
def test_wrong_choices_of_labels_are_errors(tmp_path: Path, labels: dict[str, int], words: str):
    with pytest.raises(UserError, match=words):
        find_dataset(msd(tmp_path), labels=labels)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"background": 0, "whole": [1, 2]}, r"dataset.json: whole: found \[1, 2\]"),
        ({"A": True}, "A: found True"),
        ({"A": 1, "ignore": 2}, '"ignore"'),
        ({"0": "background"}, "no table of organs"),
        ([1], "no labels"),
    ],
)
def test_broken_label_tables_are_errors(tmp_path: Path, labels: object, words: str):
    with pytest.raises(UserError, match=words):
        find_dataset(msd(tmp_path, labels))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"labels":\n {"A" 1}}', r"dataset.json, line 2: found expecting"),
        (b"\xff\xfe\x00", "not JSON text"),
        (b"[" * 100_000, "not JSON text"),
        (b"7", "no labels"),
    ],
)
def test_broken_json_names_file_and_line(tmp_path: Path, content: bytes, words: str):
    (msd(tmp_path) / "dataset.json").write_bytes(content)
    with pytest.raises(UserError, match=words):
        find_dataset(tmp_path)


def test_a_case_says_which_organs_were_not_drawn(tmp_path: Path):
    root = pddca(tmp_path)
    put(root / "unlabelled.json", {"c2": ["Mandible", "Chiasm"]})
    assert [case.unlabelled for case in find_dataset(root).cases] == [(), ("Chiasm", "Mandible")]
    assert find_dataset(root, labels={"Mandible": 1}).cases[1].unlabelled == ("Mandible",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"c9": ["Mandible"]}, "c9: found no such case"),
        ({"c1": ["Mandibel"]}, "c1: found organ Mandibel; wanted BrainStem"),
        ({"c1": "Mandible"}, "another form"),
        (["c1"], "another form"),
    ],
)
def test_mistakes_in_unlabelled_json_are_errors(tmp_path: Path, content: object, words: str):
    put(pddca(tmp_path) / "unlabelled.json", content)
    with pytest.raises(UserError, match=words):
        find_dataset(tmp_path)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32", "float32", "float64"])
def test_label_values_become_channel_numbers_in_the_order_of_the_labels(tmp_path: Path, dtype: str):
    path = volume(tmp_path / "l.nii.gz", {(0, 0, 0): 3, (1, 1, 1): 9, (2, 2, 2): 5}, dtype)
    case = Case("a", tmp_path / "a.nii.gz", path, others=(5,))
    label = read_label(case, {"B": 9, "A": 3}, GRID)
    assert label.array.dtype == np.uint8
    assert (label.array[0, 0, 0], label.array[1, 1, 1], label.array.sum()) == (2, 1, 3)


@pytest.mark.parametrize(
    ("dtype", "value", "words"),
    [
        ("uint8", 7, "label value 7 in 1 voxels; wanted 0, 3"),
        ("int16", -1, "label value -1"),
        ("uint16", 60000, "label value 60000"),
        ("float32", 1e9, r"label value 1e\+09"),
        ("float32", 2.5, "label value 2.5; wanted whole"),
        ("float32", np.nan, "label value nan"),
        ("float64", np.inf, "label value inf"),
    ],
)
def test_values_that_nobody_knows_are_errors(tmp_path: Path, dtype: str, value: float, words: str):
    path = volume(tmp_path / "l.nrrd", {(0, 0, 0): 3, (1, 1, 1): value}, dtype)
    with pytest.raises(UserError, match=words):
        read_label(Case("a", tmp_path / "a.nrrd", path), {"A": 3}, GRID)


def test_masks_are_combined_and_the_later_organ_wins(tmp_path: Path):
    first = volume(tmp_path / "A.nrrd", {(0, 0, 0): 1, (1, 1, 1): 1})
    second = volume(tmp_path / "B.nrrd", {(1, 1, 1): 255, (2, 2, 2): 255})
    case = Case("a", tmp_path / "img.nrrd", masks={"A": first, "B": second})
    labels = read_label(case, {"A": 1, "Missing": 2, "B": 3}, GRID).array
    assert (labels[0, 0, 0], labels[1, 1, 1], labels[2, 2, 2], labels.sum()) == (1, 3, 3, 7)
    assert read_label(case, {"B": 1, "A": 2}, GRID).array[1, 1, 1] == 2


def test_masks_on_another_grid_or_with_several_values_are_errors(tmp_path: Path):
    other = Geometry(GRID.shape, GRID.spacing, (0.0, 7.0, 0.0))
    moved = volume(tmp_path / "A.nrrd", {}, grid=other)
    with pytest.raises(UserError, match=r"A.nrrd: found origin \(0, 7, 0\) mm; wanted the image's \(0, 0, 0\) mm"):
        read_label(Case("a", tmp_path / "i.nrrd", masks={"A": moved}), {"A": 1}, GRID)
    for values in ({(0, 0, 0): 1, (0, 0, 1): 2}, {(0, 0, 0): -1}, {(0, 0, 0): np.nan}):
        mask = volume(tmp_path / "B.nrrd", values, "float32")
        with pytest.raises(UserError, match=r"B.nrrd: found values from"):
            read_label(Case("a", tmp_path / "i.nrrd", masks={"B": mask}), {"B": 1}, GRID)


def test_reading_the_label_of_a_case_without_one_is_an_error(tmp_path: Path):
    with pytest.raises(UserError, match="no label for this image"):
        read_label(Case("a", tmp_path / "i.nrrd"), {"A": 1}, GRID)


def test_real_msd_labels():
    dataset = find_dataset(real_data("Task04_Hippocampus"))
    assert (dataset.layout, dataset.labels, dataset.orphans) == ("msd", {"Anterior": 1, "Posterior": 2}, ())
    for case in dataset.cases[:3]:
        label = read_label(case, dataset.labels, read_geometry(case.image))
        assert np.unique(label.array).tolist() == [0, 1, 2]


def test_real_pddca_masks():
    dataset = find_dataset(real_data("openkbp"))
    assert (dataset.layout, len(dataset.labels)) == ("pddca", 5)
    case = dataset.cases[0]
    label = read_label(case, dataset.labels, read_geometry(case.image))
    assert np.unique(label.array).tolist() == [0, 1, 2, 3, 4, 5]


def test_real_btcv_labels():
    dataset = find_dataset(real_data("abdomen_ct"))
    assert (dataset.layout, dataset.labels) == ("btcv", BTCV_LABELS)
    label = read_label(dataset.cases[0], dataset.labels, read_geometry(dataset.cases[0].image))
    assert set(range(14)) - set(np.unique(label.array).tolist()) == {BTCV_LABELS["Esophagus"]}
