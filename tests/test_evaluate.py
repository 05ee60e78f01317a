"""Scoring: predicted cases and folders of label maps, by tables that say what was scored."""

import csv
import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ars_jax import evaluate
from ars_jax.config import Role
from ars_jax.data.cases import Dataset
from ars_jax.data.layouts import find_dataset
from ars_jax.data.volumes import Volume, read_volume, write_volume
from ars_jax.errors import UserError
from ars_jax.evaluate import evaluate_cases, evaluate_folders, label_maps, write_tables
from ars_jax.metrics.table import Row, read_json
from ars_jax.options import read_config
from ars_jax.train.inputs import scored_cases, scored_role
from tests.data.synthetic import LABELS, PLAN, SPACING, ct, grid
from tests.small_runs import SmallRun, files_of, quick_compilation, random_network, trained_run, write_data_set

SMALL = dataclasses.replace(PLAN, whole=(16, 16, 16))


@pytest.fixture(scope="module", autouse=True)
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with quick_compilation(tmp_path_factory.getbasetemp()):
        yield tmp_path_factory.getbasetemp()


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return find_dataset(write_data_set(tmp_path / "data", cases=3))


def scored(dataset: Dataset, out: Path) -> list[Row]:
    return evaluate_cases(random_network(SMALL), dataset.cases, dataset.labels, out, about={"data": "here"})


def predicting(monkeypatch: pytest.MonkeyPatch, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Has the network predict the reference, changed."""

    def predicted(network: object, volume: Volume, name: Path) -> Volume:
        label = read_volume(Path(str(name).replace("images", "labels"))).array
        channels = np.searchsorted([0, *LABELS.values()], label)
        return Volume(change(channels).astype(np.uint8), volume.geometry)

    monkeypatch.setattr(evaluate, "predict_volume", predicted)


def status_of(rows: list[Row]) -> dict[tuple[str, str], str]:
    return {(row.case, row.organ): row.status for row in rows}


def test_a_perfect_prediction_scores_1_and_0_mm(monkeypatch: pytest.MonkeyPatch, dataset, tmp_path: Path) -> None:
    predicting(monkeypatch, lambda channels: channels)
    rows = scored(dataset, tmp_path / "out")
    assert [(row.case, row.organ) for row in rows] == [(f"case_{i}", organ) for i in range(3) for organ in LABELS]
    for row in rows:
        assert (row.status, row.dsc, row.recall, row.precision) == ("ok", 1, 1, 1)
        assert (row.hd95_mm, row.asd_mm) == (0, 0)
        assert row.volume_prediction_ml == row.volume_reference_ml


def test_an_organ_that_was_not_found_is_a_miss(monkeypatch: pytest.MonkeyPatch, dataset, tmp_path: Path) -> None:
    predicting(monkeypatch, lambda channels: np.where(channels == 2, 0, channels))
    rows = [row for row in scored(dataset, tmp_path / "out") if row.organ == "Ball_R"]
    assert [(row.status, row.dsc, row.recall, row.precision, row.hd95_mm) for row in rows] == [
        ("miss", 0, 0, None, None)
    ] * 3


def test_rows_are_what_the_written_label_maps_say(dataset: Dataset, tmp_path: Path) -> None:
    """DSC and volumes counted again from the files, on the images' grids."""
    out = tmp_path / "run" / "evaluation"
    rows = {(row.case, row.organ): row for row in scored(dataset, out)}
    files = json.loads((out / "cases.json").read_text(encoding="utf-8"))
    assert [entry["case"] for entry in files] == [case.name for case in dataset.cases]
    for entry, case in zip(files, dataset.cases, strict=True):
        assert Path(entry["image"]) == case.image
        prediction, reference = (read_volume(out.parent / entry[kind]) for kind in ("prediction", "reference"))
        assert case.label is not None
        drawn = read_volume(case.label)
        assert prediction.geometry == reference.geometry == drawn.geometry == read_volume(case.image).geometry
        for channel, (organ, value) in enumerate(LABELS.items(), start=1):
            np.testing.assert_array_equal(reference.array == channel, drawn.array == value)
            a, b = prediction.array == channel, drawn.array == value
            row = rows[case.name, organ]
            assert row.dsc == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
            assert row.volume_prediction_ml == pytest.approx(a.sum() * np.prod(SPACING) / 1000)
    for folder in ("predictions", "references"):
        assert json.loads((out / folder / "labels.json").read_text(encoding="utf-8")) == {"Ball_L": 1, "Ball_R": 2}


def test_tables_hold_every_row(dataset: Dataset, tmp_path: Path) -> None:
    rows = scored(dataset, tmp_path / "out")
    assert read_json(tmp_path / "out" / "table.json") == rows
    content = json.loads((tmp_path / "out" / "table.json").read_text(encoding="utf-8"))
    assert content["about"] == {"data": "here"}
    assert content["convention"] == "paper-boundary"
    with (tmp_path / "out" / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [(line["case"], line["organ"], line["status"]) for line in lines] == [
        (row.case, row.organ, row.status) for row in rows
    ]
    assert [float(line["dsc"]) for line in lines] == [row.dsc for row in rows]


def test_what_was_written_can_be_scored_again(dataset: Dataset, tmp_path: Path) -> None:
    """By folders, to the same rows, also where an organ was not drawn."""
    (dataset.root / "unlabelled.json").write_text(json.dumps({"case_1": ["Ball_L"]}))
    dataset = find_dataset(dataset.root)
    out = tmp_path / "out"
    rows = scored(dataset, out)
    assert status_of(rows)["case_1", "Ball_L"] == "unlabelled"
    assert not (read_volume(out / "references" / "case_1.nii.gz").array == 1).any(), "drawn, but not to be heeded"
    assert evaluate_folders(out / "predictions", out / "references") == rows


def test_a_new_evaluation_takes_the_place_of_the_old_one(dataset: Dataset, tmp_path: Path) -> None:
    out = tmp_path / "out"
    scored(dataset, out)
    scored(dataclasses.replace(dataset, cases=dataset.cases[1:]), out)
    for folder in ("predictions", "references"):
        assert list(label_maps(out / folder)) == ["case_1", "case_2"]
    assert {row.case for row in read_json(out / "table.json")} == {"case_1", "case_2"}
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def broken_value(path: Path) -> None:
    label = read_volume(path)
    label.array[0, 0, 0] = 77
    write_volume(path, label)


def other_grid(path: Path) -> None:
    label = read_volume(path)
    write_volume(path, Volume(label.array, grid(label.array.shape, direction=np.diag([-1.0, -1.0, 1.0]))))


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        (broken_value, r"case_2\.nii\.gz: found label value 77 in 1 voxels"),
        (other_grid, r"^case case_2: found label with .*direction"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:-20]),
            r"case_2\.nii\.gz: found an incomplete or damaged",
        ),
    ],
    ids=["value", "grid", "cut short"],
)
def test_a_faulty_case_leaves_the_old_evaluation(dataset: Dataset, tmp_path: Path, change, pattern: str) -> None:
    out = tmp_path / "out"
    scored(dataset, out)
    before = files_of(out)
    change(dataset.root / "labels" / "case_2.nii.gz")
    with pytest.raises(UserError, match=pattern):
        scored(dataset, out)
    assert files_of(out) == before


