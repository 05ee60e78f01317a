"""Tables for a paper: one set of values, written as Markdown, as CSV and as LaTeX."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ars_jax.files import written_atomically
from ars_jax.metrics.table import Statistic

NONE = "\N{EM DASH}"
MINUS = "\N{MINUS SIGN}"
HIGHER, LOWER = "\N{UPWARDS ARROW}", "\N{DOWNWARDS ARROW}"

PAGE_ROWS = 45
"""Rows of a table that fit on a printed page with their notes."""

Value = str | int | float | None


@dataclass(frozen=True)
class Cell:
    """One cell.

    Args:
        text: what the reader sees.
        values: what the CSV file holds, one per key of the column, not rounded as the text is.
        spread: shown after the text as ±; empty where there is none.
        bold: whether the text is to stand out.
    """

    text: str
    values: tuple[Value, ...]
    spread: str = ""
    bold: bool = False


@dataclass(frozen=True)
class Column:
    """The head of a column.

    Args:
        title: what the reader sees; it may be printed in several lines, which a line feed divides.
        keys: the heads of its columns in the CSV file.
    """

    title: str
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """Rows that belong together.

    Args:
        name: its heading; empty where a table has only one part.
        rows: cells, one per column.
        total: whether the last row sums up the rows above.
    """

    name: str
    rows: tuple[tuple[Cell, ...], ...]
    total: bool = False


@dataclass(frozen=True)
class Sheet:
    """One table of an experiment, in one or more parts with the same columns.

    Args:
        key: its name as a file.
        title: its heading.
        header: one sentence or more of what was scored, which stands above the values.
        columns: heads; the first column names the rows.
        parts: the rows.
        note: how to read it, beneath the values.
        facts: columns of the CSV file that are the same in every row: what the header says, for programs.
        experiment: title of the experiment that it belongs to; stands before the table's own.
        prefix: what its label in LaTeX starts with, so that a paper can hold the tables of several experiments.
    """

    key: str
    title: str
    header: str
    columns: tuple[Column, ...]
    parts: tuple[Part, ...]
    note: str
    facts: Mapping[str, Value] = field(default_factory=dict)
    experiment: str = ""
    prefix: str = ""


def word(text: str) -> Cell:
    """A cell of a name or a remark.

    Args:
        text: the same for readers and programs.

    Returns:
        The cell.
    """
    return Cell(text, (text,))


def number(value: float | None, digits: int, *, signed: bool = False, bold: bool = False) -> Cell:
    """A cell of one number.

    Args:
        value: the number; None gives a dash.
        digits: after the point.
        signed: whether a number above 0 shows its sign.
        bold: whether it is to stand out.

    Returns:
        The cell.
    """
    return Cell(_written(value, digits, signed), (value,), bold=bold)


def mean_keys(name: str) -> tuple[str, str]:
    """Heads of the CSV columns of `mean_spread`.

    Args:
        name: of what is averaged.

    Returns:
        Two names.
    """
    return f"{name} mean", f"{name} sd"


def mean_spread(value: Statistic | None, digits: int, *, signed: bool = False, bold: bool = False) -> Cell:
    """A cell of a mean and its standard deviation.

    Args:
        value: both; None gives a dash.
        digits: after the point.
        signed: whether a mean above 0 shows its sign.
        bold: whether the mean is to stand out.

    Returns:
        The cell, with two values for programs.
    """
    if value is None or value.mean is None:
        return Cell(NONE, (None, None))
    spread = "" if value.sd is None else f"{value.sd:.{digits}f}"
    return Cell(_written(value.mean, digits, signed), (value.mean, value.sd), spread, bold)


def _written(value: float | None, digits: int, signed: bool) -> str:
    if value is None:
        return NONE
    text = f"{value:{'+' if signed else ''}.{digits}f}"
    # A rounded nothing has no sign.
    return text.lstrip("+-") if float(text) == 0 else text.replace("-", MINUS)


def write_sheet(sheet: Sheet, out: Path) -> list[Path]:
    """Writes a table three times.

    Args:
        sheet: the table.
        out: folder; gets KEY.md, KEY.csv and KEY.tex.

    Returns:
        The written files.

    Raises:
        UserError: the folder cannot be written.
    """
    texts = {
        "md": f"# {_plain(_full_title(sheet))}\n\n{markdown(sheet, level=2)}",
        "csv": as_csv(sheet),
        "tex": latex(sheet),
    }
    return [write_text(out / f"{sheet.key}.{ending}", text) for ending, text in texts.items()]


def _full_title(sheet: Sheet) -> str:
    return f"{sheet.experiment}: {sheet.title}" if sheet.experiment else sheet.title


def write_text(path: Path, text: str) -> Path:
    """Writes a text whole or not at all.

    Args:
        path: the file; its folder is made.
        text: its content.

    Returns:
        The path.

    Raises:
        UserError: the place cannot be written.
    """
    with written_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def markdown(sheet: Sheet, level: int) -> str:
    """Renders a table without its title.

    Args:
        sheet: the table.
        level: of its parts' headings.

    Returns:
        Markdown with the header above the values and the note beneath.
    """
    blocks = [_plain(sheet.header)]
    for part in sheet.parts:
        blocks += [f"{'#' * level} {_plain(part.name)}"] * bool(part.name)
        blocks += ["\n".join(_markdown_rows(sheet.columns, part))]
    return "\n\n".join([*blocks, _plain(sheet.note)]) + "\n"


def _markdown_rows(columns: Sequence[Column], part: Part) -> list[str]:
    lines = [[_plain(column.title) for column in columns], [":---", *["---:"] * (len(columns) - 1)]]
    for row in part.rows:
        lines.append([_markdown_cell(cell) for cell in row])
    return [f"| {' | '.join(line)} |" for line in lines]


def _markdown_cell(cell: Cell) -> str:
    text = f"**{_plain(cell.text)}**" if cell.bold else _plain(cell.text)
    return f"{text} ± {cell.spread}" if cell.spread else text


def _plain(text: str) -> str:
    """Names are text and not Markdown."""
    return re.sub(r"([\\`*_|<\[\]])", r"\\\1", " ".join(text.split()))


def as_csv(sheet: Sheet) -> str:
    """Renders a table for programs.

    Args:
        sheet: the table.

    Returns:
        One line of heads and one per row; the first column is the part's name where there are several, the last ones
        are the facts. Nothing is rounded below six digits; what is undefined is empty.
    """
    named = any(part.name for part in sheet.parts)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads = [key for column in sheet.columns for key in column.keys]
    writer.writerow([*(["comparison"] * named), *heads, *sheet.facts])
    for part in sheet.parts:
        for row in part.rows:
            values = [_csv_value(value) for cell in row for value in cell.values]
            writer.writerow([*([part.name] * named), *values, *(_csv_value(fact) for fact in sheet.facts.values())])
    return text.getvalue()


def _csv_value(value: Value) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return "" if value is None else str(value)


def latex(sheet: Sheet) -> str:
    r"""Renders a table for a paper.

    Args:
        sheet: the table.

    Returns:
        One `table`, or several where the parts do not fit on a page, to be included by `\input`, with the packages
        booktabs and graphicx; what is wider than the line is made as wide as the line.
    """
    pages = _pages(sheet.parts)
    label = "tab:" + re.sub(r"[^A-Za-z0-9.+-]+", "-", f"{sheet.prefix}-{sheet.key}").strip("-")
    labels = [label + (f"-{place}" if place > 1 else "") for place in range(1, len(pages) + 1)]
    notes = [*[f"Notes: see Table~\\ref{{{labels[-1]}}}." for _ in pages[1:]], _escaped(sheet.note)]
    tables = [_latex_table(sheet, *page) for page in zip(pages, labels, notes, strict=True)]
    return "% Needs \\usepackage{booktabs,graphicx}.\n" + "\n".join(tables)


def _pages(parts: Sequence[Part]) -> list[list[Part]]:
    """Parts that fit on one page together; a part is never cut."""
    pages: list[list[Part]] = []
    for part in parts:
        if pages and sum(len(other.rows) + 1 for other in pages[-1]) + len(part.rows) < PAGE_ROWS:
            pages[-1].append(part)
        else:
            pages.append([part])
    return pages


def _latex_table(sheet: Sheet, parts: Sequence[Part], label: str, note: str) -> str:
    lines = [
        "\\begin{table}",
        "  \\centering",
        f"  \\caption{{\\textbf{{{_escaped(_full_title(sheet))}.}} {_escaped(sheet.header)}}}",
        f"  \\label{{{label}}}",
        "  \\par\\smallskip",
        "  \\sbox0{%",
        f"  \\begin{{tabular}}{{l{'r' * (len(sheet.columns) - 1)}}}",
        "    \\toprule",
        f"    {' & '.join(_latex_head(column.title) for column in sheet.columns)} \\\\",
        *(line for part in parts for line in _latex_part(part, len(sheet.columns))),
        "    \\bottomrule",
        "  \\end{tabular}}%",
        "  \\ifdim\\wd0>\\linewidth\\resizebox{\\linewidth}{!}{\\usebox0}\\else\\usebox0\\fi",
        f"  \\par\\medskip\\begin{{minipage}}{{\\linewidth}}\\footnotesize {note}\\end{{minipage}}",
        "\\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _latex_part(part: Part, width: int) -> list[str]:
    rows = [f"    {' & '.join(_latex_cell(cell) for cell in row)} \\\\" for row in part.rows]
    if part.total:
        rows.insert(-1, f"    \\cmidrule(l){{2-{width}}}" if part.name else "    \\midrule")
    heading = f"    \\multicolumn{{{width}}}{{l}}{{\\emph{{{_escaped(part.name)}}}}} \\\\"
    return ["    \\midrule", *([heading] * bool(part.name)), *rows]


def _latex_head(title: str) -> str:
    stacked = " \\\\ ".join(_escaped(line) for line in title.split("\n"))
    return f"\\shortstack[r]{{{stacked}}}" if "\n" in title else stacked


def _latex_cell(cell: Cell) -> str:
    text = f"\\textbf{{{_escaped(cell.text)}}}" if cell.bold else _escaped(cell.text)
    return f"{text}\\,{{\\scriptsize$\\pm$\\,{cell.spread}}}" if cell.spread else text


_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": "\\textbackslash{}",
    "~": "\\textasciitilde{}",
    "^": "\\textasciicircum{}",
    "[": "{[}",
    "]": "{]}",
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    "\N{GREATER-THAN OR EQUAL TO}": "$\\ge$",
    "\N{PLUS-MINUS SIGN}": "$\\pm$",
    "\N{MULTIPLICATION SIGN}": "$\\times$",
    MINUS: "$-$",
    NONE: "---",
    HIGHER: "$\\uparrow$",
    LOWER: "$\\downarrow$",
}


def _escaped(text: str) -> str:
    r"""Text for LaTeX; a bracket is braced because it would be an argument at the start of a row, after `\\`."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
