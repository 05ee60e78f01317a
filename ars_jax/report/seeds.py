"""An arm's scores over seeds: folds are pooled within a seed, and what was scored differently is never compared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TypeVar

from ars_jax.errors import UserError
from ars_jax.metrics.table import MEASURES, Line, Row, statistic, summarise
from ars_jax.report.results import Arm, Place, Results, Trial, by_seed, planned_folds, whole_seeds
from ars_jax.report.runs import Evaluation

T = TypeVar("T")


@dataclass(frozen=True)
class Scores:
    """What an arm scored with each seed.

    Args:
        arm: the arm.
        rows: seed to the rows of all its folds, by rising seed; only seeds of which every planned fold is finished.
    """

    arm: Arm
    rows: Mapping[int, tuple[Row, ...]]


@dataclass(frozen=True)
class Setting:
    """What all runs of an experiment have in common.

    Args:
        title: of the experiment.
        name: of its folder.
        data: name of the data set.
        cases: which of its cases were scored, such as "validation".
        checkpoint: which one was scored.
        convention: of the surface distances.
        tolerance_mm: of the surface Dice, mm; None where it was not measured.
        count: number of cases, over all folds.
        seeds: all seeds that any arm has complete.
        folds: number of planned folds; None without cross-validation.
    """

    title: str
    name: str
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
        One entry per arm, in order.
    """
    return [Scores(arm, pooled_rows(whole)) for arm, whole in zip(results.arms, whole_seeds(results), strict=True)]


def pooled_rows(arm: Arm) -> dict[int, tuple[Row, ...]]:
    """Gathers what an arm scored.

    Args:
        arm: with finished trials.

    Returns:
        Seed to the rows of all its folds, by rising seed.
    """
    return {
        seed: tuple(row for trial in trials for row in evaluation_of(trial).rows)
        for seed, trials in by_seed(arm).items()
    }


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
    return Setting(
        title=results.title,
        name=results.folder.absolute().name,
        data=PurePath(_common(trials, "data", lambda it: _about(it, "data"))).name,
        cases=_common(trials, "cases", lambda it: _about(it, "cases")),
        checkpoint=_common(trials, "checkpoint", lambda it: _about(it, "checkpoint")),
        convention=_common(trials, "convention", lambda it: it.convention),
        tolerance_mm=_common(trials, "tolerance_mm", lambda it: it.rows[0].tolerance_mm),
        count=len({row.case for row in rows}),
        seeds=tuple(sorted({seed for entry in scores for seed in entry.rows})),
        folds=len(planned_folds(results) - {None}) or None,
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
    means = {measure: statistic(getattr(line, measure).mean for line in lines) for measure in MEASURES}
    return Line(
        organ=lines[0].organ,
        cases=sum(line.cases for line in lines),
        misses=sum(line.misses for line in lines),
        false_alarms=sum(line.false_alarms for line in lines),
        **means,
    )


def header(setting: Setting) -> str:
    """Says what was scored, for the head of a table.

    Args:
        setting: what all runs have in common.

    Returns:
        One line, with the convention of the surface distances also where a table has none: tables are cited together.
    """
    kind = f" {setting.cases}" if setting.cases else ""
    parts = [f"Data: {setting.data}"] * bool(setting.data)
    parts.append(f"{setting.count}{kind} case{'s' * (setting.count != 1)}")
    parts += [f"{setting.folds} folds, pooled" if setting.folds != 1 else "1 fold"] * bool(setting.folds)
    parts.append(_seeds(setting.seeds))
    parts += [f"{setting.checkpoint} checkpoint"] * bool(setting.checkpoint)
    parts.append(f"surface distances in mm by the convention {setting.convention}")
    parts += [f"surface Dice at {setting.tolerance_mm:g} mm"] * (setting.tolerance_mm is not None)
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
        Sentences: the cases chose the checkpoint, planned runs are missing or diverged, or not all scored the same
        cases; mostly none.
    """
    said = []
    if setting.cases == "validation" and setting.checkpoint == "best":
        said.append("The best checkpoint was chosen by the DSC of these very cases: on unseen ones all arms are worse.")
    said += _told("Missing", scores, _missing(scores))
    said += _told("Diverged, hence without a result", scores, [entry.arm.diverged for entry in scores])
    cases = {frozenset(row.case for row in of_seed) for entry in scores for of_seed in entry.rows.values()}
    if len(cases) > 1:
        said.append("Not all runs scored the same cases: means are of unlike cases, while the tests take common ones.")
    return said


def _missing(scores: Sequence[Scores]) -> list[list[Place]]:
    """Of each arm the runs that are neither scored nor lost, though this arm or another is to have them."""
    planned = sorted({place for entry in scores for place in entry.arm.planned}, key=lambda it: (it[0], it[1] or 0))
    done = [{*((it.seed, it.fold) for it in entry.arm.trials), *entry.arm.diverged} for entry in scores]
    return [[place for place in planned if place not in places] for places in done]


def _told(what: str, scores: Sequence[Scores], places: Sequence[Sequence[Place]]) -> list[str]:
    """One sentence, in which arms that lack the same runs stand together."""
    folds = len({fold for entry in scores for _, fold in entry.arm.planned})
    alike: dict[str, list[str]] = {}
    for entry, lacking in zip(scores, places, strict=True):
        if lacking:
            alike.setdefault(_runs(lacking, folds), []).append(entry.arm.name)
    told = [
        f"{'all arms' if 1 < len(names) == len(scores) else ' and '.join(names)} for {runs}"
        for runs, names in alike.items()
    ]
    return [f"{what}: {'; '.join(told)}."] if told else []


def _runs(lacking: Sequence[Place], folds: int) -> str:
    """Seeds, each with the folds that it lacks unless it lacks all of them."""
    told = []
    for seed in sorted({seed for seed, _ in lacking}):
        missing = [str(fold) for other, fold in lacking if other == seed]
        told.append(f"{seed} (fold {' and '.join(missing)})" if len(missing) < folds else str(seed))
    return f"seed {', '.join(told)}"
