"""An arm's scores over seeds: folds are pooled within a seed, and what was scored differently is never compared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TypeVar

from ars_jax.errors import UserError
from ars_jax.metrics.table import Line, Row, statistic, summarise
from ars_jax.report.results import Arm, Results, Trial
from ars_jax.report.runs import Evaluation
from ars_jax.report.seed_curves import by_seed, whole_seeds
from ars_jax.report.tables import MEASURES

T = TypeVar("T")


@dataclass(frozen=True)
class Scores:
    """What an arm scored with each seed.

    Args:
        arm: the arm.
        rows: seed to the rows of all its folds, by rising seed; only seeds of which every fold is finished.
        partial: seeds that still lack folds, so that they miss cases; they are left out of every table.
    """

    arm: Arm
    rows: Mapping[int, tuple[Row, ...]]
    partial: tuple[int, ...]


@dataclass(frozen=True)
class Setting:
    """What all runs of an experiment have in common.

    Args:
        data: name of the data set.
        cases: which of its cases were scored, such as "validation".
        checkpoint: which one was scored.
        convention: of the surface distances.
        tolerance_mm: of the surface Dice, mm; None where it was not measured.
        count: number of cases, over all folds.
        seeds: all seeds that any arm has complete.
        folds: number of folds; None without cross-validation.
    """

    data: str
    cases: str
    checkpoint: str
    convention: str
    tolerance_mm: float | None
    count: int
    seeds: tuple[int, ...]
    folds: int | None


def scores_of(results: Results) -> list[Scores]:
    """Pools the folds of every seed of every arm.

    Args:
        results: of an experiment.

    Returns:
        One entry per arm, in order; a fold counts as missing where another seed or arm has it.
    """
    return [_scores(arm, whole) for arm, whole in zip(results.arms, whole_seeds(results), strict=True)]


def _scores(arm: Arm, whole: Arm) -> Scores:
    rows = {
        seed: tuple(row for trial in trials for row in evaluation_of(trial).rows)
        for seed, trials in by_seed(whole).items()
    }
    return Scores(arm, rows, tuple(seed for seed in by_seed(arm) if seed not in rows))


def evaluation_of(trial: Trial) -> Evaluation:
    """The evaluation of a finished trial.

    Args:
        trial: of `read_results`, which gives only runs that were scored.

    Returns:
        Its evaluation.

    Raises:
        UserError: it has none after all.
    """
    if trial.run.evaluation is None:
        fix = f"ars-jax evaluate {trial.run.folder}"
        raise UserError(trial.run.folder, found="no evaluation", wanted="a run that was scored", fix=fix)
    return trial.run.evaluation


def setting_of(results: Results, scores: Sequence[Scores]) -> Setting:
    """Finds what all runs have in common, and refuses runs that were scored differently.

    Args:
        results: of an experiment.
        scores: what `scores_of` made of it.

    Returns:
        The common setting.

    Raises:
        UserError: no seed is complete, or two runs were scored on other data, other cases, another checkpoint or by
            another convention or tolerance; names both.
    """
    rows = [row for entry in scores for of_seed in entry.rows.values() for row in of_seed]
    if not rows:
        found, fix = "no seed whose runs are all scored", f"ars-jax experiment, until {results.folder} has one"
        raise UserError(results.folder, found=found, wanted="one or more", fix=fix)
    trials = [trial for arm in results.arms for trial in arm.trials]
    folds = {trial.fold for trial in trials} - {None}
    return Setting(
        data=_common(trials, "data", lambda it: PurePath(_about(it, "data")).name),
        cases=_common(trials, "cases", lambda it: _about(it, "cases")),
        checkpoint=_common(trials, "checkpoint", lambda it: _about(it, "checkpoint")),
        convention=_common(trials, "convention", lambda it: it.convention),
        tolerance_mm=_common(trials, "tolerance_mm", lambda it: it.rows[0].tolerance_mm),
        count=len({row.case for row in rows}),
        seeds=tuple(sorted({seed for entry in scores for seed in entry.rows})),
        folds=len(folds) or None,
    )


def _about(evaluation: Evaluation, key: str) -> str:
    return str(evaluation.about.get(key, ""))


def _common(trials: Sequence[Trial], what: str, value: Callable[[Evaluation], T]) -> T:
    found = {value(evaluation_of(trial)): trial.run.name for trial in reversed(trials)}
    if len(found) > 1:
        raise UserError(
            f"evaluations: {what}",
            found=", ".join(f"{text or 'nothing'} in {run}" for text, run in reversed(found.items())),
            wanted="all runs scored alike, since they are compared",
            fix="score the others again with ars-jax evaluate",
        )
    return next(iter(found))


def over_seeds(scores: Scores) -> tuple[dict[str, Line], Line | None]:
    """Averages over cases within each seed, and then over seeds.

    Args:
        scores: of an arm.

    Returns:
        Organ to its line, and the line of the mean over organs, None where no seed is complete. Every `mean` is the
        mean over seeds of the mean over cases (and organs), every `sd` the spread between seeds, every `n` the seeds
        that have a value; the counts are sums over seeds.
    """
    summaries = [summarise(rows) for rows in scores.rows.values()]
    organs = dict.fromkeys(line.organ for summary in summaries for line in summary.organs)
    lines = {
        organ: _joined([line for it in summaries for line in it.organs if line.organ == organ]) for organ in organs
    }
    return lines, _joined([summary.overall for summary in summaries]) if summaries else None


def _joined(lines: Sequence[Line]) -> Line:
    means = {m.field: statistic(getattr(line, m.field).mean for line in lines) for m in MEASURES}
    return Line(
        organ=lines[0].organ,
        cases=sum(line.cases for line in lines),
        misses=sum(line.misses for line in lines),
        false_alarms=sum(line.false_alarms for line in lines),
        **means,
    )


def header(setting: Setting, *, surfaces: bool) -> str:
    """Says what was scored, for the head of a table.

    Args:
        setting: what all runs have in common.
        surfaces: whether the table has measures between surfaces, so that their convention belongs to it.

    Returns:
        One line.
    """
    kind = f" {setting.cases}" if setting.cases else ""
    parts = [f"Data: {setting.data}"] * bool(setting.data)
    parts.append(f"{setting.count}{kind} case{'s' * (setting.count != 1)}")
    parts += [f"{setting.folds} folds, pooled"] * bool(setting.folds)
    parts.append(_seeds(setting.seeds))
    parts += [f"{setting.checkpoint} checkpoint"] * bool(setting.checkpoint)
    if surfaces:
        parts.append(f"surface distances in mm by the convention {setting.convention}")
        known = setting.tolerance_mm is not None
        parts += [f"surface Dice at {setting.tolerance_mm:g} mm"] * known
    return "; ".join(parts) + "."


def _seeds(seeds: Sequence[int]) -> str:
    return f"{len(seeds)} seed{'s' * (len(seeds) != 1)} ({', '.join(map(str, seeds))})"


def facts(setting: Setting) -> dict[str, str | float | None]:
    """Says the same for programs.

    Args:
        setting: what all runs have in common.

    Returns:
        Columns of a CSV file.
    """
    scored = {"data": setting.data, "scored": setting.cases, "checkpoint": setting.checkpoint}
    return scored | {"convention": setting.convention, "tolerance_mm": setting.tolerance_mm}


def reservations(scores: Sequence[Scores], setting: Setting) -> list[str]:
    """Says what a reader must hold against the values.

    Args:
        scores: of all arms.
        setting: what their runs have in common.

    Returns:
        Sentences: the cases chose the checkpoint, runs are missing, or not all scored the same cases; mostly none.
    """
    said = []
    if setting.cases == "validation" and setting.checkpoint == "best":
        said.append("The best checkpoint was chosen by the DSC of these very cases: on unseen ones all arms are worse.")
    for entry in scores:
        lacking = sorted({*setting.seeds, *entry.partial} - set(entry.rows))
        if lacking:
            said.append(f"{entry.arm.name} is not finished for seed {', '.join(map(str, lacking))}.")
    cases = {frozenset(row.case for row in of_seed) for entry in scores for of_seed in entry.rows.values()}
    if len(cases) > 1:
        said.append("Not all runs scored the same cases: means are of unlike cases, while the tests take common ones.")
    return said
