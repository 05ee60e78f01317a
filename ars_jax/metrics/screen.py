"""The table of an evaluation on screen."""

from rich import box
from rich.table import Table

from ars_jax.metrics.table import MEASURES, Line, Statistic, Summary

_HEADINGS = {
    "dsc": "DSC",
    "recall": "recall",
    "precision": "precision",
    "surface_dice": "surface\nDice",
    "hd95_mm": "HD95\nmm",
    "asd_mm": "ASD\nmm",
    "volume_difference_percent": "volume\n%",
}
_FORMATS = {"hd95_mm": ".2f", "asd_mm": ".2f", "volume_difference_percent": "+.1f"}


def render(summary: Summary, title: str) -> Table:
    """Makes the table for the screen.

    Args:
        summary: what `summarise` returned.
        title: what was evaluated.

    Returns:
        A table with mean ± sd of every measure, the counts beside them, and convention and tolerance in the header; it
        fills at most 80 columns where no organ's name is longer than 16 letters, and 100 where none is longer than 34.
    """
    tolerance = "" if summary.tolerance_mm is None else f", surface Dice at {summary.tolerance_mm:g} mm"
    table = Table(
        title=f"{title}\nsurface distances in mm, convention {summary.convention}{tolerance}",
        caption="mean ± sd over n cases; distances and volume (prediction - reference) only where both masks exist, so "
        "read them with the misses; last line: mean ± sd over the organs' means",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )
    table.add_column("organ", no_wrap=True)
    for heading in ("n", *(_HEADINGS[measure] for measure in MEASURES), "misses /\nfalse\nalarms"):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in summary.organs:
        table.add_row(*_cells(line))
    table.add_section()
    table.add_row(*_cells(summary.overall), style="bold")
    return table


def _cells(line: Line) -> list[str]:
    measures = [_mean_sd(getattr(line, measure), _FORMATS.get(measure, ".3f")) for measure in MEASURES]
    return [line.organ, str(line.cases), *measures, f"{line.misses} / {line.false_alarms}"]


def _mean_sd(value: Statistic, form: str) -> str:
    if value.mean is None:
        return "-"
    mean = f"{value.mean:{form}}"
    return mean if value.sd is None else f"{mean}\n±{value.sd:{form.lstrip('+')}}"
