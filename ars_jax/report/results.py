"""An experiment's results: the runs of each arm, read back from the folder that `ars-jax experiment` leaves."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ars_jax.errors import UserError
from ars_jax.files import read_json
from ars_jax.report.runs import Run, read_run

INDEX = "experiment.json"


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
        objective: the configuration's `loss.objective`.
        settings: the settings that differ between arms of this objective, by configuration key, such as
            `{"loss.grid": 4, "loss.a": 0.3, "loss.b": 0.4}`; empty where none does.
        trials: the finished runs, by fold and seed.
    """

    name: str
    objective: str
    settings: Mapping[str, Any]
    trials: tuple[Trial, ...]


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
    content = read_json(path)
    try:
        arms = tuple(
            Arm(arm["name"], arm["objective"], arm["settings"], _trials(folder, arm["trials"]))
            for arm in content["arms"]
        )
        return Results(content["title"], folder, arms)
    except (KeyError, TypeError) as error:
        raise UserError(path, found=error, wanted="the file of ars-jax experiment", fix="restore it") from error


def _trials(folder: Path, entries: list[Mapping[str, Any]]) -> tuple[Trial, ...]:
    """The finished trials; a run counts as finished when it is scored."""
    trials = []
    for entry in entries:
        place = folder / entry["run"]
        if not (place / "evaluation" / "table.json").is_file():
            continue
        run = read_run(place, entry["run"])
        trials.append(Trial(entry["seed"], entry["fold"], run))
    return tuple(trials)
