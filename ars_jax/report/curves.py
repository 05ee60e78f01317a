"""Training and validation curves of several runs in small panels that share their axes."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ars_jax.report.runs import Run, mean_dsc, number, organs_of, position
from ars_jax.report.style import FAINT, INK, NORMAL, calm, run_colour, run_dashes

WIDTH_IN = 10.4
POINTS = 160
LOG_RATIO = 20.0


def loss_figure(runs: Sequence[Run]) -> Figure | None:
    """Draws the training loss and each of its parts.

    Args:
        runs: the runs; a run without a part is left out of that part's panel.

    Returns:
        The figure, or None where no run has a training line yet.
    """
    parts = list(dict.fromkeys(part for run in runs for line in run.training for part in line.get("parts", {})))
    if not any(run.training for run in runs):
        return None
    figure, panels = _panels(1 + len(parts))
    _draw(panels[0], "total loss", [_series(run.training, lambda line: line.get("loss")) for run in runs])
    for panel, part in zip(panels[1:], parts, strict=True):
        _draw(panel, part.replace("_", " "), [_series(run.training, _part(part)) for run in runs])
    for panel in panels:
        _scale_loss(panel)
    _label_time(panels, [line for run in runs for line in run.training])
    return figure


def validation_figure(runs: Sequence[Run]) -> Figure | None:
    """Draws the validation DSC: the mean first, then one panel per organ, all on the same axis.

    Args:
        runs: the runs.

    Returns:
        The figure, or None where no run has been validated yet.
    """
    if not any(run.validation for run in runs):
        return None
    organs = organs_of(runs)
    figure, panels = _panels(1 + len(organs))
    means = [_series(run.validation, mean_dsc) for run in runs]
    _draw(panels[0], "mean of all organs", means, mark_best=True)
    for panel, organ in zip(panels[1:], organs, strict=True):
        _draw(panel, organ, [_series(run.validation, _dsc(organ)) for run in runs])
    low = _lowest_dsc(panels)
    for panel in panels:
        panel.set_ylim(low, 1.0)
        panel.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    _label_time(panels, [line for run in runs for line in run.validation])
    return figure


def _part(name: str) -> Callable[[Mapping[str, Any]], Any]:
    return lambda line: line.get("parts", {}).get(name)


def _dsc(organ: str) -> Callable[[Mapping[str, Any]], Any]:
    return lambda line: line.get("dsc", {}).get(organ)


def _series(lines: Sequence[Mapping[str, Any]], value: Callable[[Mapping[str, Any]], Any]) -> np.ndarray:
    """Collects the finite points [n, 2] of one curve."""
    points = [(position(line), number(value(line))) for line in lines]
    return np.array([point for point in points if math.isfinite(point[1])], dtype=float).reshape(-1, 2)


def binned(points: np.ndarray, count: int = POINTS) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Thins a long curve so that it can be read.

    Args:
        points: [n, 2], time and value.
        count: largest number of bins; neighbouring points share a bin.

    Returns:
        Mean time, mean, lowest and highest value of each bin.
    """
    bins = np.array_split(points, min(count, len(points))) if len(points) else []
    times = np.array([part[:, 0].mean() for part in bins])
    means = np.array([part[:, 1].mean() for part in bins])
    return times, means, np.array([part[:, 1].min() for part in bins]), np.array([part[:, 1].max() for part in bins])


def _draw(panel: Axes, title: str, curves: Sequence[np.ndarray], mark_best: bool = False) -> None:
    """Draws one curve per run; runs without points keep their colour for the others."""
    panel.set_title(title, loc="left", fontsize=9.5, color=INK, pad=5, parse_math=False)
    for index, points in enumerate(curves):
        if not len(points):
            continue
        colour = run_colour(index)
        times, means, low, high = binned(points)
        if len(points) > len(times):
            panel.fill_between(times, low, high, color=colour, alpha=0.15, linewidth=0)
        (line,) = panel.plot(times, means, color=colour, linewidth=1.5)
        if run_dashes(index):
            line.set_dashes(run_dashes(index))
        if mark_best or len(points) == 1:
            best = points[np.argmax(points[:, 1])]
            panel.plot(*best, marker="o", markersize=4.5, color=colour, markeredgecolor="white", markeredgewidth=0.8)


def _columns(count: int) -> int:
    """At least two panels in a row, so that a lone one is not stretched, and at most four."""
    return max(2, count) if count <= 4 else 3 if count in (5, 6, 9) else 4


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """Lays out panels, the last row as far as it goes."""
    columns = _columns(count)
    rows = math.ceil(count / columns)
    height = {2: 2.9, 3: 2.3, 4: 2.05}[columns]
    figure = Figure(figsize=(WIDTH_IN, height * rows + 0.25), layout=ConstrainedLayoutEngine(h_pad=0.07))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in axes[count:]:
        panel.remove()
    for panel in axes[:count]:
        calm(panel, NORMAL)
    return figure, list(axes[:count])


def _scale_loss(panel: Axes) -> None:
    """Takes a logarithmic axis where a linear one would flatten the end of training."""
    values = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in panel.lines] or [np.ones(1)])
    if values.min() > 0 and values.max() > LOG_RATIO * values.min():
        panel.set_yscale("log")
        decades = math.log10(values.max() / values.min())
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    else:
        panel.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))


def _lowest_dsc(panels: Sequence[Axes]) -> float:
    """Starts the DSC axis where nine tenths of all points lie above, so that the end of training can be told apart."""
    values = [np.asarray(line.get_ydata(), dtype=float) for panel in panels for line in panel.lines]
    return max(0.0, min(0.9, math.floor(float(np.quantile(np.concatenate(values), 0.1)) * 10) / 10)) if values else 0.0


def _label_time(panels: Sequence[Axes], lines: Sequence[Mapping[str, Any]]) -> None:
    unit = "epoch" if all("epoch" in line for line in lines) else "step"
    last = max(position(line) for line in lines)
    columns = _columns(len(panels))
    for index, panel in enumerate(panels):
        panel.set_xlim(0, last * 1.02 or 1.0)
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=last >= 5))
        if index + columns >= len(panels):
            panel.set_xlabel(unit, fontsize=8, color=FAINT, labelpad=2)
