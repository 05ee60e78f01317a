"""The tables of differences between arms: in the mean over organs, and in every organ."""

from collections.abc import Sequence

from ars_jax.report.pairs import (
    CASE_MEAN,
    LEVEL,
    Difference,
    Pair,
    compare_all,
    differs,
    least_corrected,
    reference_of,
    seed_interval,
)
from ars_jax.report.seeds import Scores, Setting, facts, header, reservations
from ars_jax.report.sheets import NONE, Cell, Column, Part, Sheet, mean_keys, mean_spread, number, word
from ars_jax.report.tables import DSC

COLUMNS = (
    Column("Mean\ndifference", mean_keys("difference")),
    Column("Differs\n(95 %)", ("interval_low", "interval_high", "differs")),
    Column("Better\nin seeds", ("better_seeds", "seeds")),
    Column("Cases", ("cases", "equal_cases")),
    Column("Median\ndifference", ("median",)),
    Column("W", ("statistic",)),
    Column("p", ("p", "method")),
    Column("p (Holm)", ("p_holm",)),
)

SHORT = (
    "One row per pair of arms, taken from the table by organ, which explains the columns; p (Holm) is corrected for "
    "the tests of all organs. Differences, their spread and their interval over seeds speak of training again, "
    "p-values of other cases."
)


def difference_sheets(scores: Sequence[Scores], setting: Setting) -> list[Sheet]:
    """Makes the tables of all pairs of arms.

    Args:
        scores: of all arms.
        setting: what their runs have in common.

    Returns:
        The table of the mean over organs with a row per pair, and that of every organ with a part per pair; none where
        no two arms have a seed in common.
    """
    pairs = [pair for pair in compare_all(scores) if pair.seeds]
    if not pairs:
        return []
    said = [_reference(scores), *_powerless(pairs), *reservations(scores, setting)]
    overall = [_row(_name(pair), it, pair) for pair in pairs for it in pair.differences if it.organ == CASE_MEAN]
    parts = [
        Part(_name(pair), tuple(_row(it.organ, it, pair) for it in pair.differences), total=True) for pair in pairs
    ]
    scored = header(setting)
    return [
        Sheet(
            key="pairs",
            title=f"Differences in DSC, {CASE_MEAN}",
            header=scored,
            columns=(Column("Arms", ("comparison",)), *COLUMNS),
            parts=(Part("", tuple(overall)),),
            note=" ".join([SHORT, *said]),
            facts=facts(setting),
        ),
        Sheet(
            key="tests",
            title="Differences in DSC, by organ",
            header=scored,
            columns=(Column("Organ", ("organ",)), *COLUMNS),
            parts=tuple(parts),
            note=" ".join([*_notes(setting), *said]),
            facts=facts(setting),
        ),
    ]


def _name(pair: Pair) -> str:
    return f"{pair.arm} minus {pair.reference}"


def _row(name: str, difference: Difference, pair: Pair) -> tuple[Cell, ...]:
    seeds = len(pair.seeds)
    test, interval = difference.test, seed_interval(difference)
    said = {None: None, True: "yes", False: "unclear"}[differs(difference)]
    significant = difference.corrected is not None and difference.corrected < LEVEL
    method = None if test.p is None else "exact" if test.exact else "approximate"
    return (
        word(name),
        mean_spread(difference.seeds, DSC.digits, signed=True),
        Cell(said or NONE, (*(interval or (None, None)), said)),
        Cell(f"{difference.better} of {seeds}" if test.n else NONE, (difference.better, seeds)),
        Cell(f"{test.n}, {test.zeros} equal" if test.zeros else str(test.n), (test.n, test.zeros)),
        number(test.median, DSC.digits, signed=True),
        Cell(NONE if test.statistic is None else f"{test.statistic:g}", (test.statistic,)),
        Cell(_probability(test.p) + "*" * (method == "approximate"), (test.p, method)),
        Cell(_probability(difference.corrected), (difference.corrected,), bold=significant),
    )


def _probability(p: float | None) -> str:
    return NONE if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _notes(setting: Setting) -> list[str]:
    several = (
        "Mean difference: mean over seeds of the mean over cases ± standard deviation between seeds. Differs: yes "
        f"where its {100 * (1 - LEVEL):g} % interval over seeds (Student's t, each row on its own) leaves out 0, else "
        "unclear, which with few seeds is no sign that the arms are alike; the interval itself stands in the CSV file. "
        "Better in seeds: in how many the first arm is better. These speak of training again, on these cases."
    )
    one = "Mean difference: over cases, with one seed: nothing here speaks of training again."
    tests = (
        "Cases: those whose reference has the organ, each with its difference averaged over the seeds; a missed organ "
        "counts as 0, and false alarms are not part of this table. The last row averages each case over the organs "
        "that its reference has, and then over cases: it is not quite the difference of the means over organs of the "
        "other tables. Median difference: over cases. W and p: two-sided "
        "paired Wilcoxon signed-rank test over cases, which leaves out cases without difference (equal); p is exact, "
        "or with * the normal approximation. p (Holm): corrected for the tests of one pair of arms (all organs and "
        f"their mean), not for the number of pairs; bold is below {LEVEL:g}. These p-values speak of other cases of "
        "this kind with these trained networks, not of training again."
    )
    folds = (
        "Folds are pooled: cases of different folds were segmented by different networks, whose training cases "
        "overlap, so that the tests take them for more independent than they are."
    )
    return [several if len(setting.seeds) > 1 else one, tests, *([folds] * bool(setting.folds))]


def _reference(scores: Sequence[Scores]) -> str:
    """Names the arm that all are compared with, and why it is this one."""
    reference = reference_of(scores).arm
    why = "the baseline" if reference.objective == "baseline" else "the first arm, since none is the baseline"
    told = f"The reference arm is {reference.name}, {why}"
    adaptive = {"baseline+region_specific", "baseline+adaptive_region_specific"} <= {
        entry.arm.objective for entry in scores
    }
    return f"{told}; adaptive arms are compared with regional ones, too." if adaptive else f"{told}."


def _powerless(pairs: Sequence[Pair]) -> list[str]:
    """Says where no outcome whatever could have been significant."""
    least = {_name(pair): least_corrected(pair) for pair in pairs}
    weak = {name: p for name, p in least.items() if p is not None and p > LEVEL}
    if not weak:
        return []
    where = "" if len(weak) == len(pairs) else f" of {'; '.join(weak)}"
    return [
        f"With so few cases no corrected p{where} can fall below {min(weak.values()):.3g}, however large the "
        "differences: a large p is no sign that the arms are alike."
    ]
