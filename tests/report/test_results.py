"""An experiment is read back with its plan, so that what is missing is known."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ars_jax.errors import UserError
from ars_jax.metrics.table import MEAN
from ars_jax.report.ablations import division_figures, range_figures
from ars_jax.report.results import INDEX, Results, has_whole_seed, read_results, whole_seeds
from ars_jax.report.seed_curves import final_dsc
from tests.objectives import ARS, RS
from tests.report.fake_arms import made_arm, made_trial
from tests.report.fake_experiments import FakeArm, make_experiment

ONE = {"a": {"liver": 0.5, "spleen": 0.7}}
LONE = (FakeArm("B", "baseline", 2.0),)


def unscore(folder: Path, run: str) -> None:
    (folder / "runs" / run / "evaluation" / "table.json").unlink()


def test_seeds_that_lack_a_fold_are_left_out() -> None:
    whole = made_arm("B", "baseline", [made_trial(0, ONE, fold) for fold in (0, 1)])
    young = made_arm("D", "dice", [made_trial(0, ONE, 0), *(made_trial(1, ONE, fold) for fold in (0, 1))])
    kept = whole_seeds(Results("", Path(), (whole, young)))
    assert kept[0] == whole
    assert [(trial.seed, trial.fold) for trial in kept[1].trials] == [(1, 0), (1, 1)]


def test_a_fold_that_nobody_has_finished_is_missing_all_the_same() -> None:
    arm = made_arm("B", "baseline", [made_trial(seed, ONE, 0) for seed in (0, 1)])
    planned = tuple((seed, fold) for seed in (0, 1) for fold in (0, 1))
    results = Results("", Path(), (replace(arm, planned=planned),))
    assert not has_whole_seed(results)
    assert [whole.trials for whole in whole_seeds(results)] == [()]
    assert has_whole_seed(Results("", Path(), (arm,)))


def test_a_written_plan_is_read_with_what_is_scored_and_what_diverged(tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "e", LONE, seeds=(0, 1), folds=2, epochs=5)
    unscore(folder, "arm0-seed0-fold1")
    unscore(folder, "arm0-seed1-fold0")
    (folder / "runs" / "arm0-seed1-fold0" / "diverged.json").write_text('{"error": "the loss is nan"}')
    (arm,) = read_results(folder).arms
    assert arm.planned == ((0, 0), (0, 1), (1, 0), (1, 1))
    assert [(trial.seed, trial.fold) for trial in arm.trials] == [(0, 0), (1, 1)]
    assert arm.diverged == ((1, 0),)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content["arms"][0]["trials"][0].update(seed="0"), "seed: found '0'; wanted int"),
        (lambda content: content["arms"][0]["trials"][0].update(seed=True), "seed: found True; wanted int"),
        (lambda content: content["arms"][0]["trials"][0].update(fold="0"), "fold: found '0'; wanted int"),
        (lambda content: content["arms"][0]["trials"][0].update(fold=0), "runs with and without folds"),
        (lambda content: content["arms"][0]["trials"][0].pop("run"), "run: found None; wanted str"),
        (lambda content: content["arms"][0].update(settings=[]), "settings: found .*; wanted dict"),
        (lambda content: content["arms"][0].update(trials={}), "trials: found {}; wanted list"),
        (lambda content: content.update(arms=["B"]), "arms: found 'B'; wanted dict"),
        (lambda content: content.pop("title"), "title: found None; wanted str"),
    ],
)
def test_a_damaged_plan_is_one_line_that_names_the_key(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    trials = [{"seed": seed, "fold": None, "run": f"runs/{seed}"} for seed in (0, 1)]
    content = {"title": "t", "arms": [{"name": "B", "objective": "baseline", "settings": {}, "trials": trials}]}
    change(content)
    (tmp_path / INDEX).write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"experiment\.json.*{said}"):
        read_results(tmp_path)


def test_a_fault_in_a_run_is_that_of_the_run_and_not_of_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_experiment(tmp_path / "e", LONE, seeds=(0,), cases=("north",), epochs=5)

    def broken(folder: Path, name: str) -> None:
        raise KeyError("a fault of the program")

    monkeypatch.setattr("ars_jax.report.results.read_run", broken)
    with pytest.raises(KeyError, match="a fault of the program"):
        read_results(folder)


def test_figures_of_a_written_experiment_show_its_settings(tmp_path: Path) -> None:
    arms = [
        FakeArm("B", "baseline", 2.0),
        *(FakeArm(f"B+RS, DC {grid}", RS, 2.0 / grid, {"loss.regions": grid}) for grid in (2, 4)),
        *(
            FakeArm(
                f"B+ARS, [{a}, 0.9]",
                ARS,
                1.0 + a,
                {"loss.min_penalty": a, "loss.penalty_range": 0.9 - a},
            )
            for a in (0.1, 0.3)
        ),
    ]
    folder = make_experiment(tmp_path / "e", arms, seeds=(0, 1), cases=("north", "south"), epochs=5)
    read = read_results(folder).arms
    dsc = {arm.name: [of_seed[MEAN] for of_seed in final_dsc(arm).values()] for arm in read}
    panel = division_figures(read)["division_curve"].axes[0]
    drawn = {str(line.get_label()): np.asarray(line.get_xydata()) for line in panel.lines}
    means = [sum(dsc[f"B+RS, DC {grid}"]) / 2 for grid in (2, 4)]
    assert np.allclose(drawn["B+RS"], [[0, means[0]], [1, means[1]]])
    assert [label.get_text() for label in panel.get_xticklabels()] == ["2", "4"]
    left, right = range_figures(read)["range_curve"].axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["[0.1, 0.9]", "[0.3, 0.9]"]
    for row, name in enumerate(("B+ARS, [0.1, 0.9]", "B+ARS, [0.3, 0.9]")):
        seeds = next(line for line in right.lines if np.array_equal(line.get_ydata(), [row, row]))
        assert np.allclose(seeds.get_xdata(), dsc[name])
