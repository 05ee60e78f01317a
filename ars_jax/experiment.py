"""A matrix of trainings, each in a folder of its own, then the tables and figures that compare them."""

from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from ars_jax.checkpoint import has_checkpoint
from ars_jax.config import Config, to_dict, with_absolute_paths
from ars_jax.errors import DivergedError, UserError
from ars_jax.files import read_json, write_json
from ars_jax.locks import locked
from ars_jax.matrix import ExperimentConfig, TrialPlan, plan_trials
from ars_jax.metrics.table import summarise
from ars_jax.report.comparison import write_comparison
from ars_jax.report.experiments import check_figures, draw_experiment
from ars_jax.report.results import DIVERGED, INDEX, check_folds, has_whole_seed, read_results
from ars_jax.report.runs import read_evaluation, read_metrics
from ars_jax.report.tables import NONE
from ars_jax.score import score_run
from ars_jax.train.folder import LOCK, check_same_config, drop_leftovers
from ars_jax.train.inputs import find_cases, scored_role
from ars_jax.train.loop import check_regions, train


def run_experiment(config: Config, experiment: ExperimentConfig, console: Console | None = None) -> list[str]:
    """Trains and scores what is not done yet, then writes tables and figures of all that is.

    The folder `config.run.dir` gets experiment.json (arms and their runs), runs/ARM/seedN/ (run folders with their
    evaluation), tables/ and figures/. An experiment that was interrupted goes on where it was: runs that are scored are
    skipped, one that was cut short is resumed. More objectives, settings or seeds join the runs that are there. Several
    processes may work on one experiment; each takes the runs that nobody else is at.

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
    _check(trials)
    _write_index(config.run.dir, experiment, trials)
    missing = []
    for number, trial in enumerate(trials, start=1):
        console.print(f"run {number} of {len(trials)}: {trial.name}", soft_wrap=True)
        with locked(trial.config.run.dir / LOCK) as free:
            if free:
                drop_leftovers(trial.config.run.dir)
            reason = _finish(trial, experiment, console) if free else "another process is at it"
        if reason:
            console.print(reason, soft_wrap=True)
            missing.append(f"{trial.name}: {reason}")
    _compare(config.run.dir)
    return missing


def _check(trials: tuple[TrialPlan, ...]) -> None:
    """Refuses at once what would stop the experiment at a later run, or after all of them."""
    check_figures()
    for trial in trials:
        folder, loss, canvas = trial.config.run.dir, trial.config.loss, trial.config.prepare.canvas
        if has_checkpoint(folder / "checkpoints") or (folder / DIVERGED).is_file():
            check_same_config(trial.config)
        if canvas is not None:
            check_regions(loss, "the canvas", canvas)
    for trial in {trial.fold: trial for trial in trials}.values():
        find_cases(trial.config)


def _compare(folder: Path) -> None:
    """Writes tables and figures of the seeds whose runs are scored, if there are any yet."""
    results = read_results(folder)
    if not has_whole_seed(results):
        return
    try:
        draw_experiment(results, folder / "figures")
    finally:  # the tables link the figures, and need neither matplotlib nor the images
        write_comparison(results, folder / "tables")


def _finish(trial: TrialPlan, experiment: ExperimentConfig, console: Console) -> str:
    """Trains and scores a run as far as it is not done; returns why it has no result, or nothing."""
    folder = trial.config.run.dir
    if (folder / DIVERGED).is_file():
        return f"{read_json(folder / DIVERGED)['error']}; to try it again, delete {folder}"
    if not _is_trained(folder):
        try:
            train(trial.config, resume=has_checkpoint(folder / "checkpoints"), console=console, held=True)
        except DivergedError as error:
            write_json(folder / DIVERGED, {"error": str(error)})
            return f"{error}; to try it again, delete {folder}"
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
    role = scored_role(folder)
    checkpoint = experiment.checkpoint or ("best" if role == "test" else "newest")
    about = {"data": str(trial.config.data.root), "cases": role, "checkpoint": checkpoint}
    done = read_evaluation(folder)
    if done and (done.about, done.convention) == (about, experiment.convention):
        if done.rows[0].tolerance_mm == experiment.tolerance_mm:
            return
    scores = score_run(
        folder,
        trial.config,
        folder / "evaluation",
        cases=role,
        checkpoint=checkpoint,
        convention=experiment.convention,
        tolerance_mm=experiment.tolerance_mm,
    )
    dsc = summarise(scores.rows).overall.dsc.mean
    console.print(f"scored: DSC {NONE if dsc is None else f'{dsc:.3f}'}, {scores.cases} {scores.role} cases")


def _write_index(folder: Path, experiment: ExperimentConfig, trials: tuple[TrialPlan, ...]) -> None:
    """Adds arms and runs to those that the experiment has."""
    path = folder / INDEX
    arms = _known_arms(path) if path.is_file() else {}
    for trial in trials:
        arm = trial.arm
        new = {"name": arm.name, "objective": arm.objective, "settings": to_dict(dict(arm.settings)), "trials": []}
        entry = {"seed": trial.seed, "fold": trial.fold, "run": trial.folder}
        known = arms.setdefault(arm.name, new)["trials"]
        if entry not in known:
            known.append(entry)
    check_folds(path, [entry["fold"] for arm in arms.values() for entry in arm["trials"]])
    write_json(path, {"title": experiment.title or folder.name, "arms": list(arms.values())})


def _known_arms(path: Path) -> dict[str, Any]:
    try:
        return {arm["name"]: {**arm, "trials": list(arm["trials"])} for arm in read_json(path)["arms"]}
    except (KeyError, TypeError) as error:
        raise UserError(path, found=error, wanted="the file of ars-jax experiment", fix="restore it") from error
