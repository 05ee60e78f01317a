"""The tables of an experiment: DSC per organ, all measures, and tests, for a paper and for programs."""

import re
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from ars_jax.metrics.table import Line, Row
from ars_jax.report.pairs import LEVEL, Difference, Pair, compare_all, exceeds_spread, least_corrected
from ars_jax.report.results import Results
from ars_jax.report.seed_curves import MEAN
from ars_jax.report.seeds import Scores, Setting, over_seeds, scores_of, setting_of
from ars_jax.report.sheets import (
    HIGHER,
    LOWER,
    NONE,
    Cell,
    Column,
    Part,
    Sheet,
    markdown,
    mean_spread,
    number,
    word,
    write_sheet,
    write_text,
)
from ars_jax.report.tables import MEASURES, best_of

DSC = next(measure for measure in MEASURES if measure.field == "dsc")
FIGURES = {
    "validation_curves": "Validation DSC by epoch",
    "division_curve": "DSC by the number of regions",
    "range_curve": "DSC by the range of the adaptive penalties",
    "overlays": "Overlays of",
}


def write_comparison(results: Results, out: Path) -> list[Path]:
    """Writes the tables of an experiment.

    Args:
        results: of an experiment, finished or not; a seed counts when all its folds are scored.
        out: folder; gets organs, measures and, where two arms have a seed in common, tests, each as .md, .csv and .tex,
            and summary.md, which has them all and shows the pictures of the folder `figures` beside `out`, if there are
            any.

    Returns:
        The written files.

    Raises:
        UserError: no seed is complete, runs were scored differently, or the folder cannot be written.
    """
    scores = scores_of(results)
    setting = setting_of(results, scores)
    sheets = comparison(scores, setting)
    paths = [path for sheet in sheets for path in write_sheet(sheet, out)]
    return [*paths, write_text(out / "summary.md", summary(results, sheets, out))]


def comparison(scores: Sequence[Scores], setting: Setting) -> list[Sheet]:
    """Computes the tables of an experiment.

    Args:
        scores: of its arms.
        setting: what its runs have in common.

    Returns:
        The tables of organs, of measures and, where two arms have a seed in common, of tests.
    """
    lines = [over_seeds(entry) for entry in scores]
    sheets = [_organ_sheet(scores, setting, lines), _measure_sheet(scores, setting, lines)]
    tests = _test_sheet(scores, setting)
    return [*sheets, tests] if tests.parts else sheets


Lines = Sequence[tuple[dict[str, Line], Line | None]]


def _organ_sheet(scores: Sequence[Scores], setting: Setting, lines: Lines) -> Sheet:
    organs = dict.fromkeys(organ for by_organ, _ in lines for organ in by_organ)
    cases = _cases_by_organ(scores)
    rows = [
        (word(organ), *_compared([by_organ.get(organ) for by_organ, _ in lines]), number(cases.get(organ, 0), 0))
        for organ in organs
    ]
    total = (word(MEAN), *_compared([overall for _, overall in lines]), Cell("", (None,)))
    arms = [Column(_heading(entry, setting), _mean_sd(entry.arm.name)) for entry in scores]
    note = (
        f"Mean over seeds of the mean over cases{_spread(setting)}; the last row is the mean over organs. Bold is best "
        "as printed. A missed organ and an invented one count as 0. Cases: those whose reference has the organ."
    )
    return Sheet(
        key="organs",
        title="DSC per organ",
        header=_header(setting, distances=False),
        columns=(Column("Organ", ("organ",)), *arms, Column("Cases", ("cases",))),
        parts=(Part("", (*rows, total), total=True),),
        note=" ".join([note, *_chosen(setting), *_unfinished(scores, setting)]),
        facts=_facts(setting),
    )


def _compared(lines: Sequence[Line | None]) -> list[Cell]:
    best = best_of(lines, DSC)
    return [mean_spread(line and line.dsc, DSC.digits, bold=index in best) for index, line in enumerate(lines)]


def _cases_by_organ(scores: Sequence[Scores]) -> dict[str, int]:
    """How many cases have each organ in their reference, over all arms."""
    found: dict[str, set[str]] = {}
    for row in _rows(scores):
        if row.status in ("ok", "miss"):
            found.setdefault(row.organ, set()).add(row.case)
    return {organ: len(cases) for organ, cases in found.items()}


def _rows(scores: Sequence[Scores]) -> list[Row]:
    return [row for entry in scores for of_seed in entry.rows.values() for row in of_seed]


