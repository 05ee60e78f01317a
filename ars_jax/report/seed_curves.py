"""The DSC of an arm's seeds along an axis, while training and at the end, and the seed that is to be shown."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ars_jax.metrics.table import MEAN, summarise
from ars_jax.report.results import Arm, Trial, by_seed
from ars_jax.report.runs import mean_dsc, number, organs_of, position
from ars_jax.report.seeds import evaluation_of, pooled_rows
from ars_jax.report.tables import case_means


@dataclass(frozen=True)
class Curve:
    """The DSC of several seeds along an axis.

    Args:
        name: of the arm, or what its arms have in common.
        objective: the configuration's `loss.objective`.
        positions: on the axis, rising `[points]`.
        values: organ, and `MEAN`, to the DSC of each seed `[points, seeds]`; NaN where a seed has none.
    """

    name: str
    objective: str
    positions: np.ndarray
    values: Mapping[str, np.ndarray]


def organs_in(arms: Sequence[Arm]) -> tuple[str, ...]:
    """Lists the organs of all arms, each once.

    Args:
        arms: any.

    Returns:
        Organ names in the order of the first run that knows them.
    """
    return organs_of([trial.run for arm in arms for trial in arm.trials])


def final_dsc(arm: Arm) -> dict[int, dict[str, float]]:
    """Averages the DSC of the scored cases; the cases of all folds of a seed are pooled.

    Args:
        arm: any.

    Returns:
        Seed to organ, and `MEAN`, to DSC in 0 to 1; organs that no case has are left out.

    Raises:
        UserError: the folds of a seed were scored by different conventions.
    """
    found = {}
    for seed, rows in pooled_rows(arm).items():
        summary = summarise(rows)
        means = {line.organ: line.dsc.mean for line in summary.organs} | {MEAN: summary.overall.dsc.mean}
        found[seed] = {organ: mean for organ, mean in means.items() if mean is not None}
    return found


def validation_curve(arm: Arm) -> Curve:
    """Collects the validation DSC recorded while an arm's seeds were trained.

    Args:
        arm: any.

    Returns:
        Its curve over epochs (steps where none were written). A seed's value is the mean over its folds, and is there
        only where every fold has been validated.
    """
    seeds = by_seed(arm)
    positions = sorted({position(line) for trial in arm.trials for line in trial.run.validation})

    def values(read: Callable[[Mapping[str, object]], float]) -> np.ndarray:
        columns = [np.mean([_on_axis(trial, positions, read) for trial in trials], axis=0) for trials in seeds.values()]
        return np.array(columns, dtype=float).reshape(len(seeds), len(positions)).T

    organs = {organ: values(lambda line, organ=organ: _organ_dsc(line, organ)) for organ in organs_in([arm])}
    return Curve(arm.name, arm.objective, np.array(positions), {MEAN: values(mean_dsc), **organs})


def _on_axis(
    trial: Trial, positions: Sequence[float], read: Callable[[Mapping[str, object]], float]
) -> Sequence[float]:
    found = {position(line): read(line) for line in trial.run.validation}
    return [found.get(place, np.nan) for place in positions]


def _organ_dsc(line: Mapping[str, object], organ: str) -> float:
    dsc = line.get("dsc")
    return number(dsc.get(organ)) if isinstance(dsc, Mapping) else np.nan


def final_curve(arms: Sequence[Arm], positions: Sequence[float]) -> Curve:
    """Lines up the DSC of the scored cases of arms that differ in one setting.

    Args:
        arms: at least one; they need not have the same seeds.
        positions: of each arm on the axis of that setting.

    Returns:
        One curve, named by what the arms' names share, with a column per seed of any of the arms.
    """
    ordered = sorted(zip(positions, arms, strict=True), key=lambda pair: pair[0])
    found = [final_dsc(arm) for _, arm in ordered]
    seeds = sorted({seed for dsc in found for seed in dsc})
    values = {
        organ: np.array([[dsc.get(seed, {}).get(organ, np.nan) for seed in seeds] for dsc in found])
        for organ in (MEAN, *organs_in(arms))
    }
    name = common_name([arm.name for arm in arms])
    return Curve(name, arms[0].objective, np.array([place for place, _ in ordered]), values)


def common_name(names: Sequence[str]) -> str:
    """Finds what arms are called together: "B+ARS, DC 2, stop" and "B+ARS, DC 4, stop" are "B+ARS, stop".

    Args:
        names: of the arms, parts apart by commas; a comma within brackets is no such.

    Returns:
        The parts that all names share, or the first name where they share none.
    """
    parts = [re.split(r", (?![^\[]*\])", name) for name in names]
    return ", ".join(part for part in parts[0] if all(part in other for other in parts)) or names[0]


def mean_and_sd(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Averages over the seeds that have a value.

    Args:
        values: `[points, seeds]`, NaN where a seed has none.

    Returns:
        Mean and sample standard deviation (n - 1) of each point; NaN below one and below two values.
    """
    present = np.ma.masked_invalid(values)
    mean, sd = present.mean(axis=1), present.std(axis=1, ddof=1)
    return np.ma.filled(mean.astype(float), np.nan), np.ma.filled(sd.astype(float), np.nan)


def mean_case_dsc(arm: Arm) -> dict[str, float]:
    """Averages each case's DSC over its organs and then over the seeds.

    Args:
        arm: any.

    Returns:
        Case to DSC in 0 to 1; cases in which no organ counts are left out.
    """
    found: dict[str, list[float]] = {}
    for trial in arm.trials:
        for case, mean in case_means(evaluation_of(trial)).items():
            if not np.isnan(mean):
                found.setdefault(case, []).append(mean)
    return {case: float(np.mean(means)) for case, means in found.items()}


def median_trial(arm: Arm, case: str) -> Trial | None:
    """Picks the seed to show: the median one by DSC of those that scored a case, of two the lower.

    Args:
        arm: any.
        case: its name.

    Returns:
        That seed's trial, of its folds the one that scored the case; None where no seed did.
    """
    scored = {
        seed: trial
        for seed, trials in by_seed(arm).items()
        for trial in trials
        if any(row.case == case for row in evaluation_of(trial).rows)
    }
    means = final_dsc(arm)
    ranked = sorted(scored, key=lambda seed: (means[seed].get(MEAN, np.nan), seed))
    return scored[ranked[(len(ranked) - 1) // 2]] if ranked else None
