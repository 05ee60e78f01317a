"""One set of values is the same in Markdown, CSV and LaTeX, whatever letters the names have."""

import csv
import io
import re
from dataclasses import replace

from ars_jax.metrics.table import Statistic
from ars_jax.report.sheets import (
    HIGHER,
    MINUS,
    NONE,
    Cell,
    Column,
    Part,
    Sheet,
    as_csv,
    latex,
    markdown,
    mean_spread,
    number,
    word,
)

NASTY = r"B_1 & 50% #$~^\{x}| *b* [3] <i> `c`"


def nasty_sheet(parts: int = 2, rows: int = 2) -> Sheet:
    row = (Cell(NASTY, (NASTY,)), Cell("0.5", (0.51234567,), "0.1", bold=True))
    columns = (Column(NASTY, ("name",)), Column(f"DSC {HIGHER}", ("dsc",)))
    named = tuple(Part(f"{NASTY} {place}", (row,) * rows, total=True) for place in range(parts))
    return Sheet("nasty", NASTY, f"{NASTY} ± {MINUS}1", columns, named, f"{NONE} {NASTY}", {"data": NASTY})


def test_names_of_any_letters_stay_names_in_csv() -> None:
    lines = list(csv.DictReader(io.StringIO(as_csv(nasty_sheet()))))
    assert lines[0] == {"comparison": f"{NASTY} 0", "name": NASTY, "dsc": "0.512346", "data": NASTY}
    assert len(lines) == 4


def test_names_of_any_letters_neither_break_nor_format_a_markdown_table() -> None:
    for line in markdown(nasty_sheet(), level=2).split("\n"):
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 3
        assert not re.search(r"(?<!\\)[_`<\[]", line)


def test_latex_is_well_formed_for_names_of_any_letters() -> None:
    text = latex(nasty_sheet())
    bare = re.sub(r"\\[\\&%$#_{}]", "", text)
    assert bare.count("{") == bare.count("}")
    assert bare.count("$") % 2 == 0
    body = [line for line in text.split("\n") if line.endswith("\\\\") and "multicolumn" not in line]
    assert len(body) == 1 + 2 * 2
    for line in body:
        assert len(re.findall(r"(?<!\\)&", line)) == 1
    rules = [place for place, line in enumerate(text.split("\n")) if "\\cmidrule" in line]
    assert [text.split("\n")[place + 2].strip() for place in rules] == ["\\midrule", "\\bottomrule"], "above the total"
    for environment in ("table", "tabular", "minipage"):
        assert text.count(f"\\begin{{{environment}}}") == text.count(f"\\end{{{environment}}}") == 1


def test_a_row_that_starts_with_a_bracket_is_no_argument_of_the_line_before() -> None:
    row = (word("[0.3, 0.7]"),)
    assert "\n    {[}0.3, 0.7{]} \\\\\n" in latex(
        Sheet("k", "t", "h", (Column("range", ("r",)),), (Part("", (row,)),), "n")
    )


def test_parts_that_do_not_fit_on_a_page_go_on_the_next_and_the_notes_stand_on_the_last() -> None:
    text = latex(nasty_sheet(parts=5, rows=20))
    assert re.findall(r"\\label\{(.*?)\}", text) == ["tab:nasty", "tab:nasty-2", "tab:nasty-3"]
    assert text.count("see Table~\\ref{tab:nasty-3}") == 2
    assert text.count("multicolumn") == 5


def test_labels_and_captions_tell_experiments_apart() -> None:
    sheet = replace(nasty_sheet(), experiment="Heads & necks", prefix="my_heads (ä) 2")
    text = latex(sheet)
    assert "\\label{tab:my-heads-2-nasty}" in text
    assert "\\caption{\\textbf{Heads \\& necks: " in text


def test_heads_of_several_lines_are_stacked_in_latex_only() -> None:
    sheet = Sheet("k", "t", "h", (Column("organ", ("o",)), Column("B+RS,\nsum", ("v",))), (Part("", ()),), "n")
    assert "\\shortstack[r]{B+RS, \\\\ sum}" in latex(sheet)
    assert "| B+RS, sum |" in markdown(sheet, level=2)


def test_numbers_are_rounded_for_readers_only() -> None:
    assert number(-0.12345, 3, signed=True) == Cell(f"{MINUS}0.123", (-0.12345,))
    assert number(0.12345, 3, signed=True).text == "+0.123"
    assert number(-0.0001, 3, signed=True).text == "0.000", "a rounded nothing has no sign"
    assert number(None, 3) == Cell(NONE, (None,))
    assert mean_spread(Statistic(0.5, None, 1), 3) == Cell("0.500", (0.5, None))
    assert mean_spread(Statistic(None, None, 0), 3) == mean_spread(None, 3) == Cell(NONE, (None, None))