@pytest.mark.parametrize("labels", [{"Ball_R": 7, "Ball_L": 3}, {"Ball_L": 3}, {"Ball_L": 3, "Other": 7}])
def test_other_organs_than_the_networks_are_refused(dataset: Dataset, tmp_path: Path, labels: dict) -> None:
    with pytest.raises(UserError, match=r"^labels: found .*wanted \('Ball_L', 'Ball_R'\)"):
        evaluate_cases(random_network(SMALL), dataset.cases, labels, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def run(base: Path) -> SmallRun:
    return trained_run(base)


def case_names(
    run: SmallRun, root: Path | None, data: Path | None = None, role: Role | None = None, checkpoint: Any = "best"
) -> tuple[list[str], int]:
    config = read_config(run.folder / "config.yaml", ["--data.root", str(data)] if data else [])
    _, cases, left_out = scored_cases(run.folder, config, root, role, checkpoint)
    return [case.name for case in cases], left_out


def split_of(run: SmallRun) -> dict[str, list[str]]:
    return {
        role: list(cases) for role, cases in json.loads((run.folder / "split.json").read_text(encoding="utf-8")).items()
    }


def test_a_run_is_scored_on_its_validation_cases(run: SmallRun) -> None:
    split = split_of(run)
    assert sorted(split["train"] + split["validation"]) == sorted(f"case_{index}" for index in range(10))
    assert case_names(run, None) == (split["validation"], 0)


@pytest.fixture
def tested(run: SmallRun, tmp_path: Path) -> SmallRun:
    """The run as if two of its cases had been kept for the test."""
    folder = tmp_path / "tested"
    folder.mkdir()
    for name in ("config.yaml", "plan.json"):
        shutil.copy(run.folder / name, folder / name)
    split = json.loads((run.folder / "split.json").read_text(encoding="utf-8"))
    split["test"] = {name: split["train"].pop(name) for name in list(split["train"])[:2]}
    (folder / "split.json").write_text(json.dumps(split), encoding="utf-8")
    return dataclasses.replace(run, folder=folder)


def test_a_run_with_test_cases_is_scored_on_them_unless_asked(tested: SmallRun) -> None:
    split = split_of(tested)
    assert len(split["test"]) == 2
    assert case_names(tested, None) == case_names(tested, None, role="test") == (split["test"], 0)
    assert case_names(tested, None, role="validation") == (split["validation"], 0)
    assert (scored_role(tested.folder), scored_role(tested.folder, "validation")) == ("test", "validation")


def test_test_cases_are_unseen_in_another_data_set(tested: SmallRun) -> None:
    split = split_of(tested)
    names, left_out = case_names(tested, tested.data)
    assert (sorted(names), left_out) == (sorted(split["test"]), 8)


def test_a_run_without_test_cases_has_only_validation_cases(run: SmallRun) -> None:
    """As run folders have that are older than test cases."""
    assert (scored_role(run.folder), scored_role(run.folder, "validation")) == ("validation", "validation")
    with pytest.raises(UserError, match=r"split\.json: found no test cases"):
        scored_role(run.folder, "test")


@pytest.mark.parametrize("content", ["[]", "{}", '{"train": {}}', '{"train": {}, "validation": {}, "test": []}'])
def test_another_file_for_the_split_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "split.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"split\.json: found something else"):
        scored_role(tmp_path)


def test_cases_that_trained_are_left_out_of_another_data_set(run: SmallRun, tmp_path: Path) -> None:
    """They are known by their image's bytes, wherever they lie and whatever they are called."""
    data = tmp_path / "data"
    shutil.copytree(run.data, data)
    (data / "labels" / "case_0.nii.gz").write_bytes((data / "labels" / "case_3.nii.gz").read_bytes())
    for folder in ("images", "labels"):
        for path in sorted((data / folder).iterdir()):
            path.rename(path.with_name(f"patient {path.name}"))
    image, label = ct(grid((14, 16, 16)), seed=99)
    write_volume(data / "images" / "new.nii.gz", image)
    write_volume(data / "labels" / "new.nii.gz", label)
    assert case_names(run, data) == (["new"], 10)
    (chosen,) = split_of(run)["validation"]
    assert case_names(run, data, checkpoint="newest") == (["new", f"patient {chosen}"], 9)


def test_a_run_from_before_the_images_hashes_knows_cases_by_their_keys(run: SmallRun, tmp_path: Path) -> None:
    folder = tmp_path / "old"
    shutil.copytree(run.folder, folder, ignore=shutil.ignore_patterns("cache", "checkpoints"))
    split = json.loads((folder / "split.json").read_text(encoding="utf-8"))
    del split["images"]
    (folder / "split.json").write_text(json.dumps(split), encoding="utf-8")
    old = dataclasses.replace(run, folder=folder)
    assert case_names(old, run.data, checkpoint="newest") == (split_of(run)["validation"], 9)


def test_a_data_set_that_was_all_trained_on_is_refused(run: SmallRun, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(run.data, data)
    for folder in ("images", "labels"):
        (data / folder / f"{split_of(run)['validation'][0]}.nii.gz").unlink()
    with pytest.raises(UserError, match=r"found 9 labelled cases, of which the run was trained on or chosen by all"):
        case_names(run, data)


def test_a_validation_case_that_is_gone_is_named(run: SmallRun, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(run.data, data)
    (name,) = split_of(run)["validation"]
    (data / "labels" / f"{name}.nii.gz").unlink()
    with pytest.raises(UserError, match=f"found no labelled case {name}"):
        case_names(run, None, data)


def written(folder: Path, maps: dict[str, np.ndarray], labels: dict[str, int] | None, ending: str = ".nii.gz") -> Path:
    for name, array in maps.items():
        write_volume(folder / f"{name}{ending}", Volume(array.astype(np.uint8), grid(array.shape)))
    if labels:
        (folder / "labels.json").write_text(json.dumps(labels))
    return folder


def maps(*names: str) -> dict[str, np.ndarray]:
    """Label maps with organs 1 and 2."""
    array = np.zeros((6, 6, 6), np.uint8)
    array[1:3], array[4, 2:5] = 1, 2
    return dict.fromkeys(names, array)


TABLE = {"A": 1, "B": 2}


@pytest.mark.parametrize("where", ["predictions", "references", "both", "argument"])
def test_organ_names_come_from_either_folder(tmp_path: Path, where: str) -> None:
    """File formats and further predictions do not matter."""
    tables = {
        "predictions": (TABLE, None),
        "references": (None, TABLE),
        "both": (TABLE, TABLE),
        "argument": (None, None),
    }
    first = written(tmp_path / "predictions", maps("a", "b", "further"), tables[where][0], ".nrrd")
    second = written(tmp_path / "references", maps("a", "b"), tables[where][1])
    rows = evaluate_folders(
        first, second, labels=TABLE if where == "argument" else None, convention="medpy", tolerance_mm=0.5
    )
    assert [(row.case, row.organ, row.dsc, row.hd95_mm) for row in rows] == [
        (case, organ, 1, 0) for case in ("a", "b") for organ in TABLE
    ]
    assert {(row.convention, row.tolerance_mm) for row in rows} == {("medpy", 0.5)}


def test_each_folder_has_its_own_values(tmp_path: Path) -> None:
    """Organs of the predictions alone are background."""
    (array,) = maps("a").values()
    predicted = np.select([array == 1, array == 2], [5, 3], 0)
    predicted[0] = 9
    first = written(tmp_path / "p", {"a": predicted}, {"Extra": 9, "B": 3, "A": 5})
    rows = evaluate_folders(first, written(tmp_path / "r", maps("a"), TABLE))
    assert [(row.organ, row.dsc) for row in rows] == [("A", 1), ("B", 1)]


def test_a_missed_organ_of_a_folder_is_a_miss_and_an_invented_one_a_false_alarm(tmp_path: Path) -> None:
    (array,) = maps("a").values()
    first = written(tmp_path / "p", {"a": np.where(array == 1, 0, array), "b": array}, TABLE)
    second = written(tmp_path / "r", {"a": array, "b": np.where(array == 2, 0, array)}, TABLE)
    assert status_of(evaluate_folders(first, second)) == {
        ("a", "A"): "miss",
        ("a", "B"): "ok",
        ("b", "A"): "ok",
        ("b", "B"): "false alarm",
    }


def test_a_missing_prediction_is_named(tmp_path: Path) -> None:
    first = written(tmp_path / "p", maps("a"), TABLE)
    second = written(tmp_path / "r", maps("a", "b", "c"), TABLE)
    with pytest.raises(UserError, match=r"p: found no prediction for b, c; wanted one per reference"):
        evaluate_folders(first, second)


def test_different_grids_are_refused(tmp_path: Path) -> None:
    first = written(tmp_path / "p", maps("a"), TABLE)
    second = written(tmp_path / "r", {"a": np.zeros((6, 6, 7))}, TABLE)
    with pytest.raises(
        UserError, match=r"p/a\.nii\.gz: found size \(6, 6, 6\) voxels; wanted the grid of .*r/a\.nii\.gz"
    ):
        evaluate_folders(first, second)


def test_an_unknown_value_is_named(tmp_path: Path) -> None:
    first = written(tmp_path / "p", {"a": np.full((6, 6, 6), 4)}, TABLE)
    with pytest.raises(UserError, match=r"p/a\.nii\.gz: found label value 4 in 216 voxels"):
        evaluate_folders(first, written(tmp_path / "r", maps("a"), TABLE))


def test_folders_without_names_or_maps_are_refused(tmp_path: Path) -> None:
    first, second = (written(tmp_path / name, maps("a"), None) for name in "pr")
    with pytest.raises(UserError, match=r"found no labels\.json"):
        evaluate_folders(first, second)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: found no label map"):
        evaluate_folders(first, tmp_path / "empty", labels=TABLE)
    with pytest.raises(UserError, match=r"nowhere: found no folder"):
        evaluate_folders(tmp_path / "nowhere", second, labels=TABLE)


def test_an_organ_that_only_the_references_know_is_refused(tmp_path: Path) -> None:
    first = written(tmp_path / "p", maps("a"), {"A": 1})
    with pytest.raises(UserError, match=r"p/labels\.json: found no B; wanted the same organs"):
        evaluate_folders(first, written(tmp_path / "r", maps("a"), TABLE))


def test_tables_are_written_into_a_new_folder(tmp_path: Path) -> None:
    first = written(tmp_path / "p", maps("a"), TABLE)
    rows = evaluate_folders(first, first)
    write_tables(tmp_path / "new" / "out", rows)
    assert sorted(files_of(tmp_path / "new" / "out")) == ["table.csv", "table.json"]


@pytest.mark.parametrize("content", ["[]", '{"a": "A"}', '{"a": ["Nothing"]}', '{"nobody": ["A"]}', "{"])
def test_a_list_of_undrawn_organs_in_another_form_is_refused(tmp_path: Path, content: str) -> None:
    """Else its organs would be scored in silence."""
    first = written(tmp_path / "p", maps("a"), TABLE)
    second = written(tmp_path / "r", maps("a"), TABLE)
    (second / "unlabelled.json").write_text(content)
    with pytest.raises(UserError, match=r"unlabelled\.json"):
        evaluate_folders(first, second)
