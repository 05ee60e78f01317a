"""An experiment's results: the runs of each arm, read back from the folder that `ars-jax experiment` leaves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ars_jax.errors import UserError
from ars_jax.files import read_json
from ars_jax.report.runs import Run, read_run

INDEX = "experiment.json"
DIVERGED = "diverged.json"
"""What a run folder has whose training ended without a finite loss."""

T = TypeVar("T")
Place = tuple[int, int | None]
"""Seed and fold of a run; the fold is None where the split is the same for all runs."""


@dataclass(frozen=True)
class Trial:
    """One finished run of an arm.

    Args:
        seed: of its training.
        fold: of its cross-validation; None where the split is the same for all runs.
        run: the run, with its evaluation.
    """

    seed: int
    fold: int | None
    run: Run


@dataclass(frozen=True)
class Arm:
    """One way of training.

    Args:
        name: as the tables call it, such as "B+ARS" or "B+ARS, DC 4"; it tells what differs between arms.
        objective: the configuration's terms, joined by a plus sign.
        settings: the settings that differ between arms of this objective, by configuration key, such as
            `{"loss.regions": 4, "loss.min_penalty": 0.3}`; empty where none does.
        planned: the runs that it is to have, finished or not.
        trials: the finished runs, in the order of the plan.
        diverged: the runs that can have no result, since their loss was not finite.
    """

    name: str
    objective: str
    settings: Mapping[str, Any]
    planned: tuple[Place, ...]
    trials: tuple[Trial, ...]
    diverged: tuple[Place, ...] = ()


@dataclass(frozen=True)
class Results:
    """What an experiment has so far.

    Args:
        title: what the experiment is called.
        folder: where it lies.
        arms: in the order of the experiment, also those without a finished run.
    """

    title: str
    folder: Path
    arms: tuple[Arm, ...]


def read_results(folder: Path) -> Results:
    """Reads what an experiment has so far.

    Args:
        folder: what `ars-jax experiment` wrote: experiment.json and the run folders that it names.

    Returns:
        All arms, each with the runs that were trained and scored.

    Raises:
        UserError: it is no such folder, or a file in it is damaged.
    """
    path = folder / INDEX
    content = _typed(path, read_json(path), "", dict)
    entries = _field(path, content, "arms", list)
    title = _field(path, content, "title", str)
    arms = tuple(_arm(path, entry) for entry in entries)
    check_folds(path, [fold for arm in arms for _, fold in arm.planned])
    return Results(title, folder, arms)


def check_folds(path: Path, folds: Sequence[int | None]) -> None:
    """Refuses runs with folds beside runs without.

    Args:
        path: of the index, for the message.
        folds: of all planned runs.

    Raises:
        UserError: some are None and some are not.
    """
    if len({fold is None for fold in folds}) > 1:
        found, wanted = "runs with and without folds", "one way of splitting, since their cases are pooled"
        raise UserError(path, found=found, wanted=wanted, fix="train the others as an experiment of their own")


def _arm(path: Path, entry: object) -> Arm:
    arm = _typed(path, entry, "arms", dict)
    plan = [_plan(path, trial) for trial in _field(path, arm, "trials", list)]
    trials, diverged = [], []
    for (seed, fold), name in plan:
        folder = path.parent / name
        # A run counts as finished when it is scored.
        if (folder / "evaluation" / "table.json").is_file():
            trials.append(Trial(seed, fold, read_run(folder, name)))
        elif (folder / DIVERGED).is_file():
            diverged.append((seed, fold))
    return Arm(
        name=_field(path, arm, "name", str),
        objective=_field(path, arm, "objective", str),
        settings=_field(path, arm, "settings", dict),
        planned=tuple(place for place, _ in plan),
        trials=tuple(trials),
        diverged=tuple(diverged),
    )


def _plan(path: Path, entry: object) -> tuple[Place, str]:
    """Seed, fold and folder of a run."""
    trial = _typed(path, entry, "trials", dict)
    fold = None if trial.get("fold") is None else _field(path, trial, "fold", int)
    return (_field(path, trial, "seed", int), fold), _field(path, trial, "run", str)


def _field(path: Path, entry: Mapping[str, object], key: str, kind: type[T]) -> T:
    return _typed(path, entry.get(key), key, kind)


def _typed(path: Path, value: object, key: str, kind: type[T]) -> T:
    # JSON's true is an int of Python, but no seed.
    if isinstance(value, kind) and not isinstance(value, bool):
        return value
    place, wanted = f"{path}: {key}" if key else path, f"{kind.__name__}, as ars-jax experiment writes it"
    raise UserError(place, found=repr(value)[:40], wanted=wanted, fix="restore it")


def whole_seeds(results: Results) -> tuple[Arm, ...]:
    """Leaves out the seeds that lack a fold, whose cases would not be those of the other seeds.

    Args:
        results: the experiment so far.

    Returns:
        All arms in order, each with the trials of the seeds that have every fold that the experiment plans.
    """
    folds = planned_folds(results)
    whole = []
    for arm in results.arms:
        seeds = {seed for seed, trials in by_seed(arm).items() if {trial.fold for trial in trials} >= folds}
        whole.append(replace(arm, trials=tuple(trial for trial in arm.trials if trial.seed in seeds)))
    return tuple(whole)


def has_whole_seed(results: Results) -> bool:
    """Says whether there is anything to compare yet.

    Args:
        results: the experiment so far.

    Returns:
        Whether any arm has a seed of which every planned fold is scored.
    """
    return any(arm.trials for arm in whole_seeds(results))


def planned_folds(results: Results) -> set[int | None]:
    """Lists the folds of an experiment.

    Args:
        results: the experiment so far.

    Returns:
        The folds that any arm is to have; None alone without cross-validation.
    """
    return {fold for arm in results.arms for _, fold in arm.planned}


def by_seed(arm: Arm) -> dict[int, list[Trial]]:
    """Sorts an arm's trials.

    Args:
        arm: any.

    Returns:
        Seed to its trials, one per fold; seeds rise.
    """
    seeds = sorted({trial.seed for trial in arm.trials})
    return {seed: [trial for trial in arm.trials if trial.seed == seed] for seed in seeds}
