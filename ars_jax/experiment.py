"""A matrix of trainings, each in a folder of its own, then the tables and figures that compare them."""

from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from ars_jax.checkpoint import has_checkpoint
from ars_jax.config import Config, to_dict, with_absolute_paths
from ars_jax.errors import DivergedError, UserError
from ars_jax.files import locked, write_json
from ars_jax.matrix import ExperimentConfig, TrialPlan, plan_trials
from ars_jax.metrics.table import summarise
from ars_jax.report.comparison import write_comparison
from ars_jax.report.experiments import draw_experiment
from ars_jax.report.results import INDEX, read_results
from ars_jax.report.runs import read_evaluation, read_metrics
from ars_jax.report.tables import NONE
from ars_jax.score import score_run
from ars_jax.train.inputs import scored_role
from ars_jax.train.loop import check_same_config, train

DIVERGED = "diverged.json"


def run_experiment(config: Config, experiment: ExperimentConfig, console: Console | None = None) -> list[str]:
    """Trains and scores what is not done yet, then writes tables and figures of all that is.

    The folder `config.run.dir` gets experiment.json (arms and their runs), runs/ARM/seedN/ (run folders with their
    evaluation), tables/ and figures/. An experiment that was interrupted goes on where it was: runs that are scored are
    skipped, one that was cut short is resumed. Several processes may work on one experiment; each takes the runs that
    nobody else is at.

    Args:
        config: what all runs share; `run.dir` is the experiment's folder.
        experiment: what differs.
        console: where progress is shown; nowhere by default.

    Returns:
        The names of the runs that are missing in the tables, each with the reason: its loss was not finite, or another
        process is still at it.

    Raises:
        UserError: a faulty configuration or data set, or a run of this folder that was made with another configuration.
    """
    console = console or Console(quiet=True)
    config = with_absolute_paths(config)
    trials = plan_trials(config, experiment)
    _write_index(config.run.dir, experiment, trials)
    missing = []
    for number, trial in enumerate(trials, start=1):
        console.print(f"run {number} of {len(trials)}: {trial.name}", soft_wrap=True)
        with locked(trial.config.run.dir / ".lock") as free:
            reason = _finish(trial, experiment, console) if free else "another process is at it"
        if reason:
            console.print(reason, soft_wrap=True)
            missing.append(f"{trial.name}: {reason}")
    try:
        _compare(config.run.dir)
    except UserError as error:
        if not missing:
            raise
        console.print(f"nothing to compare yet: {error}", soft_wrap=True)
    return missing


def _compare(folder: Path) -> None:
    """Writes tables and figures of the runs that are scored."""
    results = read_results(folder)
    try:
        draw_experiment(results, folder / "figures")
    finally:  # the tables link the figures, and need neither matplotlib nor the images
        write_comparison(results, folder / "tables")


def _finish(trial: TrialPlan, experiment: ExperimentConfig, console: Console) -> str:
    """Trains and scores a run as far as it is not done; returns why it has no result, or nothing."""
    folder = trial.config.run.dir
    if has_checkpoint(folder / "checkpoints"):
        check_same_config(trial.config)
    if (folder / DIVERGED).is_file():
        return "its loss was not finite"
    if not _is_trained(folder):
        try:
            train(trial.config, resume=has_checkpoint(folder / "checkpoints"), console=console)
        except DivergedError as error:
            write_json(folder / DIVERGED, {"error": str(error)})
            return str(error)
        finally:
            jax.clear_caches()  # the programs of this run: the next one compiles its own
    _score(trial, experiment, console)
    return ""


def _is_trained(folder: Path) -> bool:
    """Whether a training came to its end."""
    path = folder / "metrics.jsonl"
    return path.is_file() and any(line["kind"] == "end" for line in read_metrics(path))


def _score(trial: TrialPlan, experiment: ExperimentConfig, console: Console) -> None:
    """Scores a run on its test cases, or its validation cases where it has none, unless that was done."""
    folder = trial.config.run.dir
    chosen = experiment.checkpoint or ("best" if scored_role(folder) == "test" else "newest")
    wanted = (chosen, experiment.convention, experiment.tolerance_mm)
    if (done := read_evaluation(folder)) is not None:
        if (done.about.get("checkpoint"), done.convention, done.rows[0].tolerance_mm) == wanted:
            return
    checkpoint, convention, tolerance_mm = wanted
    how: dict[str, Any] = {"checkpoint": checkpoint, "convention": convention, "tolerance_mm": tolerance_mm}
    scores = score_run(folder, trial.config, folder / "evaluation", **how)
    dsc = summarise(scores.rows).overall.dsc.mean
    console.print(f"scored: DSC {NONE if dsc is None else f'{dsc:.3f}'}, {scores.cases} {scores.role} cases")


def _write_index(folder: Path, experiment: ExperimentConfig, trials: tuple[TrialPlan, ...]) -> None:
    arms = {trial.arm.name: trial.arm for trial in trials}
    entries: list[dict[str, Any]] = [
        {
            "name": arm.name,
            "objective": arm.objective,
            "settings": to_dict(dict(arm.settings)),
            "trials": [
                {"seed": trial.seed, "fold": trial.fold, "run": trial.folder}
                for trial in trials
                if trial.arm.name == arm.name
            ],
        }
        for arm in arms.values()
    ]
    write_json(folder / INDEX, {"title": experiment.title or folder.name, "arms": entries})
