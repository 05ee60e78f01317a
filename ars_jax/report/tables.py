"""The tables of the page: per organ over all cases, and per case. The sums are `ars_jax.metrics.table`'s."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ars_jax.metrics.table import MEAN, Line, Row, Statistic, Summary, summarise
from ars_jax.report.runs import Evaluation, Run, organs_of

NONE = "\N{EM DASH}"
TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Measure:
    """One measure as the page shows it.

    Args:
        field: its name in rows and summaries.
        title: its name on the page.
        unit: "mm" for distances, else nothing.
        digits: digits after the point.
        surface: whether it is measured between surfaces, so that values of unlike conventions cannot be compared.
    """

    field: str
    title: str
    unit: str
    digits: int
    surface: bool = False


MEASURES = (
    Measure("dsc", "DSC", "", 3),
    Measure("recall", "Recall", "", 3),
    Measure("precision", "Precision", "", 3),
    Measure("surface_dice", "Surface Dice", "", 3, surface=True),
    Measure("hd95_mm", "HD95", "mm", 2, surface=True),
    Measure("asd_mm", "ASD", "mm", 2, surface=True),
)
DSC = next(measure for measure in MEASURES if measure.field == "dsc")
_HD95 = next(measure for measure in MEASURES if measure.field == "hd95_mm")


@dataclass(frozen=True)
class Cell:
    """One number of a table.

    Args:
        text: the number, or a dash.
        best: whether it is the best of its row.
        spread: the standard deviation, where one is shown.
        alarm: what the number leaves out or hides, such as "1 miss".
    """

    text: str
    best: bool = False
    spread: str = ""
    alarm: str = ""


@dataclass(frozen=True)
class Column:
    """The head of a column.

    Args:
        text: what it says.
        run: index of the run whose line stands beside the text.
    """

    text: str
    run: int | None = None


@dataclass(frozen=True)
class Entry:
    """One row of a table.

    Args:
        name: an organ or a case.
        cells: one per column.
        total: whether it sums up the rows above.
    """

    name: str
    cells: tuple[Cell, ...]
    total: bool = False


@dataclass(frozen=True)
class Table:
    """One table.

    Args:
        key: its id on the page.
        title: its heading.
        unit: what stands beside the heading.
        corner: what the rows are.
        columns: heads of the columns.
        entries: the rows.
    """

    key: str
    title: str
    unit: str
    corner: str
    columns: tuple[Column, ...]
    entries: tuple[Entry, ...]


def organ_tables(runs: Sequence[Run]) -> list[Table]:
    """Makes the tables per organ: one with every measure for one run, one per measure for several.

    Args:
        runs: the runs of the page.

    Returns:
        The tables; none where no run was evaluated.
    """
    summaries = [summarise(run.evaluation.rows) if run.evaluation else None for run in runs]
    if not any(summaries):
        return []
    if len(runs) == 1 and summaries[0] is not None:
        return [_one_run(summaries[0])]
    return [_comparison(measure, runs, summaries) for measure in MEASURES]


def _one_run(summary: Summary) -> Table:
    heads = [*(f"{measure.title} {measure.unit}".strip() for measure in MEASURES), "cases", "misses", "false alarms"]
    entries = [
        Entry(line.organ, (*_measures(line), Cell(str(line.cases)), *_failures(line))) for line in summary.organs
    ]
    total = (*_measures(summary.overall), Cell(""), *_failures(summary.overall))
    return Table(
        key="organs",
        title="Per organ",
        unit=f"distances by the convention {summary.convention}{_tolerance([summary.tolerance_mm])}",
        corner="organ",
        columns=tuple(Column(head) for head in heads),
        entries=(*entries, Entry(summary.overall.organ, total, total=True)),
    )


def _measures(line: Line) -> tuple[Cell, ...]:
    return tuple(_cell(getattr(line, measure.field), measure) for measure in MEASURES)


def _failures(line: Line) -> tuple[Cell, ...]:
    return tuple(Cell("", alarm=str(count)) if count else Cell("0") for count in (line.misses, line.false_alarms))


def _comparison(measure: Measure, runs: Sequence[Run], summaries: Sequence[Summary | None]) -> Table:
    """One measure, one column per run; the first measure's table also counts the cases."""
    by_organ = [{line.organ: line for line in summary.organs} if summary else {} for summary in summaries]
    organs = dict.fromkeys([*organs_of(runs), *(organ for lines in by_organ for organ in lines)])
    conventions = sorted({summary.convention for summary in summaries if summary})
    tolerances = {summary.tolerance_mm for summary in summaries if summary}
    comparable = not measure.surface or len(conventions) == len(tolerances) == 1
    counted = measure is MEASURES[0]
    entries = []
    for organ in organs:
        lines = [of_run.get(organ) for of_run in by_organ]
        entries.append(Entry(organ, (*_compared(lines, measure, comparable), *([_cases(lines)] * counted))))
    overall = _compared([summary and summary.overall for summary in summaries], measure, comparable)
    return Table(
        key=f"organs-{measure.field}",
        title=measure.title,
        unit=_by_convention(measure, conventions, tolerances) if measure.surface else "",
        corner="organ",
        columns=(*(Column(run.name, index) for index, run in enumerate(runs)), *([Column("cases")] * counted)),
        entries=(*entries, Entry(MEAN, (*overall, *([Cell("")] * counted)), total=True)),
    )


