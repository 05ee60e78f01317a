"""The phase diagram of the adaptive loss: its effective weights over the plane of errors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ars_jax.report.style import FAINT, INK, NORMAL, RULE, SMALL, WIDTH_IN

LINES = ("#D55E00", "#0072B2")
BINS = 25


@dataclass(frozen=True)
class Weights:
    """Effective weights of the adaptive loss in one mode, over the plane of errors and along the ratio of the two.

    Attributes:
        title: the mode in words.
        errors: FP and FN of the plane's points in voxels, `[points]`, rising.
        fp_weight: `[points (FN), points (FP)]`.
        fn_weight: likewise.
        share: FN / (FP + FN), `[n]`.
        along: weights of FP and of FN at each share, `[2, n]`.
    """

    title: str
    errors: np.ndarray
    fp_weight: np.ndarray
    fn_weight: np.ndarray
    share: np.ndarray
    along: np.ndarray


def phase_figure(
    modes: Sequence[Weights], regions: tuple[np.ndarray, np.ndarray] | None = None, critical: float | None = None
) -> Figure:
    """Draws the effective weights of FP and FN in each mode, and where the regions of a case stand.

    Args:
        modes: one row of panels for each, all over the same plane.
        regions: FP and FN in voxels of pairs of region and organ that share it with others, `[n]` each; None draws
            none.
        critical: share FN / (FP + FN) above which false positives are rewarded, if there is one.

    Returns:
        The figure: the weight of FP, that of FN, and both along the share.
    """
    figure = Figure(figsize=(WIDTH_IN, 2.15 * len(modes) + 0.45), layout="constrained")
    axes = figure.subplots(len(modes), 3, squeeze=False)
    values = np.concatenate([part.ravel() for mode in modes for part in (mode.fp_weight, mode.fn_weight)])
    colours, norm = signed_colours(float(values.min()), float(values.max()))
    for row, mode in zip(axes, modes, strict=True):
        for panel, weights, what in zip(row, (mode.fp_weight, mode.fn_weight), ("FP", "FN"), strict=False):
            panel.pcolormesh(mode.errors, mode.errors, weights, cmap=colours, norm=norm, rasterized=True)
            _draw_plane(panel, mode.errors, weights, regions)
            panel.set_title(f"weight of {what} ({mode.title})", fontsize=NORMAL, color=INK)
        _draw_lines(row[2], mode, regions, critical)
        row[2].set(ylim=(min(0, values.min()) - 0.05, 1.3 * values.max()))
    mappable = ScalarMappable(norm, colours)
    bar = figure.colorbar(mappable, ax=list(axes[:, :2].ravel()), location="bottom", aspect=45, pad=0.02)
    bar.ax.xaxis.set_major_locator(MaxNLocator(9, steps=[1, 2, 5, 10]))
    bar.ax.tick_params(labelsize=SMALL, length=2)
    bar.set_label("effective weight in the denominator of the loss", fontsize=NORMAL - 1, color=INK)
    if regions is not None:
        figure.legend(handles=_phase_keys(regions, critical), loc="lower right", fontsize=SMALL, frameon=False)
    return figure


def signed_colours(low: float, high: float) -> tuple[ListedColormap, Normalize]:
    """Makes colours of weights: red above 0, white at 0 and blue below, pale enough for dots.

    Args:
        low: the smallest weight; where it is negative, blue deepens faster than red, as negative weights are small.
        high: the largest.

    Returns:
        Colours and the scale from `low` to `high`.
    """
    values = np.linspace(low, high, 256)
    depth = np.where(values < 0, values / max(2 * -low, 1e-9), 0.65 * values / max(high, 1e-9))
    return ListedColormap(colormaps["RdBu_r"](0.5 + 0.5 * depth)), Normalize(low, high)


def _draw_plane(
    panel: Axes, errors: np.ndarray, weights: np.ndarray, regions: tuple[np.ndarray, np.ndarray] | None
) -> None:
    if weights.min() < 0:
        hatched = {"levels": [weights.min() - 1, 0], "colors": "none", "hatches": ["////"]}
        with rc_context({"hatch.linewidth": 0.4, "hatch.color": FAINT}):
            panel.contourf(errors, errors, weights, **hatched)
        panel.contour(errors, errors, weights, levels=[0], colors="black", linewidths=1.4)
    if regions is not None:
        inside = [np.clip(part, errors[0], errors[-1]) for part in regions]
        panel.plot(*inside, linestyle="none", marker=".", markersize=3, color="black", markeredgewidth=0, alpha=0.7)
    panel.set(xscale="log", yscale="log", aspect="equal", xlim=errors[[0, -1]], ylim=errors[[0, -1]])
    panel.set_xlabel("false positives, voxels", fontsize=NORMAL - 1)
    panel.set_ylabel("false negatives, voxels", fontsize=NORMAL - 1)
    panel.tick_params(labelsize=SMALL, length=2)
    panel.tick_params(which="minor", length=0)


def _shares(regions: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    return regions[1] / np.maximum(regions[0] + regions[1], np.finfo(float).tiny)


def _draw_lines(
    panel: Axes, mode: Weights, regions: tuple[np.ndarray, np.ndarray] | None, critical: float | None
) -> None:
    """The weights along the share, over the number of regions at each share."""
    if regions is not None:
        counts = panel.twinx()
        counts.hist(_shares(regions), bins=BINS, range=(0, 1), color=RULE)
        counts.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        counts.set_ylabel("regions", fontsize=NORMAL - 1, color=FAINT)
        counts.tick_params(labelsize=SMALL, length=2, colors=FAINT)
        panel.set_zorder(counts.get_zorder() + 1)
        panel.patch.set_visible(False)
    for weights, colour, dashes, name in zip(mode.along, LINES, ("-", "--"), ("FP", "FN"), strict=True):
        panel.plot(mode.share, weights, color=colour, linestyle=dashes, linewidth=1.6, label=f"weight of {name}")
    panel.axhline(0, color=INK, linewidth=0.8)
    if critical is not None and mode.along.min() < 0:
        panel.axvline(critical, ymax=0.8, color=INK, linewidth=0.8, linestyle=":")
        panel.text(critical - 0.02, -0.02, f"{critical:.3f}", fontsize=SMALL, color=INK, ha="right", va="top")
    panel.set(xlim=(0, 1))
    panel.set_title(f"along the ratio ({mode.title})", fontsize=NORMAL, color=INK)
    panel.set_xlabel("FN / (FP + FN)", fontsize=NORMAL - 1)
    panel.tick_params(labelsize=SMALL, length=2)
    panel.legend(fontsize=SMALL, frameon=False, loc="upper center", ncols=2, columnspacing=1.0, handlelength=1.6)


def _phase_keys(regions: tuple[np.ndarray, np.ndarray], critical: float | None) -> list[Patch | Line2D]:
    dot = Line2D([], [], linestyle="none", marker=".", markersize=4, color="black")
    dot.set_label(f"an organ in a region (n = {len(regions[0])})")
    if critical is None:
        return [dot]
    beyond = int(np.count_nonzero(_shares(regions) > critical))
    hatch = Patch(facecolor="white", edgecolor=FAINT, hatch="//////", linewidth=0.5)
    hatch.set_label(f"negative weight: errors are rewarded\n({beyond} of them for false positives)")
    return [dot, hatch]
