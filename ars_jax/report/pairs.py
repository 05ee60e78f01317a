"""Is one arm better than another? Paired tests over cases, and beside them the spread between seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from ars_jax.metrics.significance import Wilcoxon, holm, wilcoxon
from ars_jax.metrics.table import Row, Statistic, statistic
from ars_jax.report.results import Arm
from ars_jax.report.seeds import Scores

LEVEL = 0.05
CASE_MEAN = "mean over each case's organs"
"""Not the mean over organs of the other tables: a case is averaged over the organs that its reference has."""


@dataclass(frozen=True)
class Difference:
    """How two arms differ in the DSC of one organ.

    Args:
        organ: its name, or `CASE_MEAN`.
        seeds: the mean over seeds of the mean difference over cases, and its standard deviation between seeds.
        better: in how many seeds the mean difference is above 0.
        test: of the cases' differences, each averaged over seeds.
        corrected: the test's p after Holm's correction over the organs; None without a pair.
    """

    organ: str
    seeds: Statistic
    better: int
    test: Wilcoxon
    corrected: float | None


@dataclass(frozen=True)
class Pair:
    """Two arms, compared.

    Args:
        arm: name of the arm.
        reference: name of the arm that it is compared with; differences are the arm's DSC minus this one's.
        seeds: those that both arms have complete.
        differences: one per organ, then that of `CASE_MEAN`; empty without a common seed.
    """

    arm: str
    reference: str
    seeds: tuple[int, ...]
    differences: tuple[Difference, ...]


def compare_all(scores: Sequence[Scores]) -> list[Pair]:
    """Compares every arm with the reference arm, and the adaptive regional arms with the regional ones.

    Args:
        scores: of all arms.

    Returns:
        One pair per comparison. An adaptive arm is compared with those regional arms that have its settings, as far as
        both name them.
    """
    reference = reference_of(scores)
    pairs = [(it, reference) for it in scores if it is not reference]
    for adaptive in (it for it in scores if it.arm.objective == "baseline+adaptive_region_specific"):
        regional = (it for it in scores if it.arm.objective == "baseline+region_specific" and it is not reference)
        pairs += [(adaptive, it) for it in regional if _alike(adaptive.arm, it.arm)]
    return [compare(*pair) for pair in pairs]


def reference_of(scores: Sequence[Scores]) -> Scores:
    """Picks the arm that all others are compared with.

    Args:
        scores: of all arms.

    Returns:
        The first whose objective is baseline, else the first.
    """
    return next((it for it in scores if it.arm.objective == "baseline"), scores[0])


def _alike(one: Arm, other: Arm) -> bool:
    return all(one.settings[key] == other.settings[key] for key in one.settings.keys() & other.settings.keys())


def compare(arm: Scores, reference: Scores) -> Pair:
    """Compares two arms by the seeds and cases that both have.

    Args:
        arm: one.
        reference: the other.

    Returns:
        The difference of every organ and of each case's mean over its organs. An organ's cases are those whose
        reference label map has it: there a missed organ has DSC 0; false alarms elsewhere are not part of this.
    """
    seeds = tuple(seed for seed in arm.rows if seed in reference.rows)
    ours, theirs = ([case_dsc(scores.rows[seed]) for seed in seeds] for scores in (arm, reference))
    organs = list(dict.fromkeys(organ for of_seed in ours for organ in of_seed))
    tables = [
        [_differences(a.get(organ, {}), b.get(organ, {})) for a, b in zip(ours, theirs, strict=True)]
        for organ in organs
    ]
    tests = [wilcoxon(_over_seeds(table)) for table in tables]
    corrected = iter(holm([test.p for test in tests if test.p is not None]))
    return Pair(
        arm.arm.name,
        reference.arm.name,
        seeds,
        tuple(
            _difference(organ, table, test, None if test.p is None else next(corrected))
            for organ, table, test in zip(organs, tables, tests, strict=True)
        ),
    )


def case_dsc(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Looks up the DSC of organs that are in the reference.

    Args:
        rows: of one seed.

    Returns:
        Organ, and then `CASE_MEAN`, to case to DSC; a case's mean is over the organs that its reference has.
    """
    found: dict[str, dict[str, float]] = {row.organ: {} for row in rows}
    for row in rows:
        if row.status in ("ok", "miss") and row.dsc is not None:
            found[row.organ][row.case] = row.dsc
    cases = dict.fromkeys(row.case for row in rows)
    by_case = {case: [of_case[case] for of_case in found.values() if case in of_case] for case in cases}
    found[CASE_MEAN] = {case: float(np.mean(values)) for case, values in by_case.items() if values}
    return found


def _differences(ours: Mapping[str, float], theirs: Mapping[str, float]) -> dict[str, float]:
    return {case: ours[case] - theirs[case] for case in ours if case in theirs}


def _over_seeds(table: Sequence[Mapping[str, float]]) -> list[float]:
    """Each case's mean difference over seeds; cases that a seed lacks are left out."""
    cases = [case for case in table[0] if all(case in of_seed for of_seed in table)] if table else []
    return [float(np.mean([of_seed[case] for of_seed in table])) for case in cases]


def _difference(
    organ: str, table: Sequence[Mapping[str, float]], test: Wilcoxon, corrected: float | None
) -> Difference:
    means = [float(np.mean(list(of_seed.values()))) for of_seed in table if of_seed]
    return Difference(organ, statistic(means), sum(mean > 0 for mean in means), test, corrected)


def seed_interval(difference: Difference) -> tuple[float, float] | None:
    """Where the mean difference would lie if the arms were trained with all seeds there are.

    Args:
        difference: of one organ.

    Returns:
        Student's confidence interval of the mean over seeds, at the level 1 - `LEVEL`; it takes the seeds' differences
        for normally distributed. None below two seeds.
    """
    mean, sd, n = difference.seeds.mean, difference.seeds.sd, difference.seeds.n
    if mean is None or sd is None:
        return None
    half = float(stats.t.ppf(1 - LEVEL / 2, n - 1)) * sd / n**0.5
    return mean - half, mean + half


def differs(difference: Difference) -> bool | None:
    """Says whether the arms would differ if they were trained with other seeds.

    Args:
        difference: of one organ.

    Returns:
        Whether `seed_interval` leaves 0 out; None below two seeds.
    """
    interval = seed_interval(difference)
    return None if interval is None else interval[0] > 0 or interval[1] < 0


def least_corrected(pair: Pair) -> float | None:
    """The smallest corrected p that a pair's number of cases allows.

    Args:
        pair: two arms.

    Returns:
        Number of tests times the smallest p that any of them can give, at most 1; None without a test.
    """
    least = [it.test.least for it in pair.differences if it.test.least is not None]
    return min(1.0, len(least) * min(least)) if least else None