def _by_convention(measure: Measure, conventions: Sequence[str], tolerances: Iterable[float | None]) -> str:
    named = " and ".join(conventions)
    return f"{measure.unit}, {named}" if measure.unit else f"{named}{_tolerance(tolerances)}"


def _tolerance(tolerances: Iterable[float | None]) -> str:
    known = sorted({tolerance for tolerance in tolerances if tolerance is not None})
    return f", surface Dice at {' and '.join(f'{tolerance:g}' for tolerance in known)} mm" if known else ""


def _cases(lines: Sequence[Line | None]) -> Cell:
    """How many cases count, as one number where the runs agree."""
    return Cell(" / ".join(dict.fromkeys(str(line.cases) for line in lines if line)))


def _compared(lines: Sequence[Line | None], measure: Measure, comparable: bool) -> tuple[Cell, ...]:
    best = best_of(lines, measure) if comparable else set()
    return tuple(
        Cell(NONE) if line is None else _cell(getattr(line, measure.field), measure, index in best, _alarm(line))
        for index, line in enumerate(lines)
    )


def best_of(lines: Sequence[Line | None], measure: Measure) -> set[int]:
    """Finds the best runs of one row.

    Distances leave out the cases in which an organ was missed or invented, so only the runs with the smallest share of
    those can be best in a distance: failing on the hard cases must not be rewarded.

    Args:
        lines: one line per run; None for a run without evaluation.
        measure: what is compared.

    Returns:
        Indices of the best runs, several if they are equal as printed; none where fewer than two have a value.
    """
    values = {k: (getattr(line, measure.field).mean, _left_out(line)) for k, line in enumerate(lines) if line}
    values = {k: (mean, left_out) for k, (mean, left_out) in values.items() if mean is not None}
    if len(values) < 2:
        return set()
    if not measure.unit:
        printed = {k: -round(mean, measure.digits) for k, (mean, _) in values.items()}
    else:
        fewest = min(left_out for _, left_out in values.values())
        printed = {k: round(mean, measure.digits) for k, (mean, left_out) in values.items() if left_out == fewest}
    return {k for k, value in printed.items() if value == min(printed.values())}


def _left_out(line: Line) -> float:
    """The share of cases, since runs may have been scored on unlike numbers of them."""
    return (line.misses + line.false_alarms) / max(line.cases, 1)


def _alarm(line: Line) -> str:
    counts = ((line.misses, "miss", "misses"), (line.false_alarms, "false alarm", "false alarms"))
    return ", ".join(f"{count} {one if count == 1 else many}" for count, one, many in counts if count)


def _cell(value: Statistic, measure: Measure, best: bool = False, alarm: str = "") -> Cell:
    if value.mean is None:
        return Cell(NONE, alarm=alarm)
    spread = "" if value.sd is None else f"± {value.sd:.{measure.digits}f}"
    return Cell(f"{value.mean:.{measure.digits}f}", best, spread, alarm)