def _measure_sheet(scores: Sequence[Scores], setting: Setting, lines: Lines) -> Sheet:
    overall = [line for _, line in lines]
    best = {measure.field: best_of(overall, measure) for measure in MEASURES}
    rows = []
    for index, (entry, line) in enumerate(zip(scores, overall, strict=True)):
        values = [mean_spread(line and getattr(line, m.field), m.digits, bold=index in best[m.field]) for m in MEASURES]
        rows.append((word(entry.arm.name), number(len(entry.rows), 0), *values, *_failures(_rows([entry]))))
    arrows = [LOWER if measure.unit else HIGHER for measure in MEASURES]
    measures = [
        Column("\n".join(f"{m.title} {m.unit} {arrow}".split()).replace(f"\n{arrow}", f" {arrow}"), _mean_sd(m.field))
        for m, arrow in zip(MEASURES, arrows, strict=True)
    ]
    failures = (
        Column(f"Misses {LOWER}", ("misses", "references")),
        Column(f"False\nalarms {LOWER}", ("false_alarms", "without_reference")),
    )
    note = (
        f"Mean over seeds of the mean over organs of the mean over cases{_spread(setting)}. {HIGHER} higher is better, "
        f"{LOWER} lower is better; bold is best as printed, and in a distance only the arms with the smallest share of "
        "misses and false alarms compete, since those have no distance. Misses: organs of references that were not "
        "found; false alarms: organs that were found where the reference has none (a dash where every reference has "
        "every organ); both are summed over organs, cases and seeds and count as DSC 0 and surface Dice 0."
    )
    return Sheet(
        key="measures",
        title="Measures, mean over organs",
        header=_header(setting, distances=True),
        columns=(Column("Arm", ("arm",)), Column("Seeds", ("seeds",)), *measures, *failures),
        parts=(Part("", tuple(rows)),),
        note=" ".join([note, *_chosen(setting), *_unfinished(scores, setting)]),
        facts=_facts(setting),
    )


def _failures(rows: Sequence[Row]) -> tuple[Cell, Cell]:
    status = [row.status for row in rows]
    misses, false_alarms = status.count("miss"), status.count("false alarm")
    there, not_there = status.count("ok") + misses, status.count("absent") + false_alarms
    return _count(misses, there), _count(false_alarms, not_there)


def _count(found: int, possible: int) -> Cell:
    return Cell(f"{found} of {possible}" if possible else NONE, (found, possible))


def _test_sheet(scores: Sequence[Scores], setting: Setting) -> Sheet:
    pairs = compare_all(scores)
    columns = (
        Column("Organ", ("organ",)),
        Column("Mean\ndifference", _mean_sd("difference")),
        Column("Exceeds\nspread", ("exceeds_spread",)),
        Column("Better\nin seeds", ("better_seeds", "seeds")),
        Column("Cases", ("cases", "equal_cases")),
        Column("Median\ndifference", ("median",)),
        Column("W", ("statistic",)),
        Column("p", ("p", "method")),
        Column("p (Holm)", ("p_holm",)),
    )
    return Sheet(
        key="tests",
        title="Differences in DSC",
        header=_header(setting, distances=False),
        columns=columns,
        parts=tuple(_test_part(pair) for pair in pairs if pair.seeds),
        note=" ".join([*_test_notes(setting), *_powerless(pairs), *_chosen(setting), *_unfinished(scores, setting)]),
        facts=_facts(setting),
    )


def _test_part(pair: Pair) -> Part:
    rows = tuple(_test_row(difference, len(pair.seeds)) for difference in pair.differences)
    return Part(_pair_name(pair), rows, total=True)


def _pair_name(pair: Pair) -> str:
    return f"{pair.arm} minus {pair.reference}"


def _test_row(difference: Difference, seeds: int) -> tuple[Cell, ...]:
    test, exceeds = difference.test, exceeds_spread(difference)
    said = None if exceeds is None else "yes" if exceeds else "no"
    significant = difference.corrected is not None and difference.corrected < LEVEL
    method = None if test.p is None else "exact" if test.exact else "approximate"
    return (
        word(difference.organ),
        mean_spread(difference.seeds, DSC.digits, signed=True),
        Cell(said or NONE, (said,)),
        Cell(f"{difference.better} of {seeds}" if test.n else NONE, (difference.better, seeds)),
        Cell(f"{test.n}, {test.zeros} equal" if test.zeros else str(test.n), (test.n, test.zeros)),
        number(test.median, DSC.digits, signed=True),
        Cell(NONE if test.statistic is None else f"{test.statistic:g}", (test.statistic,)),
        Cell(_probability(test.p) + "*" * (method == "approximate"), (test.p, method)),
        Cell(_probability(difference.corrected), (difference.corrected,), bold=significant),
    )


def _probability(p: float | None) -> str:
    return NONE if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"


