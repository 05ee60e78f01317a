"""The runs of an experiment: every setting multiplies the objectives that have it, and nothing else."""

import dataclasses
from pathlib import Path
from typing import Any, get_args

import pytest
from jsonargparse import ArgumentParser

from ars_jax.config import Config, DataConfig, Objective, RunConfig, TrainConfig
from ars_jax.errors import UserError
from ars_jax.matrix import NAMES, ExperimentConfig, plan_arms, plan_trials
from ars_jax.options import add_experiment, build_experiment

CONFIGS = Path(__file__).parents[1] / "configs"
BASE = Config(DataConfig(Path("/data")), RunConfig(Path("/out")), train=TrainConfig(epochs=3))
REGIONAL = ("baseline", "baseline+rs", "baseline+ars")


def arms(**choices: Any) -> list[str]:
    experiment = ExperimentConfig(**{"objectives": REGIONAL, **choices})
    return [arm.name for arm in plan_arms(BASE.loss, experiment)]


def test_the_default_is_the_papers_five_objectives_over_three_seeds() -> None:
    trials = plan_trials(BASE, ExperimentConfig())
    assert [trial.arm.name for trial in trials] == ["C", "D", "B", "B+RS", "B+ARS"] * 3
    assert [trial.seed for trial in trials] == [0] * 5 + [1] * 5 + [2] * 5


def test_every_objective_has_a_name_of_its_own() -> None:
    assert set(NAMES) == set(get_args(Objective))
    assert len(set(NAMES.values())) == len(NAMES)


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({"divisions": (2, 4)}, ["B", "B+RS, DC 2", "B+RS, DC 4", "B+ARS, DC 2", "B+ARS, DC 4"]),
        ({"divisions": ((2, 4, 8), 2)}, ["B", "B+RS, DC 2x4x8", "B+RS, DC 2", "B+ARS, DC 2x4x8", "B+ARS, DC 2"]),
        ({"ranges": ((0.3, 0.7), (0.0, 1.0))}, ["B", "B+RS", "B+ARS, [0.3, 0.7]", "B+ARS, [0, 1]"]),
        ({"adaptive_gradients": ("through", "stop")}, ["B", "B+RS", "B+ARS, through", "B+ARS, stop"]),
        ({"region_weights": (0.5, 1.0), "objectives": ("baseline+rs",)}, ["B+RS, weight 0.5", "B+RS, weight 1"]),
        ({"reductions": ("class_mean",)}, ["B", "B+RS, class mean", "B+ARS, class mean"]),
    ],
)
def test_a_setting_multiplies_the_objectives_that_have_it(choices: dict[str, Any], expected: list[str]) -> None:
    assert arms(**choices) == expected


def test_settings_multiply_each_other() -> None:
    names = arms(reductions=("sum", "class_mean"), adaptive_gradients=("through", "stop"))
    assert len(names) == 1 + 2 + 4
    assert names[-1] == "B+ARS, class mean, stop"


def test_settings_reach_the_loss_and_are_told() -> None:
    experiment = ExperimentConfig(objectives=("baseline+ars",), ranges=((0.1, 0.7),), divisions=(2, 4))
    loss = dataclasses.replace(BASE.loss, grid=None, region_size=8)
    first, second = plan_arms(loss, experiment)
    assert (first.loss.grid, first.loss.region_size, first.loss.a, first.loss.b) == (2, None, 0.1, 0.6)
    assert first.settings == {"loss.grid": 2, "loss.a": 0.1, "loss.b": 0.6}
    assert second.settings == {"loss.grid": 4, "loss.a": 0.1, "loss.b": 0.6}


def test_a_list_that_grows_keeps_the_runs_that_it_had() -> None:
    few = ExperimentConfig(objectives=REGIONAL, reductions=("sum",), seeds=(0,))
    many = ExperimentConfig(objectives=REGIONAL, reductions=("class_mean", "sum"), seeds=(0, 1))
    before, after = ({trial.folder: trial.config for trial in plan_trials(BASE, x)} for x in (few, many))
    assert before == {folder: after[folder] for folder in before}


def test_values_that_differ_little_are_different_arms() -> None:
    names = arms(objectives=("baseline+rs",), region_weights=(0.1234567, 0.1234568))
    assert len(set(names)) == 2


def test_what_an_arm_is_not_asked_to_change_stays() -> None:
    """So that B is the same run in every experiment."""
    experiment = ExperimentConfig(objectives=REGIONAL, divisions=(2,), reductions=("sum",))
    plain = plan_arms(BASE.loss, experiment)[0]
    assert plain.loss == dataclasses.replace(BASE.loss, objective="baseline")


