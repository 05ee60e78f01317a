"""What a training is given: test cases never reach it."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ars_jax.config import Config
from ars_jax.data.splits import ROLES
from ars_jax.data.volumes import write_volume
from ars_jax.errors import UserError
from ars_jax.options import read_config
from ars_jax.train.inputs import find_cases, prepare_inputs, read_split, write_split
from tests.data.synthetic import ct, grid
from tests.small_runs import write_config, write_data_set


def config_of(folder: Path, **data: Any) -> Config:
    return read_config(write_config(folder / "config.yaml", folder / "data", folder / "run", data=data))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Six cases, one of them kept for the test."""
    write_data_set(tmp_path / "data", cases=6)
    return config_of(tmp_path, split_sizes=[3, 2, 1])


def test_test_cases_are_hashed_and_not_prepared(config: Config) -> None:
    inputs = prepare_inputs(config)
    _, split = find_cases(config)
    names = {role: [case.name for case in part] for role, part in zip(ROLES, split, strict=True)}
    assert {role: list(inputs.split[role]) for role in ROLES} == names
    assert set(inputs.split["images"]) == {*names["train"], *names["validation"]}
    assert inputs.unused == 0
    assert [sample.name for sample in inputs.training + inputs.validation] == names["train"] + names["validation"]
    prepared = {path.name.rsplit("-", 1)[0] for path in (config.run.dir / "cache").glob("*.npz")}
    assert prepared == {*names["train"], *names["validation"]}
    assert all(len(key) == 16 for key in inputs.split["test"].values())


def test_a_test_case_changes_nothing_that_training_sees(config: Config) -> None:
    """Neither by its size, which could widen the canvas, nor by its values."""
    before = prepare_inputs(config)
    _, split = find_cases(config)
    image, label = ct(grid((40, 50, 60)), seed=9)
    (case,) = split.test
    assert case.label
    write_volume(case.image, image)
    write_volume(case.label, label)
    after = prepare_inputs(config)
    assert after.plan == before.plan
    assert {key: part for key, part in after.split.items() if key != "test"} == {
        key: part for key, part in before.split.items() if key != "test"
    }
    assert after.split["test"] != before.split["test"]
    for old, new in zip(before.training + before.validation, after.training + after.validation, strict=True):
        np.testing.assert_array_equal(old.image, new.image)


def test_the_split_comes_back_from_its_file(config: Config, tmp_path: Path) -> None:
    split = prepare_inputs(config).split
    write_split(tmp_path / "split.json", split)
    assert read_split(tmp_path / "split.json") == split


def test_a_run_without_test_cases_writes_none(config: Config) -> None:
    fraction = dataclasses.replace(config, data=dataclasses.replace(config.data, split_sizes=None))
    assert prepare_inputs(fraction).split.keys() == {"train", "validation", "images"}


def test_cases_that_were_not_drawn_are_counted(config: Config) -> None:
    fewer = dataclasses.replace(config, data=dataclasses.replace(config.data, split_sizes=(2, 1, 1)))
    assert prepare_inputs(fewer).unused == 2


def test_folds_of_a_configuration_cover_all_cases(config: Config, tmp_path: Path) -> None:
    splits = [find_cases(config_of(tmp_path, folds=3, fold=fold))[1] for fold in range(3)]
    assert sorted(case.name for split in splits for case in split.validation) == [f"case_{i}" for i in range(6)]


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    write_data_set(tmp_path / "data", cases=2)
    with pytest.raises(UserError, match=r"found 2 labelled cases; wanted 3 \+ 2 \+ 1 = 6"):
        find_cases(config_of(tmp_path, split_sizes=[3, 2, 1]))
