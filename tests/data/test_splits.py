import json
from pathlib import Path

import pytest

from ars_jax.data.layouts import Case, Dataset, find_dataset
from ars_jax.data.splits import split_cases
from ars_jax.errors import UserError
from tests.realdata import real_data


def put(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def many(count: int = 10) -> Dataset:
    cases = tuple(Case(f"c{number}", Path("i"), Path("l")) for number in range(count))
    return Dataset(Path("root"), "folders", {"A": 1}, (*cases, Case("bare", Path("i"))))


def test_a_seeded_split_is_a_partition_and_repeatable():
    train, validation = split_cases(many(), split=None, validation_fraction=0.3, seed=1)
    assert len(validation) == 3
    assert sorted(case.name for case in train + validation) == [f"c{number}" for number in range(10)]
    assert (train, validation) == split_cases(many(), split=None, validation_fraction=0.3, seed=1)
    assert validation != split_cases(many(), split=None, validation_fraction=0.3, seed=2)[1]


@pytest.mark.parametrize(("fraction", "kept"), [(0.01, 1), (0.99, 3)])
def test_both_parts_keep_a_case(fraction: float, kept: int):
    assert len(split_cases(many(4), split=None, validation_fraction=fraction, seed=0)[1]) == kept


@pytest.mark.parametrize(("count", "fraction"), [(1, 0.5), (4, 0.0), (4, 1.0), (4, -0.5)])
def test_a_split_without_training_or_validation_is_an_error(count: int, fraction: float):
    with pytest.raises(UserError, match="fix"):
        split_cases(many(count), split=None, validation_fraction=fraction, seed=0)


def test_a_split_file_decides(tmp_path: Path):
    put(tmp_path / "split.json", {"train": ["c3", "c1"], "validation": ["c2"]})
    dataset = Dataset(tmp_path, "folders", {"A": 1}, many().cases)
    train, validation = split_cases(dataset, split=Path("split.json"), validation_fraction=0, seed=0)
    assert [case.name for case in train] == ["c3", "c1"]
    assert [case.name for case in validation] == ["c2"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"train": ["c1"], "validation": ["c99"]}, "split.json: found case c99; wanted names"),
        ({"train": ["c1"], "validation": ["c1"]}, "case c1 twice"),
        ({"train": [], "validation": ["c1"]}, "split.json: train: found no labelled case"),
        ({"train": ["c1", "bare"], "validation": ["c2"]}, "found cases without a label: bare"),
        ({"train": ["c1"]}, "another form"),
        ([{"train": ["c1"], "val": ["c2"]}], "another form"),
        ("{", "line 1"),
    ],
)
def test_mistakes_in_a_split_file_are_errors(tmp_path: Path, content: object, words: str):
    put(tmp_path / "split.json", content)
    dataset = Dataset(tmp_path, "folders", {"A": 1}, many().cases)
    with pytest.raises(UserError, match=words):
        split_cases(dataset, split=tmp_path / "split.json", validation_fraction=0.2, seed=0)


def test_a_missing_split_file_is_an_error(tmp_path: Path):
    dataset = Dataset(tmp_path, "folders", {"A": 1}, many().cases)
    with pytest.raises(UserError, match=r"none.json: found no such file"):
        split_cases(dataset, split=Path("none.json"), validation_fraction=0.2, seed=0)


def test_a_real_split_file():
    dataset = find_dataset(real_data("openkbp"))
    train, validation = split_cases(dataset, split=Path("split.json"), validation_fraction=0, seed=0)
    assert (len(train), len(validation)) == (99, 16)