def test_folds_and_seeds_multiply_and_each_run_has_its_folder_and_one_cache() -> None:
    config = dataclasses.replace(BASE, data=dataclasses.replace(BASE.data, folds=3))
    trials = plan_trials(config, ExperimentConfig(objectives=("baseline", "baseline+rs"), seeds=(0, 7)))
    assert len(trials) == 2 * 3 * 2
    assert len({trial.config.run.dir for trial in trials}) == len(trials)
    assert {trial.config.data.cache for trial in trials} == {Path("/out/cache")}
    assert sorted({(trial.config.data.fold, trial.config.train.seed) for trial in trials}) == [
        (fold, seed) for fold in range(3) for seed in (0, 7)
    ]
    assert trials[0].folder == "runs/B/fold0_seed0"


def test_some_folds_may_be_chosen() -> None:
    config = dataclasses.replace(BASE, data=dataclasses.replace(BASE.data, folds=3))
    trials = plan_trials(config, ExperimentConfig(objectives=("baseline",), seeds=(0,), folds=(2,)))
    assert [trial.config.data.fold for trial in trials] == [2]


def test_folders_are_names_that_every_file_system_takes() -> None:
    experiment = ExperimentConfig(
        objectives=get_args(Objective), divisions=(2, (2, 4, 4)), ranges=((0.3, 0.7), (0.2, 1.0))
    )
    folders = [arm.folder for arm in plan_arms(BASE.loss, experiment)]
    assert len(set(folders)) == len(folders)
    assert all(
        set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-") for name in folders
    )


@pytest.mark.parametrize(
    ("choices", "key"),
    [
        ({"objectives": ()}, "experiment.objectives"),
        ({"objectives": ("baseline", "baseline")}, "experiment.objectives"),
        ({"seeds": (1, 1)}, "experiment.seeds"),
        ({"seeds": (-1,)}, "train.seed"),
        ({"divisions": ()}, "experiment.divisions"),
        ({"divisions": (4, (4, 4, 4))}, "experiment.divisions"),
        ({"divisions": (0,)}, "loss.grid"),
        ({"tolerance_mm": -1.0}, "experiment.tolerance_mm"),
        ({"ranges": ((0.3, float("inf")),)}, "experiment.ranges"),
        ({"ranges": ((0.7, 0.3),)}, "experiment.ranges"),
        ({"ranges": ((0.0, 0.0),)}, "experiment.ranges"),
        ({"folds": (0,)}, "experiment.folds"),
        ({"region_weights": (-1.0,)}, "loss.region_weight"),
    ],
)
def test_choices_that_mean_nothing_are_refused_by_key(choices: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError, match=key):
        plan_trials(BASE, ExperimentConfig(**choices))


@pytest.mark.parametrize(
    ("name", "arms", "runs"), [("divisions", 1 + 7 + 7, 45), ("ranges", 1 + 6, 21), ("losses", 6, 18)]
)
def test_the_papers_ablations_go_on_top_of_a_data_sets_configuration(name: str, arms: int, runs: int) -> None:
    files = [f"--config={CONFIGS / f'{name}.yaml'}" for name in ("pddca", f"paper_{name}")]
    parser = ArgumentParser(exit_on_error=False)
    add_experiment(parser)
    config, experiment = build_experiment(parser.parse_args([*files, "--data.root=/data", "--run.dir=/out"]))
    trials = plan_trials(config, experiment)
    assert config.prepare.spacing == (1.5, 1.5, 1.5)
    assert (len({trial.arm.name for trial in trials}), len(trials)) == (arms, runs)


def test_the_openkbp_experiment_is_seven_arms_over_three_seeds() -> None:
    parser = ArgumentParser(exit_on_error=False)
    add_experiment(parser)
    words = [f"--config={CONFIGS / 'openkbp_experiment.yaml'}", "--data.root=/data", "--run.dir=/out"]
    config, experiment = build_experiment(parser.parse_args(words))
    trials = plan_trials(config, experiment)
    assert len(trials) == 21
    assert [trial.arm.name for trial in trials[:7]] == [
        "B",
        "B+RS, class mean",
        "B+RS, sum",
        "B+ARS, class mean, through",
        "B+ARS, class mean, stop",
        "B+ARS, sum, through",
        "B+ARS, sum, stop",
    ]
    (stop,) = {trial.arm.loss for trial in trials if trial.arm.name == "B+ARS, sum, stop"}
    assert (stop.objective, stop.reduction, stop.adaptive_gradient) == ("baseline+ars", "sum", "stop")
    assert len({trial.config.data.cache for trial in trials}) == 1
