"""The runs of an experiment: every setting multiplies the objectives that have it, and nothing else."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from jsonargparse import ArgumentParser

from ars_jax.config import Config, DataConfig, RunConfig, TrainConfig
from ars_jax.errors import UserError
from ars_jax.losses import RegionSize
from ars_jax.losses._objective import BASELINE, REGIONAL_TERMS, VOLUME_TERMS
from ars_jax.matrix import SHORT_NAMES, ExperimentConfig, plan_arms, plan_trials
from ars_jax.options import add_experiment, build_experiment
from tests.objectives import ARS, RS

CONFIGS = Path(__file__).parents[1] / "configs"
BASE = Config(DataConfig(Path("/data")), RunConfig(Path("/out")), train=TrainConfig(epochs=3))
REGIONAL = ("baseline", RS, ARS)
SUM_BESIDE_MEAN = pytest.mark.filterwarnings("ignore:.*a sum over regions:UserWarning")


def arms(**choices: Any) -> list[str]:
    experiment = ExperimentConfig(**{"objectives": REGIONAL, **choices})
    return [arm.name for arm in plan_arms(BASE.loss, experiment)]


def test_the_default_is_the_papers_five_objectives_over_three_seeds() -> None:
    trials = plan_trials(BASE, ExperimentConfig())
    assert [trial.arm.name for trial in trials] == ["C", "D", "B", "B+RS", "B+ARS"] * 3
    assert [trial.seed for trial in trials] == [0] * 5 + [1] * 5 + [2] * 5


def test_every_term_has_a_short_name_of_its_own() -> None:
    assert SHORT_NAMES.keys() == {BASELINE, *VOLUME_TERMS, *REGIONAL_TERMS}
    assert len(set(SHORT_NAMES.values())) == len(SHORT_NAMES)


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({"regions": (2, 4)}, ["B", "B+RS, DC 2", "B+RS, DC 4", "B+ARS, DC 2", "B+ARS, DC 4"]),
        ({"regions": ((2, 4, 8), 2)}, ["B", "B+RS, DC 2x4x8", "B+RS, DC 2", "B+ARS, DC 2x4x8", "B+ARS, DC 2"]),
        ({"penalty_ranges": ((0.3, 0.7), (0.0, 1.0))}, ["B", "B+RS", "B+ARS, [0.3, 0.7]", "B+ARS, [0, 1]"]),
        ({"adaptive_gradients": ("through", "stop")}, ["B", "B+RS", "B+ARS, through", "B+ARS, stop"]),
        (
            {"region_weights": (0.5, 1.0), "objectives": (RS,)},
            ["B+RS, weight 0.5", "B+RS, weight 1"],
        ),
        ({"reductions": ("class_mean",)}, ["B", "B+RS, class mean", "B+ARS, class mean"]),
    ],
)
def test_a_setting_multiplies_the_objectives_that_have_it(choices: dict[str, Any], expected: list[str]) -> None:
    assert arms(**choices) == expected


@SUM_BESIDE_MEAN
def test_settings_multiply_each_other() -> None:
    names = arms(reductions=("sum", "class_mean"), adaptive_gradients=("through", "stop"))
    assert len(names) == 1 + 2 + 4
    assert names[-1] == "B+ARS, class mean, stop"


def test_settings_reach_the_loss_and_are_told() -> None:
    experiment = ExperimentConfig(objectives=(ARS,), penalty_ranges=((0.1, 0.7),), regions=(2, 4))
    loss = dataclasses.replace(BASE.loss, regions=RegionSize(8))
    first, second = plan_arms(loss, experiment)
    assert (first.loss.regions, first.loss.min_penalty, first.loss.penalty_range) == (2, 0.1, 0.6)
    assert first.settings == {"loss.regions": 2, "loss.min_penalty": 0.1, "loss.penalty_range": 0.6}
    assert second.settings == {"loss.regions": 4, "loss.min_penalty": 0.1, "loss.penalty_range": 0.6}


@SUM_BESIDE_MEAN
def test_a_list_that_grows_keeps_the_runs_that_it_had() -> None:
    few = ExperimentConfig(objectives=REGIONAL, reductions=("sum",), seeds=(0,))
    many = ExperimentConfig(objectives=REGIONAL, reductions=("class_mean", "sum"), seeds=(0, 1))
    before, after = ({trial.folder: trial.config for trial in plan_trials(BASE, x)} for x in (few, many))
    assert before == {folder: after[folder] for folder in before}


def test_values_that_differ_little_are_different_arms() -> None:
    names = arms(objectives=(RS,), region_weights=(0.1234567, 0.1234568))
    assert len(set(names)) == 2


@SUM_BESIDE_MEAN
def test_what_an_arm_is_not_asked_to_change_stays() -> None:
    """So that B is the same run in every experiment."""
    experiment = ExperimentConfig(objectives=REGIONAL, regions=(2,), reductions=("sum",))
    plain = plan_arms(BASE.loss, experiment)[0]
    assert plain.loss == dataclasses.replace(BASE.loss, terms={"baseline": 1.0})


def test_folds_and_seeds_multiply_and_each_run_has_its_folder_and_one_cache() -> None:
    config = dataclasses.replace(BASE, data=dataclasses.replace(BASE.data, folds=3))
    trials = plan_trials(config, ExperimentConfig(objectives=("baseline", RS), seeds=(0, 7)))
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
        objectives=(*VOLUME_TERMS, *REGIONAL), regions=(2, (2, 4, 4)), penalty_ranges=((0.3, 0.7), (0.2, 1.0))
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
        ({"regions": ()}, "experiment.regions"),
        ({"regions": (4, (4, 4, 4))}, "experiment.regions"),
        ({"regions": (0,)}, "loss.regions"),
        ({"tolerance_mm": -1.0}, "experiment.tolerance_mm"),
        ({"penalty_ranges": ((0.3, float("inf")),)}, "experiment.penalty_ranges"),
        ({"penalty_ranges": ((0.7, 0.3),)}, "experiment.penalty_ranges"),
        ({"penalty_ranges": ((0.0, 0.0),)}, "experiment.penalty_ranges"),
        ({"folds": (0,)}, "experiment.folds"),
        ({"region_weights": (-1.0,)}, "loss.terms"),
        ({"objectives": ("baseline+ars",)}, "loss.terms"),
        ({"extra_arms": {"mine": {"grid": 2}}}, "experiment.extra_arms.mine"),
        ({"extra_arms": {"mine": {"eps": 0}}}, "experiment.extra_arms.mine, loss.eps"),
        ({"extra_arms": {"B": {"eps": 1e-3}}}, "experiment.extra_arms"),
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


@SUM_BESIDE_MEAN
def test_the_openkbp_experiment_is_eight_arms_over_three_seeds() -> None:
    parser = ArgumentParser(exit_on_error=False)
    add_experiment(parser)
    words = [f"--config={CONFIGS / 'openkbp_experiment.yaml'}", "--data.root=/data", "--run.dir=/out"]
    config, experiment = build_experiment(parser.parse_args(words))
    trials = plan_trials(config, experiment)
    assert len(trials) == 24
    assert [trial.arm.name for trial in trials[:8]] == [
        "B",
        "B+RS, class mean",
        "B+RS, sum",
        "B+ARS, class mean, through",
        "B+ARS, class mean, stop",
        "B+ARS, sum, through",
        "B+ARS, sum, stop",
        "B+ARS, both sums",
    ]
    literal = trials[7].arm.loss
    assert (literal.name, literal.reduction, literal.cross_entropy_reduction) == (ARS, "sum", "sum")
    assert not literal.sums_beside_mean
    (stop,) = {trial.arm.loss for trial in trials if trial.arm.name == "B+ARS, sum, stop"}
    assert (stop.name, stop.reduction, stop.adaptive_gradient) == (
        ARS,
        "sum",
        "stop",
    )
    assert len({trial.config.data.cache for trial in trials}) == 1