def case_tables(run: Run, index: int) -> list[Table]:
    """Makes a run's tables per case, worst case first: DSC and HD95.

    Args:
        run: the run.
        index: its place among the runs, part of the tables' ids.

    Returns:
        Two tables; none without an evaluation.
    """
    if run.evaluation is None:
        return []
    means = case_means(run.evaluation)
    order = sorted(means, key=lambda case: (math.inf if math.isnan(means[case]) else means[case], case))
    organs = list(dict.fromkeys(row.organ for row in run.evaluation.rows))
    rows = {(row.case, row.organ): row for row in run.evaluation.rows}
    mean = {case: Cell(NONE if math.isnan(means[case]) else f"{means[case]:.3f}") for case in order}

    def cells(case: str, measure: Measure) -> tuple[Cell, ...]:
        return tuple(_case_cell(rows.get((case, organ)), measure) for organ in organs)

    columns = tuple(Column(organ) for organ in organs)
    by_dsc = tuple(Entry(case, (*cells(case, MEASURES[0]), mean[case])) for case in order)
    by_hd95 = tuple(Entry(case, cells(case, _HD95)) for case in order)
    unit = f"mm, {run.evaluation.convention}"
    return [
        Table(f"cases-{index}-dsc", "DSC of every case", "worst first", "case", (*columns, Column("mean")), by_dsc),
        Table(f"cases-{index}-hd95_mm", "HD95 of every case", unit, "case", columns, by_hd95),
    ]


def _case_cell(row: Row | None, measure: Measure) -> Cell:
    if row is None:
        return Cell(NONE)
    value = getattr(row, measure.field)
    text = NONE if value is None else f"{value:.{measure.digits}f}"
    return Cell(text, alarm="" if row.status == "ok" else row.status)


def case_means(evaluation: Evaluation) -> dict[str, float]:
    """Averages the DSC of each case over its organs.

    Args:
        evaluation: an evaluation.

    Returns:
        Case name to mean DSC in 0 to 1; NaN for a case without any organ that counts.
    """
    grouped: dict[str, list[Row]] = {}
    for row in evaluation.rows:
        grouped.setdefault(row.case, []).append(row)
    means = {case: summarise(rows).overall.dsc.mean for case, rows in grouped.items()}
    return {case: math.nan if mean is None else mean for case, mean in means.items()}


def case_organs(evaluation: Evaluation, case: str) -> dict[str, float]:
    """Looks up the DSC of each organ of a case.

    Args:
        evaluation: an evaluation.
        case: name of the case.

    Returns:
        Organ name to DSC; organs that do not count in this case are left out.
    """
    return {row.organ: row.dsc for row in evaluation.rows if row.case == case and row.dsc is not None}


def table_note(runs: Sequence[Run]) -> str:
    """Says how to read the tables.

    Args:
        runs: the runs of the page.

    Returns:
        Plain sentences.
    """
    evaluated = [run.evaluation for run in runs if run.evaluation]
    cases = sorted({len(case_means(evaluation)) for evaluation in evaluated})
    conventions = sorted({evaluation.convention for evaluation in evaluated})
    tolerances = {row.tolerance_mm for evaluation in evaluated for row in evaluation.rows}
    text = (
        f"Mean ± standard deviation over {' or '.join(map(str, cases))} case{'s' * (cases != [1])}; the last line is "
        "the mean of the organs' means ± the spread between organs. HD95 and ASD in mm by the convention "
        f"{' and '.join(conventions)}{_tolerance(tolerances)}. A miss is an organ of the reference that was not "
        "found, a false alarm one that was invented: both count as DSC 0 and surface Dice 0 but have no distance, so "
        "read distances together with them."
    )
    if len(runs) > 1:
        text += " Bold is best; in a distance only the runs with fewest misses and false alarms compete."
    if len(conventions) > 1:
        text += " The runs were evaluated by different conventions, so their distances cannot be compared."
    if len(tolerances) > 1:
        text += " Their surface Dice is at different tolerances and cannot be compared either."
    return text
