"""Panels of curves with bands over seeds: the mean over organs in the large one, an organ in each of the small ones."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ars_jax.metrics.table import MEAN
from ars_jax.report.seed_curves import Curve, common_name, mean_and_sd
from ars_jax.report.style import FAINT, INK, NORMAL, SMALL, WIDTH_IN, calm, run_colour, run_dashes

MOST_LINES = 8
MOST_MARKS = 12
REFERENCE_DASHES = (1.0, 1.0)
LETTERS_PER_INCH = 21
"""Of the keys' size."""

Scale = Callable[[Axes], None]
"""Sets a panel's axes once its lines are drawn."""


def band_figures(
    curves: Sequence[Curve], reference: Curve | None, scale: Scale, labels: tuple[str, str]
) -> dict[str, Figure]:
    """Draws curves of the mean over seeds within bands of ± one standard deviation.

    Args:
        curves: at least one; those without a value are left out.
        reference: a curve that is drawn in grey in every panel that does not have it as one of its own; None draws
            none.
        scale: of the axes.
        labels: what lies on the axes x and y.

    Returns:
        Ending of a file name to a figure. Up to eight curves: one figure with the ending "", a panel for the mean and
        one per organ. More: "" has a panel of the mean for each objective, and each of these a figure of its own with
        the organs.
    """
    groups = grouped(curves, reference)
    if len(groups) == 1:
        return {"": _organs_figure(next(iter(groups.values())), reference, scale, labels)}
    figures = {"": _groups_figure(groups, reference, scale, labels)}
    for title, group in groups.items():
        figures[f"_{slug(title)}"] = _organs_figure(group, reference, scale, labels)
    return figures


def slug(name: str) -> str:
    """Turns a name into a part of a file's name.

    Args:
        name: any, such as "B+ARS (1 of 2)".

    Returns:
        Letters, digits, points, plus, minus and underscores, such as "B+ARS_1_of_2".
    """
    return re.sub(r"[^\w.+-]+", "_", name).strip("_.") or "_"


def grouped(curves: Sequence[Curve], reference: Curve | None = None) -> dict[str, list[Curve]]:
    """Shares curves out to panels of at most eight.

    Args:
        curves: all of them.
        reference: the curve that every panel shows anyhow; it needs no panel where it would be alone.

    Returns:
        Title to curves: all in one if they are few, else a panel per objective (several where it has too many) and one
        for the objectives of one curve.
    """
    if len(curves) <= MOST_LINES:
        return {"": list(curves)}
    found: dict[str, list[Curve]] = {}
    for curve in curves:
        alone = sum(other.objective == curve.objective for other in curves) == 1
        found.setdefault("" if alone else curve.objective, []).append(curve)
    groups = {}
    for key, group in found.items():
        if [curve.name for curve in group] == [reference and reference.name]:
            continue
        title = common_name([curve.name for curve in group]) if key else "single arms"
        parts = [group[start : start + MOST_LINES] for start in range(0, len(group), MOST_LINES)]
        for place, part in enumerate(parts, start=1):
            groups[title if len(parts) == 1 else f"{title} ({place} of {len(parts)})"] = part
    return groups


def _organs_figure(curves: Sequence[Curve], reference: Curve | None, scale: Scale, labels: tuple[str, str]) -> Figure:
    organs = [organ for organ in dict.fromkeys(organ for curve in curves for organ in curve.values) if organ != MEAN]
    figure, panels = _mosaic(len(organs))
    handles: list[Line2D] = []
    for panel, organ in zip(panels, [MEAN, *organs], strict=False):
        drawn = draw_bands(panel, curves, organ, reference)
        handles = handles or drawn
        panel.set_title(organ, loc="left", fontsize=NORMAL, color=INK, pad=4, parse_math=False)
        scale(panel)
    _label(panels[0], labels)
    draw_legend(figure, handles, WIDTH_IN, _meaning(curves, reference), loc="outside lower center")
    return figure


def _groups_figure(
    groups: Mapping[str, Sequence[Curve]], reference: Curve | None, scale: Scale, labels: tuple[str, str]
) -> Figure:
    columns = 2 if len(groups) in (2, 4) else 3
    rows = -(-len(groups) // columns)
    figure = Figure(figsize=(WIDTH_IN, 3.4 * rows), layout=ConstrainedLayoutEngine(h_pad=0.06))
    panels = [figure.add_subplot(rows, columns, place) for place in range(1, len(groups) + 1)]
    for place, (panel, (title, group)) in enumerate(zip(panels, groups.items(), strict=True)):
        _calm(panel)
        handles = draw_bands(panel, group, MEAN, reference)
        panel.set_title(title, loc="left", fontsize=NORMAL, color=INK, pad=4, parse_math=False)
        scale(panel)
        _label(panel, (labels[0], "" if place % columns else labels[1]))
        where = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.14)}
        draw_legend(panel, handles, WIDTH_IN / columns, _meaning(group, reference), **where)
    # Each is scaled on its own before: a shared axis would keep the limits of the first.
    low, high = zip(*(panel.get_ylim() for panel in panels), strict=True)
    for panel in panels:
        panel.set_ylim(min(low), max(high))
    return figure


