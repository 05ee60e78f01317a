"""The figures of an experiment's numbers: DSC over epochs, over the division coefficient and over the ranges."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ars_jax.metrics.table import MEAN
from ars_jax.report.bands import REFERENCE_DASHES, band_figures, draw_legend
from ars_jax.report.results import Arm
from ars_jax.report.runs import number
from ars_jax.report.seed_curves import Curve, common_name, final_curve, final_dsc, validation_curve
from ars_jax.report.seeds import evaluation_of
from ars_jax.report.style import FAINT, INK, NORMAL, RULE, SMALL, WIDTH_IN, calm, run_colour
from ars_jax.report.tables import TIMES

REGIONS, LOW, RANGE = "loss.regions", "loss.min_penalty", "loss.penalty_range"
ROW_IN = 0.22
MARKERS = "osD^vPX"
SHORT_AXIS = 26
"""How many letters fit below the smallest panel."""
NARROWEST_DSC = 0.02
"""The least that an axis of DSC spans, lest differences of a thousandth look large."""


def validation_figures(arms: Sequence[Arm]) -> dict[str, Figure]:
    """Draws the validation DSC of every arm over its training.

    Args:
        arms: of an experiment, with whole seeds.

    Returns:
        Name of a file to a figure; none where nothing was validated.
    """
    curves = [validation_curve(arm) for arm in arms if arm.trials]
    curves = [curve for curve in curves if np.isfinite(curve.values[MEAN]).any()]
    if not curves:
        return {}
    lines = [line for arm in arms for trial in arm.trials for line in trial.run.validation]
    unit = "epoch" if all("epoch" in line for line in lines) else "step"
    last = max(float(curve.positions[-1]) for curve in curves)

    def scale(panel: Axes) -> None:
        panel.set_xlim(0, last * 1.02 or 1.0)
        panel.xaxis.set_major_locator(MaxNLocator(5, integer=last >= 5, steps=[1, 2, 5, 10]))
        drawn = [np.asarray(line.get_ydata(), dtype=float) for line in panel.lines]
        # The start of the training may leave the panel, since its end is what is compared.
        low = min([*(values[-1] for values in drawn), np.quantile(np.concatenate(drawn), 0.1)]) if drawn else 0.0
        panel.set_ylim(np.floor((low - 0.001) * 20) / 20, None)

    figures = band_figures(curves, _baseline(curves), scale, (unit, "DSC of the validation cases"))
    return {f"validation_curves{ending}": figure for ending, figure in figures.items()}


def division_figures(arms: Sequence[Arm]) -> dict[str, Figure]:
    """Draws the DSC of the scored cases over the division coefficient, one line for arms that are otherwise alike.

    Args:
        arms: of an experiment, with whole seeds.

    Returns:
        Name of a file to a figure; none where no two arms differ in their grid alone. The baseline, which has no
        regions, is a level line. The coefficients stand equally far apart, by the geometric mean of their sides.
    """
    lines = [line for line in _alike(arms, (REGIONS,)) if len(line) > 1]
    if not lines:
        return {}
    grids = {_grid_name(arm.settings[REGIONS]): arm.settings[REGIONS] for line in lines for arm in line}
    names = sorted(grids, key=lambda name: (np.prod(np.ravel(grids[name])) ** (1 / np.size(grids[name])), name))
    curves = [final_curve(line, [names.index(_grid_name(arm.settings[REGIONS])) for arm in line]) for line in lines]
    crowded = sum(len(name) + 2 for name in names) > SHORT_AXIS

    def scale(panel: Axes) -> None:
        panel.set_xlim(-0.25, len(names) - 0.75)
        panel.set_xticks(range(len(names)), names, rotation=90 if crowded else 0)
        low, high = panel.get_ylim()
        spare = max(0.0, NARROWEST_DSC - (high - low)) / 2
        panel.set_ylim(low - spare, high + spare)

    reference = _level(arms, (0, len(names) - 1))
    figures = band_figures(curves, reference, scale, ("division coefficient DC, not to scale", scored_cases(arms)))
    return {f"division_curve{ending}": figure for ending, figure in figures.items()}


def range_figures(arms: Sequence[Arm]) -> dict[str, Figure]:
    """Draws the ranges [A, A + B] of the adaptive penalties beside the DSC that they lead to.

    Args:
        arms: of an experiment, with whole seeds.

    Returns:
        Name of a file to a figure: a row per range by rising A and B, with every seed and mean ± standard deviation,
        and the baseline as an upright band. None where no two arms differ in their range alone.
    """
    lines = [line for line in _alike(arms, (LOW, RANGE)) if len(line) > 1]
    if not lines:
        return {}
    ranges = sorted({_range(arm) for line in lines for arm in line})
    step = ROW_IN * max(1.0, 0.6 * len(lines))
    size = (WIDTH_IN, step * len(ranges) + 0.75 + 0.15 * len(lines))
    figure = Figure(figsize=size, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 2.2))
    for panel in (left, right):
        calm(panel, SMALL)
        panel.grid(axis="y", visible=False)
        panel.grid(axis="x", color=RULE, linewidth=0.6)
    _draw_ranges(left, ranges)
    keys = [_draw_scores(right, ranges, line, place, len(lines)) for place, line in enumerate(lines)]
    keys += _draw_level(right, arms)
    low, high = right.get_xlim()
    spare = max(0.0, NARROWEST_DSC - (high - low)) / 2
    right.set_xlim(low - spare, high + spare)
    right.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    right.set_xlabel(f"{scored_cases(arms)}, {MEAN}", fontsize=SMALL, color=INK)
    keys.append(Line2D([], [], color=FAINT, marker="o", markersize=2.5, linestyle="none", label="one seed"))
    draw_legend(figure, keys, WIDTH_IN, "mean ± standard deviation over seeds", loc="outside lower center")
    return {"range_curve": figure}


def scored_cases(arms: Sequence[Arm]) -> str:
    """Says whose DSC it is.

    Args:
        arms: of an experiment.

    Returns:
        A label for an axis, such as "DSC of the test cases".
    """
    kinds = {str(evaluation_of(trial).about.get("cases", "scored")) for arm in arms for trial in arm.trials}
    return f"DSC of the {' and '.join(sorted(kinds))} cases"


def _baseline(curves: Sequence[Curve]) -> Curve | None:
    return next((curve for curve in curves if curve.objective == "baseline"), None)


def _level(arms: Sequence[Arm], ends: tuple[float, float]) -> Curve | None:
    """The baseline as a level line."""
    baseline = next((arm for arm in arms if arm.objective == "baseline" and arm.trials), None)
    if baseline is None:
        return None
    curve = final_curve([baseline], [0.0])
    level = {organ: np.repeat(values, 2, axis=0) for organ, values in curve.values.items()}
    return Curve(curve.name, curve.objective, np.array(ends), level)


def _alike(arms: Sequence[Arm], keys: tuple[str, ...]) -> list[list[Arm]]:
    """Finished arms with some of these settings, gathered by objective and all other settings."""
    found: dict[str, list[Arm]] = {}
    for arm in arms:
        if arm.trials and any(key in arm.settings for key in keys):
            others = sorted((key, repr(value)) for key, value in arm.settings.items() if key not in keys)
            found.setdefault(repr((arm.objective, others)), []).append(arm)
    return list(found.values())


def _grid_name(grid: Any) -> str:
    sides = [str(side) for side in np.ravel(grid)]
    return sides[0] if len(set(sides)) == 1 else TIMES.join(sides)


def _range(arm: Arm) -> tuple[float, float]:
    """A and B; one of them may be the same in all arms and so stand in the configuration only."""
    loss: Mapping[str, Any] = arm.trials[0].run.config.get("loss") or {}
    low, wide = (number(arm.settings.get(key, loss.get(key.removeprefix("loss.")))) for key in (LOW, RANGE))
    return round(low, 9), round(wide, 9)


def _draw_ranges(panel: Axes, ranges: Sequence[tuple[float, float]]) -> None:
    for row, (low, wide) in enumerate(ranges):
        panel.plot(
            [low, low + wide], [row, row], color=INK, linewidth=2.2, marker="|", markersize=5, solid_capstyle="butt"
        )
    panel.set_yticks(range(len(ranges)), [f"[{low:g}, {low + wide:g}]" for low, wide in ranges])
    panel.set_ylim(len(ranges) - 0.5, -0.5)
    panel.set_xlim(min(0.0, *(low for low, _ in ranges)), None)
    panel.tick_params(axis="y", labelsize=NORMAL, labelcolor=INK)
    panel.set_xlabel("range of the penalties [A, A + B]", fontsize=SMALL, color=INK)


def _draw_scores(
    panel: Axes, ranges: Sequence[tuple[float, float]], arms: Sequence[Arm], place: int, places: int
) -> Line2D:
    """One mark with its spread per range, each seed as a dot beneath; `place` of `places` that share a row."""
    colour, marker = run_colour(place), MARKERS[place % len(MARKERS)]
    offset = 0.6 * ((place + 0.5) / places - 0.5)
    for arm in arms:
        row = ranges.index(_range(arm)) + offset
        values = _means(arm)
        panel.plot(values, [row] * len(values), linestyle="none", marker="o", markersize=2.5, color=colour, alpha=0.5)
        if len(values) > 1:
            ends = np.mean(values) + np.std(values, ddof=1) * np.array([-1, 1])
            panel.plot(ends, [row, row], color=colour, linewidth=1.2)
        panel.plot(np.mean(values), row, marker=marker, markersize=5, color=colour, markeredgecolor="white")
    name = common_name([arm.name for arm in arms])
    return Line2D([], [], color=colour, marker=marker, markersize=5, markeredgecolor="white", label=name)


def _means(arm: Arm) -> list[float]:
    return [dsc[MEAN] for dsc in final_dsc(arm).values() if MEAN in dsc]


def _draw_level(panel: Axes, arms: Sequence[Arm]) -> list[Line2D]:
    level = _level(arms, (0.0, 1.0))
    if level is None or not np.isfinite(level.values[MEAN][0]).any():
        return []
    values = level.values[MEAN][0]
    values = values[np.isfinite(values)]
    mean, sd = np.mean(values), np.std(values, ddof=1) if len(values) > 1 else 0.0
    panel.axvspan(float(mean - sd), float(mean + sd), color=FAINT, alpha=0.15, linewidth=0)
    line = panel.axvline(float(mean), color=FAINT, linewidth=1.3, label=level.name)
    line.set_dashes(REFERENCE_DASHES)
    return [line]


Draw = Callable[[Sequence[Arm]], dict[str, Figure]]
FIGURES: tuple[Draw, ...] = (validation_figures, division_figures, range_figures)