def _test_notes(setting: Setting) -> list[str]:
    several = (
        "Mean difference: mean over seeds of the mean over cases ± standard deviation between seeds, whether it "
        "exceeds this spread (itself uncertain with few seeds), and the number of seeds in which the first arm is "
        "better: these speak of training again."
    )
    one = "Mean difference: over cases, with one seed: nothing here speaks of training again."
    tests = (
        "Cases: those whose reference has the organ, each with its difference averaged over the seeds; a missed organ "
        "counts as 0, and false alarms are not part of this table. Median difference: over cases. W and p: two-sided "
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


def _powerless(pairs: Sequence[Pair]) -> list[str]:
    """Says where no outcome whatever could have been significant."""
    least = {_pair_name(pair): least_corrected(pair) for pair in pairs}
    weak = {name: p for name, p in least.items() if p is not None and p > LEVEL}
    if not weak:
        return []
    where = "" if len(weak) == len(pairs) else f" of {'; '.join(weak)}"
    return [
        f"With so few cases no corrected p{where} can fall below {min(weak.values()):.3g}, however large the "
        "differences: a large p is no sign that the arms are alike."
    ]


def _chosen(setting: Setting) -> list[str]:
    """What a reviewer must know of scores on the cases that chose the checkpoint."""
    said = (
        "The best checkpoint was chosen by the DSC of these very cases, so all arms look better than on unseen cases."
    )
    return [said] * (setting.cases == "validation" and setting.checkpoint == "best")


def _spread(setting: Setting) -> str:
    return " ± standard deviation between seeds" * (len(setting.seeds) > 1)


def _header(setting: Setting, *, distances: bool) -> str:
    """What was scored, in one line above the values."""
    kind = f" {setting.cases}" if setting.cases else ""
    parts = [f"Data: {setting.data}"] * bool(setting.data)
    parts.append(f"{setting.count}{kind} case{'s' * (setting.count != 1)}")
    parts += [f"{setting.folds} folds, pooled"] * bool(setting.folds)
    parts.append(_seeds(setting.seeds))
    parts += [f"{setting.checkpoint} checkpoint"] * bool(setting.checkpoint)
    if distances:
        parts.append(f"surface distances in mm by the convention {setting.convention}")
        known = setting.tolerance_mm is not None
        parts += [f"surface Dice at {setting.tolerance_mm:g} mm"] * known
    return "; ".join(parts) + "."


def _seeds(seeds: Sequence[int]) -> str:
    return f"{len(seeds)} seed{'s' * (len(seeds) != 1)} ({', '.join(map(str, seeds))})"


def _mean_sd(key: str) -> tuple[str, str]:
    return f"{key} mean", f"{key} sd"


def _heading(entry: Scores, setting: Setting) -> str:
    """The arm's name, a line for each of its settings, and how many seeds it has where it lacks some."""
    name = re.sub(r", (?![^\[]*\])", ",\n", entry.arm.name)  # not the comma of a range [a, b]
    fewer = len(entry.rows) < len(setting.seeds)
    return name + f"\n({len(entry.rows)} of {len(setting.seeds)} seeds)" * fewer


def _unfinished(scores: Sequence[Scores], setting: Setting) -> list[str]:
    """What is not comparable yet, in sentences."""
    said = []
    for entry in scores:
        lacking = sorted({*setting.seeds, *entry.partial} - set(entry.rows))
        if lacking:
            said.append(f"{entry.arm.name} is not finished for seed {', '.join(map(str, lacking))}.")
    cases = {frozenset(row.case for row in of_seed) for entry in scores for of_seed in entry.rows.values()}
    if len(cases) > 1:
        said.append("Not all runs scored the same cases: means are of unlike cases, while the tests take common ones.")
    return said


def _facts(setting: Setting) -> dict[str, str | float | None]:
    facts = {"data": setting.data, "scored": setting.cases, "checkpoint": setting.checkpoint}
    return facts | {"convention": setting.convention, "tolerance_mm": setting.tolerance_mm}


def summary(results: Results, sheets: Sequence[Sheet], out: Path) -> str:
    """Puts all tables on one page.

    Args:
        results: of an experiment.
        sheets: its tables.
        out: where the page will lie; pictures in the folder `figures` beside it are shown.

    Returns:
        Markdown.
    """
    blocks = [f"# {results.title}\n"]
    for sheet in sheets:
        files = ", ".join(f"[{ending}]({sheet.key}.{ending})" for ending in ("csv", "tex"))
        blocks.append(f"## {sheet.title}\n\n{markdown(sheet, level=3)}\nFor programs and papers: {files}.\n")
    beside = (out.parent / "figures").glob("*.png")
    pictures = sorted((path for path in beside if path.name.startswith(tuple(FIGURES))), key=_picture_order)
    if pictures:
        blocks.append("## Figures\n")
        blocks += [f"![{_picture_title(path)}](../figures/{quote(path.name)})\n" for path in pictures]
    return "\n".join(blocks)


def _picture_order(path: Path) -> tuple[int, str]:
    return list(FIGURES).index(_kind(path)), path.name


def _picture_title(path: Path) -> str:
    kind = _kind(path)
    rest = path.stem.removeprefix(kind).replace("_", " ")
    return re.sub(r"[\[\]]", " ", FIGURES[kind] + rest)


def _kind(path: Path) -> str:
    return next(kind for kind in FIGURES if path.name.startswith(kind))
