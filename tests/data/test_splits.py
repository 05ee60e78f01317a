import json
from pathlib import Path
from typing import Any

import pytest

from ars_jax.data.cases import Case, Dataset
from ars_jax.data.layouts import find_dataset
from ars_jax.data.splits import CaseSplit, split_cases
from ars_jax.errors import UserError
from tests.realdata import real_data


def many(count: int = 10, root: Path = Path("root")) -> Dataset:
    """A data set of so many labelled cases and one without a label."""
    cases = tuple(Case(f"c{number}", Path("i"), Path("l")) for number in range(count))
    return Dataset(root, "folders", {"A": 1}, (*cases, Case("bare", Path("i"))))


def names(cases: tuple[Case, ...]) -> list[str]:
    return [case.name for case in cases]


def every_name(split: CaseSplit) -> list[str]:
    return sorted(case.name for part in split for case in part)


DRAWN: dict[str, dict[str, Any]] = {
    "fraction": {"validation_fraction": 0.3},
    "sizes": {"sizes": (5, 3, 2)},
    "folds": {"folds": 3, "fold": 1},
}

every_way = pytest.mark.parametrize("how", DRAWN.values(), ids=DRAWN)


@every_way
def test_a_drawn_split_is_a_partition_of_the_labelled_cases(how: dict[str, Any]):
    split = split_cases(many(), **how, seed=1)
    assert every_name(split) == names(many().cases[:10])
    assert len(split.validation) == 3
    assert all(names(part) == sorted(names(part)) for part in split)


@every_way
def test_the_seed_decides_and_nothing_else(how: dict[str, Any]):
    split = split_cases(many(), **how, seed=1)
    backwards = Dataset(Path("root"), "folders", {"A": 1}, many().cases[::-1])
    assert split == split_cases(many(), **how, seed=1) == split_cases(backwards, **how, seed=1)
    assert split.validation != split_cases(many(), **how, seed=2).validation


def test_a_fraction_keeps_no_test_cases():
    assert split_cases(many(), validation_fraction=0.3).test == ()


@pytest.mark.parametrize(("fraction", "kept"), [(0.01, 1), (0.99, 3)])
def test_both_parts_keep_a_case(fraction: float, kept: int):
    assert len(split_cases(many(4), validation_fraction=fraction).validation) == kept


@pytest.mark.parametrize("sizes", [(32, 6, 10), (32, 6, 0), (1, 1, 46)])
def test_sizes_are_kept_to_the_case(sizes: tuple[int, int, int]):
    assert tuple(map(len, split_cases(many(48), sizes=sizes))) == sizes


def test_test_cases_do_not_depend_on_the_other_sizes():
    """Else a learning curve would be scored on other cases at every point."""
    first, second = split_cases(many(20), sizes=(4, 2, 5)), split_cases(many(20), sizes=(10, 4, 5))
    assert first.test == second.test
    assert set(names(first.validation)) < set(names(second.validation))


def test_what_sizes_leave_over_is_left_out():
    assert len(every_name(split_cases(many(20), sizes=(4, 2, 5)))) == 11


@pytest.mark.parametrize(("count", "folds"), [(30, 3), (10, 3), (11, 4), (5, 5), (2, 2)])
def test_each_case_validates_in_one_fold(count: int, folds: int):
    splits = [split_cases(many(count), folds=folds, fold=fold, seed=4) for fold in range(folds)]
    assert sorted(case.name for split in splits for case in split.validation) == sorted(names(many(count).cases[:-1]))
    assert all(every_name(split) == sorted(names(many(count).cases[:-1])) for split in splits)
    sizes = [len(split.validation) for split in splits]
    assert max(sizes) - min(sizes) <= 1
    assert all(split.test == () for split in splits)


@pytest.mark.parametrize(
    ("count", "how", "words"),
    [
        (1, {"validation_fraction": 0.5}, "found 1 labelled cases; wanted at least 2"),
        (4, {"validation_fraction": 0.0}, "above 0 and below 1"),
        (4, {"validation_fraction": 1.0}, "above 0 and below 1"),
        (
            47,
            {"sizes": (32, 6, 10)},
            r"root: found 47 labelled cases; wanted 32 \+ 6 \+ 10 = 48; fix: lower data.split_",
        ),
        (4, {"folds": 5}, "found 4 labelled cases; wanted at least one for each of 5 folds; fix: lower data.folds"),
    ],
)
def test_too_few_cases_are_an_error(count: int, how: dict[str, Any], words: str):
    with pytest.raises(UserError, match=words):
        split_cases(many(count), **how)


def put(path: Path, content: object) -> None:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize("test", [[], ["c7", "c0"]])
def test_a_split_file_decides(tmp_path: Path, test: list[str]):
    put(tmp_path / "split.json", {"train": ["c3", "c1"], "validation": ["c2"]} | ({"test": test} if test else {}))
    split = split_cases(many(root=tmp_path), split=Path("split.json"), validation_fraction=0)
    assert [names(part) for part in split] == [["c3", "c1"], ["c2"], test]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"train": ["c1"], "validation": ["c99"]}, "split.json: found case c99; wanted names"),
        ({"train": ["c1"], "validation": ["c1"]}, "case c1 twice"),
        ({"train": ["c1"], "validation": ["c2"], "test": ["c1"]}, "case c1 twice"),
        ({"train": [], "validation": ["c1"]}, "split.json: train: found no labelled case"),
        ({"train": ["c1"], "validation": ["c2"], "test": []}, "split.json: test: found no labelled case"),
        ({"train": ["c1", "bare"], "validation": ["c2"]}, "found cases without a label: bare"),
        ({"train": ["c1"], "validation": ["c2"], "test": ["bare"]}, "found cases without a label: bare"),
        ({"train": ["c1"]}, "another form"),
        ({"train": ["c1"], "test": ["c2"]}, "another form"),
        ({"train": ["c1"], "validation": ["c2"], "tests": ["c3"]}, "another form"),
        ([{"train": ["c1"], "val": ["c2"]}], "another form"),
        ("{", "line 1"),
    ],
)
def test_mistakes_in_a_split_file_are_errors(tmp_path: Path, content: object, words: str):
    put(tmp_path / "split.json", content)
    with pytest.raises(UserError, match=words):
        split_cases(many(root=tmp_path), split=tmp_path / "split.json")


def test_a_missing_split_file_is_an_error(tmp_path: Path):
    with pytest.raises(UserError, match=r"none.json: found no such file"):
        split_cases(many(root=tmp_path), split=Path("none.json"))


def test_a_real_split_file():
    split = split_cases(find_dataset(real_data("openkbp")), split=Path("split.json"))
    assert tuple(map(len, split)) == (99, 16, 0)
