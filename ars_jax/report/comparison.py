"""The tables of an experiment: DSC per organ, all measures, and tests, for a paper and for programs."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from ars_jax.metrics.table import MEAN, Line, Row
from ars_jax.report.differences import difference_sheets
from ars_jax.report.results import Results
from ars_jax.report.seeds import (
    Scores,
    Setting,
    facts,
    header,
    over_seeds,
    reservations,
    scores_of,
    setting_of,
)
from ars_jax.report.sheets import (
    HIGHER,
    LOWER,
    MINUS,
    NONE,
    Cell,
    Column,
    Part,
    Sheet,
    markdown,
    mean_keys,
    mean_spread,
    number,
    word,
    write_sheet,
    write_text,
)
from ars_jax.report.tables import DSC, MEASURES, best_of

KEYS = ("organs", "measures", "pairs", "tests")
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
        out: folder; gets organs, measures and, where two arms have a seed in common, pairs and tests, each as .md, .csv
            and .tex, and summary.md, which has them all and shows the pictures of the folder `figures` beside `out`, if
            there are any. Tables of an earlier call that do not apply any more are removed.

    Returns:
        The written files.

    Raises:
        UserError: no seed is complete, runs were scored differently, or the folder cannot be written.
    """
    scores = scores_of(results)
    setting = setting_of(results, scores)
    sheets = comparison(scores, setting)
    paths = [path for sheet in sheets for path in write_sheet(sheet, out)]
    for path in {out / f"{key}.{ending}" for key in KEYS for ending in ("md", "csv", "tex")} - set(paths):
        path.unlink(missing_ok=True)
    return [*paths, write_text(out / "summary.md", summary(results, sheets, out))]


def comparison(scores: Sequence[Scores], setting: Setting) -> list[Sheet]:
    """Computes the tables of an experiment.

    Args:
        scores: of its arms.
        setting: what its runs have in common.

    Returns:
        The tables of organs, of measures and, where two arms have a seed in common, of their differences.
    """
    lines = [over_seeds(entry) for entry in scores]
    sheets = [_organ_sheet(scores, setting, lines), _measure_sheet(scores, setting, lines)]
    sheets += difference_sheets(scores, setting)
    return [replace(sheet, experiment=setting.title, prefix=setting.name) for sheet in sheets]


Lines = Sequence[tuple[dict[str, Line], Line | None]]


def _organ_sheet(scores: Sequence[Scores], setting: Setting, lines: Lines) -> Sheet:
    organs = dict.fromkeys(organ for by_organ, _ in lines for organ in by_organ)
    cases = _cases_by_organ(scores)
    rows = [
        (word(organ), *_compared([by_organ.get(organ) for by_organ, _ in lines]), number(cases.get(organ, 0), 0))
        for organ in organs
    ]
    total = (word(MEAN), *_compared([overall for _, overall in lines]), Cell("", (None,)))
    arms = [Column(_heading(entry, setting), mean_keys(entry.arm.name)) for entry in scores]
    note = (
        f"Mean over seeds of the mean over cases{_spread(setting)}; the last row is the mean over organs. Bold is best "
        "as printed. A missed organ and an invented one count as 0. Cases: those whose reference has the organ."
    )
    return Sheet(
        key="organs",
        title="DSC per organ",
        header=header(setting),
        columns=(Column("Organ", ("organ",)), *arms, Column("Cases", ("cases",))),
        parts=(Part("", (*rows, total), total=True),),
        note=" ".join([note, *reservations(scores, setting)]),
        facts=facts(setting),
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
        values.append(mean_spread(line and line.volume_difference_percent, 1, signed=True))
        rows.append((word(entry.arm.name), number(len(entry.rows), 0), *values, *_failures(_rows([entry]))))
    arrows = [LOWER if measure.unit else HIGHER for measure in MEASURES]
    measures = [
        Column("\n".join(f"{m.title} {m.unit} {arrow}".split()).replace(f"\n{arrow}", f" {arrow}"), mean_keys(m.field))
        for m, arrow in zip(MEASURES, arrows, strict=True)
    ]
    measures.append(Column("Volume\n%", mean_keys("volume_difference_percent")))
    failures = (
        Column(f"Misses {LOWER}", ("misses", "references")),
        Column(f"False\nalarms {LOWER}", ("false_alarms", "without_reference")),
    )
    note = (
        f"Mean over seeds of the mean over organs of the mean over cases{_spread(setting)}. {HIGHER} higher is better, "
        f"{LOWER} lower is better; bold is best as printed, and in a distance only the arms with the smallest share of "
        "misses and false alarms compete, since those have no distance. Volume: (prediction "
        f"{MINUS} reference) / reference where both masks are: above 0 is too large; opposite signs cancel. Misses: "
        "organs of references that were not found; false alarms: organs that were found where the reference has none "
        "(a dash where every reference has every organ); both are summed over organs, cases and seeds and count as "
        "DSC 0 and surface Dice 0."
    )
    return Sheet(
        key="measures",
        title="Measures, mean over organs",
        header=header(setting),
        columns=(Column("Arm", ("arm",)), Column("Seeds", ("seeds",)), *measures, *failures),
        parts=(Part("", tuple(rows)),),
        note=" ".join([note, *reservations(scores, setting)]),
        facts=facts(setting),
    )


def _failures(rows: Sequence[Row]) -> tuple[Cell, Cell]:
    status = [row.status for row in rows]
    misses, false_alarms = status.count("miss"), status.count("false alarm")
    there, not_there = status.count("ok") + misses, status.count("absent") + false_alarms
    return _count(misses, there), _count(false_alarms, not_there)


def _count(found: int, possible: int) -> Cell:
    return Cell(f"{found} of {possible}" if possible else NONE, (found, possible))


def _spread(setting: Setting) -> str:
    return " ± standard deviation between seeds" * (len(setting.seeds) > 1)


def _heading(entry: Scores, setting: Setting) -> str:
    """The arm's name, a line for each of its settings, and how many seeds it has where it lacks some."""
    name = re.sub(r", (?![^\[]*\])", ",\n", entry.arm.name)  # not the comma of a range [a, b]
    fewer = len(entry.rows) < len(setting.seeds)
    return name + f"\n({len(entry.rows)} of {len(setting.seeds)} seeds)" * fewer


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