def _mosaic(organs: int) -> tuple[Figure, list[Axes]]:
    """A large panel of two by two places, and one place per organ; a lone organ is its own mean."""
    if organs < 2:
        figure = Figure(figsize=(WIDTH_IN / 2, 3.0), layout="constrained")
        panels = [figure.subplots()]
    else:
        columns = 4 if organs > 8 else min((4, 3), key=lambda count: -(organs + 4) % count)
        rows = max(2, -(-(organs + 4) // columns))
        figure = Figure(figsize=(WIDTH_IN, (1.5 if columns == 3 else 1.35) * rows + 0.5), layout="constrained")
        grid = figure.add_gridspec(rows, columns)
        places = [(row, column) for row in range(rows) for column in range(columns) if row > 1 or column > 1]
        panels = [figure.add_subplot(grid[:2, :2]), *(figure.add_subplot(grid[place]) for place in places[:organs])]
    for panel in panels:
        _calm(panel)
    return figure, panels


def _calm(panel: Axes) -> None:
    calm(panel, SMALL)
    panel.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))


def draw_bands(panel: Axes, curves: Sequence[Curve], organ: str, reference: Curve | None) -> list[Line2D]:
    """Draws one organ's curves, the reference beneath them.

    Args:
        panel: where.
        curves: at most eight; their place decides colour and dashes.
        organ: whose DSC, or `MEAN`.
        reference: drawn in grey, unless it is one of the curves or None.

    Returns:
        The lines, named for a legend; the bands are not among them.
    """
    alike = len(_counts(curves, reference)) == 1
    lines = []
    for index, curve in enumerate(_with(curves, reference)):
        style = (run_colour(index), run_dashes(index)) if index < len(curves) else (FAINT, REFERENCE_DASHES)
        lines += _draw_band(panel, curve, organ, curve.name if alike else f"{curve.name} (n = {_seeds(curve)})", *style)
    return lines


def _with(curves: Sequence[Curve], reference: Curve | None) -> list[Curve]:
    """The curves of a panel; the reference is the last, unless it is one of them."""
    added = reference is not None and reference.name not in [curve.name for curve in curves]
    return [*curves, *([reference] if added and reference else [])]


def _counts(curves: Sequence[Curve], reference: Curve | None) -> set[int]:
    return {_seeds(curve) for curve in _with(curves, reference)}


def _draw_band(
    panel: Axes, curve: Curve, organ: str, name: str, colour: str, dashes: tuple[float, ...]
) -> list[Line2D]:
    mean, sd = mean_and_sd(curve.values.get(organ, np.full((len(curve.positions), 1), np.nan)))
    there = np.isfinite(mean)
    if not there.any():
        return []
    mean, sd, positions = mean[there], sd[there], curve.positions[there]
    if np.isfinite(sd).any():
        panel.fill_between(positions, mean - sd, mean + sd, color=colour, alpha=0.15, linewidth=0)
    marks = {"marker": "o", "markersize": 3, "markeredgecolor": "white", "markeredgewidth": 0.5}
    # A single point would not be seen as a line.
    marked = len(positions) == 1 or (len(positions) <= MOST_MARKS and dashes != REFERENCE_DASHES)
    (line,) = panel.plot(positions, mean, color=colour, linewidth=1.3, label=name, **(marks if marked else {}))
    if dashes:
        line.set_dashes(dashes)
    return [line]


def _seeds(curve: Curve) -> int:
    """How many seeds have a value anywhere."""
    return int(np.isfinite(curve.values[MEAN]).any(axis=0).sum())


def _label(panel: Axes, labels: tuple[str, str]) -> None:
    panel.set_xlabel(labels[0], fontsize=SMALL, color=INK, labelpad=2)
    panel.set_ylabel(labels[1], fontsize=SMALL, color=INK, labelpad=3)


def _meaning(curves: Sequence[Curve], reference: Curve | None) -> str:
    """What lines and bands are."""
    counts = _counts(curves, reference)
    if counts == {1}:
        return "one seed"
    return f"mean over {max(counts) if len(counts) == 1 else 'n'} seeds, band ± standard deviation"


def draw_legend(place: Figure | Axes, keys: Sequence[Line2D], width_in: float, title: str, **where: Any) -> None:
    """Writes the keys of lines in as many columns as there is room for.

    Args:
        place: a figure or a panel.
        keys: lines with labels, which are shown letter by letter, dollar signs too.
        width_in: inches to fill.
        title: what lines and marks are.
        where: further arguments of matplotlib's legend.
    """
    longest = max((len(str(key.get_label())) for key in keys), default=0)
    columns = max(1, min(len(keys), int(width_in * LETTERS_PER_INCH / (longest + 9))))
    style = {"frameon": False, "labelcolor": INK, "handlelength": 3.2, "columnspacing": 1.4, "borderpad": 0.2}
    sizes = {"fontsize": SMALL, "title_fontsize": SMALL}
    legend = place.legend(handles=keys, title=title, ncols=columns, **sizes, **style, **where)
    legend.get_title().set_color(INK)
    for text in legend.get_texts():
        text.set_parse_math(False)
