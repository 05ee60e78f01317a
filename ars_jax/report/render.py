"""Rendering: facts, curves, tables and overlays put into the page's template."""

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

from ars_jax.report import style
from ars_jax.report.cases import overlay_blocks
from ars_jax.report.curves import loss_figure, validation_figure
from ars_jax.report.facts import facts, start_text
from ars_jax.report.runs import Run, organs_of
from ars_jax.report.tables import case_tables, organ_tables, table_note

OVERLAY_NOTE = (
    "Chosen by mean DSC; with several runs, on the first one that was evaluated. Each slice is the one with most "
    "reference voxels, cut to all labels and 20 mm around them. First row: the reference, filled. Rows beneath: the "
    "outline is the prediction, the pale fill the reference. Radiological display: the patient's right (R) is on the "
    "left of the picture; L left, A anterior, P posterior, S superior, I inferior."
)


def render_page(runs: Sequence[Run]) -> str:
    """Renders the page.

    Args:
        runs: the runs, read.

    Returns:
        HTML with inline style and embedded pictures; it refers to nothing outside of itself.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    organs = organs_of(runs)
    return environment.get_template("page.html").render(
        title=" · ".join(run.name for run in runs) if len(runs) <= 3 else f"{len(runs)} runs",
        lead=_lead(runs),
        runs=[_legend_entry(run, index) for index, run in enumerate(runs)],
        organs=[{"name": organ, "colour": style.organ_colour(index)} for index, organ in enumerate(organs)],
        facts=facts(runs),
        curves=_curves(runs),
        gaps=_gaps(runs),
        tables=organ_tables(runs),
        table_note=table_note(runs),
        case_tables=[
            {"run": run.name, "tables": case_tables(run, index)} for index, run in enumerate(runs) if run.evaluation
        ],
        overlays=overlay_blocks(runs),
        overlay_note=OVERLAY_NOTE,
        records=[{"run": run.name, "config": run.config_text, "start": start_text(run)} for run in runs],
        footer=f"Written by ars_jax {importlib.metadata.version('ars_jax')}. Every picture is inside this file.",
    )


def _legend_entry(run: Run, index: int) -> dict[str, str]:
    # matplotlib counts dashes in line widths, SVG in its own units; the legend's line is 2.4 wide.
    dashes = " ".join(f"{2.4 * length:g}" for length in style.run_dashes(index))
    return {"name": run.name, "colour": style.run_colour(index), "dashes": dashes or "none"}


def _lead(runs: Sequence[Run]) -> str:
    organs = ", ".join(organs_of(runs))
    what = "Training run" if len(runs) == 1 else f"Comparison of {len(runs)} training runs"
    return f"{what} for the segmentation of {organs}."


def _gaps(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """Says in plain words which run was not evaluated, and the command that does it."""
    return [
        (
            f"{run.name} has not been evaluated yet, so it has no table and no overlays. To make them:",
            f"ars-jax evaluate {run.folder}",
        )
        for run in runs
        if run.evaluation is None
    ]


def _curves(runs: Sequence[Run]) -> list[dict[str, str]]:
    loss = "Bold lines are means of neighbouring steps, the pale band their range. Each panel has an axis of its own"
    if len(runs) > 1:
        loss += "; totals of different objectives are different quantities and cannot be compared"
    dsc = "Dice similarity coefficient on whole validation volumes, all panels on one axis; the dot is the best mean."
    return [
        _curve("Training loss", loss_figure(runs), loss + ".", "No training step has been recorded yet."),
        _curve("Validation DSC", validation_figure(runs), dsc, "No validation has been recorded yet."),
    ]


def _curve(title: str, figure: Figure | None, caption: str, absent: str) -> dict[str, str]:
    if figure is None:
        return {"title": title, "picture": "", "alt": "", "caption": absent}
    return {"title": title, "picture": style.data_uri(figure), "alt": f"{title} per epoch", "caption": caption}
