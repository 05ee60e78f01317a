"""Overlays: axial, coronal and sagittal slices with the reference and every run's prediction.

The display is radiological: the patient's right is on the left of the picture, anterior and superior are up, and in the
sagittal slice anterior is on the left. Millimetres are equally long in every panel of one figure.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from ars_jax.data.plan import Plan
from ars_jax.report.style import FAINT, INK, organ_colour, run_colour, run_dashes

PLANES = ("axial", "coronal", "sagittal")
MARKS = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}
SIDES = (
    ("left", "center", 0.015, 0.5),
    ("right", "center", 0.985, 0.5),
    ("center", "top", 0.5, 0.985),
    ("center", "bottom", 0.5, 0.015),
)
MARGIN_MM = 20.0

WIDTH_IN = 10.4
GAP_IN = 0.1
HEAD_IN = 0.36
TALLEST_IN = 3.9


@dataclass(frozen=True)
class Picture:
    """One case, ready to be drawn; every array lies in canonical (LPS) orientation.

    Args:
        image: intensities [z, y, x].
        reference: organ numbers of the page [z, y, x], 0 for background.
        predictions: the same for each run; None where a run has no prediction of this case.
        spacing: mm along z, y, x.
        window: intensities shown as black and as white.
    """

    image: np.ndarray
    reference: np.ndarray
    predictions: tuple[np.ndarray | None, ...]
    spacing: tuple[float, float, float]
    window: tuple[float, float]


def choose_cases(means: Mapping[str, float]) -> dict[str, str]:
    """Picks the worst, the median and the best case; equal means are ordered by name.

    Args:
        means: case name to its mean DSC; cases without one (NaN) are passed over.

    Returns:
        "worst", "median" and "best" to a case name, each case once: fewer than three cases give fewer entries. Of an
        even number of cases the lower of the two middle ones is the median.
    """
    ranked = sorted((mean, case) for case, mean in means.items() if not np.isnan(mean))
    if not ranked:
        return {}
    places = {"worst": 0, "median": (len(ranked) - 1) // 2, "best": len(ranked) - 1}
    if len(ranked) < 3:
        places.pop("median")
    if len(ranked) == 1:
        places = {"only": 0}
    return {title: ranked[place][1] for title, place in places.items()}


def display_window(image: np.ndarray, plan: Plan) -> tuple[float, float]:
    """Chooses the grey window of a case.

    Args:
        image: intensities [z, y, x].
        plan: the preparation of the run.

    Returns:
        The plan's window if intensities are windowed, else the 1st and 99th percentile.
    """
    if plan.intensity == "window" and plan.window is not None:
        return plan.window
    low, high = np.percentile(image[np.isfinite(image)], (1, 99))
    return float(low), float(max(high, low + 1e-6))


def view(array: np.ndarray, plane: str, index: int) -> np.ndarray:
    """Cuts one slice and turns it as it is displayed.

    Args:
        array: [z, y, x] in canonical (LPS) orientation.
        plane: "axial", "coronal" or "sagittal".
        index: the slice along z, y or x.

    Returns:
        Pixels [row, column], row 0 on top. Axial: right-left, anterior-posterior; coronal: right-left,
        superior-inferior; sagittal: anterior-posterior, superior-inferior.
    """
    pixels = np.take(array, index, axis=PLANES.index(plane))
    return pixels if plane == "axial" else pixels[::-1]


def informative_slices(reference: np.ndarray, otherwise: Sequence[np.ndarray | None] = ()) -> tuple[int, int, int]:
    """Finds along each axis the slice with most organ voxels; of equal ones the one nearest to their middle.

    Args:
        reference: organ numbers [z, y, x].
        otherwise: what to look at, in turn, if the reference is empty.

    Returns:
        One index along each of z, y, x; the middle of the volume if nothing is labelled anywhere.
    """
    labelled = next((part for part in (reference, *otherwise) if part is not None and part.any()), None)
    if labelled is None:
        z, y, x = (side // 2 for side in reference.shape)
        return z, y, x
    z, y, x = (_fullest(np.count_nonzero(labelled, axis=others)) for others in ((1, 2), (0, 2), (0, 1)))
    return z, y, x


def _fullest(counts: np.ndarray) -> int:
    ties = np.flatnonzero(counts == counts.max())
    return int(ties[(len(ties) - 1) // 2])


def field_of_view(
    labels: Sequence[np.ndarray | None], spacing: Sequence[float], margin_mm: float = MARGIN_MM
) -> tuple[slice, slice, slice]:
    """Finds the part of a volume that is worth showing: everything labelled and a margin around it.

    Args:
        labels: organ numbers [z, y, x] of the reference and of the predictions, at least one of them given.
        spacing: mm along z, y, x.
        margin_mm: how much is kept on every side.

    Returns:
        One slice along each axis; the whole volume if nothing is labelled.
    """
    masks = [part > 0 for part in labels if part is not None]
    anything = np.logical_or.reduce(masks)
    box = []
    for axis, step in enumerate(spacing):
        line = np.flatnonzero(anything.any(axis=tuple({0, 1, 2} - {axis})))
        margin = int(np.ceil(margin_mm / step))
        box.append(slice(max(0, line[0] - margin), int(line[-1]) + margin + 1) if line.size else slice(None))
    z, y, x = box
    return z, y, x


def overlay_figure(picture: Picture, runs: Sequence[str], notes: Sequence[str]) -> Figure:
    """Draws one case: the reference in the first row, one row per run beneath.

    Args:
        picture: the case.
        runs: the runs' names.
        notes: what to say beside each run's name, such as its DSC.

    Returns:
        The figure; columns are the axial, the coronal and the sagittal slice.
    """
    picture = _cropped(picture)
    slices = informative_slices(picture.reference, picture.predictions)
    size = [side * step for side, step in zip(picture.image.shape, picture.spacing, strict=True)]
    scale = min((WIDTH_IN - 2 * GAP_IN) / (2 * size[2] + size[1]), TALLEST_IN / max(size[:2]))
    tall = max(size[:2]) * scale
    pictured = [True, *(prediction is not None for prediction in picture.predictions)]
    figure = Figure(figsize=(WIDTH_IN, tall * sum(pictured) + HEAD_IN * len(pictured) + 0.05))
    bottom = float(figure.get_figheight())
    for row, (title, note) in enumerate(zip(["Reference", *runs], ["", *notes], strict=True)):
        _head(figure, bottom - HEAD_IN * 0.6, row - 1, title, note)
        bottom -= HEAD_IN + tall * pictured[row]
        if not pictured[row]:
            continue
        panels = [make_panel(figure, area) for area in _areas(size, scale, bottom, tall)]
        for axis, panel in enumerate(panels):
            _slice(panel, axis, slices[axis], picture, None if row == 0 else picture.predictions[row - 1])
        if row == 0:
            _label(panels)
    return figure


def _cropped(picture: Picture) -> Picture:
    box = field_of_view((picture.reference, *picture.predictions), picture.spacing)
    predictions = tuple(None if labels is None else labels[box] for labels in picture.predictions)
    return replace(picture, image=picture.image[box], reference=picture.reference[box], predictions=predictions)


def _slice(panel: Axes, axis: int, index: int, picture: Picture, prediction: np.ndarray | None) -> None:
    """Draws one panel: a prediction's outlines over the pale reference, or the reference alone."""
    plane = PLANES[axis]
    step = [side for other, side in enumerate(picture.spacing) if other != axis]
    reference = view(picture.reference, plane, index)
    draw_image(panel, view(picture.image, plane, index), step, picture.window)
    if prediction is None:
        fill_organs(panel, reference, step, 0.5)
        outline_organs(panel, reference, step, 0.9)
    else:
        fill_organs(panel, reference, step, 0.3)
        outline_organs(panel, view(prediction, plane, index), step, 1.3)
    for text, (across, along, x, y) in zip(MARKS[plane], SIDES, strict=True):
        write_on(panel, x, y, text, across, along)


def _label(panels: Sequence[Axes]) -> None:
    """Names the planes and adds the scale, once per figure."""
    for plane, panel in zip(PLANES, panels, strict=True):
        write_on(panel, 0.015, 0.985, plane, "left", "top")
    draw_scale_bar(panels[0])


def _areas(size: Sequence[float], scale: float, bottom: float, tall: float) -> list[tuple[float, float, float, float]]:
    """Left, bottom, width and height in inches of the three panels of a row, which is centred as a whole."""
    z, y, x = (side * scale for side in size)
    sizes = ((x, y), (x, z), (y, z))
    left = (WIDTH_IN - sum(width for width, _ in sizes) - 2 * GAP_IN) / 2
    areas = []
    for width, height in sizes:
        areas.append((left, bottom + (tall - height) / 2, width, height))
        left += width + GAP_IN
    return areas


def make_panel(figure: Figure, area: tuple[float, float, float, float]) -> Axes:
    """Adds a panel without axes; `area` is left, bottom, width and height in inches."""
    width, height = figure.get_size_inches()
    left, bottom, wide, tall = area
    panel = figure.add_axes((left / width, bottom / height, wide / width, tall / height))
    panel.set_axis_off()
    return panel


def draw_image(panel: Axes, pixels: np.ndarray, step: Sequence[float], window: tuple[float, float]) -> None:
    """Shows the grey image; the axes count millimetres from the upper left corner.

    Args:
        panel: from `make_panel`.
        pixels: `[row, column]`, from `view`.
        step: mm along rows and columns.
        window: intensities shown as black and as white.
    """
    low, high = window
    grey = np.clip((np.nan_to_num(pixels.astype(np.float32), nan=low) - low) / (high - low), 0, 1)
    panel.imshow(grey, cmap="gray", vmin=0, vmax=1, extent=panel_extent(panel, pixels, step), interpolation="none")


def panel_extent(panel: Axes, pixels: np.ndarray, step: Sequence[float]) -> tuple[float, float, float, float]:
    """Has a panel count millimetres and returns where its pixels lie, as `imshow` takes it."""
    height, width = pixels.shape[0] * step[0], pixels.shape[1] * step[1]
    panel.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    return 0, width, height, 0


def _masks(labels: np.ndarray, step: Sequence[float]) -> list[tuple[str, np.ndarray, np.ndarray, np.ndarray]]:
    """Colour, x and y in mm, and mask of every organ in a slice; a rim of background closes every contour."""
    x = (np.arange(-1, labels.shape[1] + 1) + 0.5) * step[1]
    y = (np.arange(-1, labels.shape[0] + 1) + 0.5) * step[0]
    padded = np.pad(labels, 1)
    return [(organ_colour(int(organ) - 1), x, y, padded == organ) for organ in np.unique(labels) if organ]


def fill_organs(panel: Axes, labels: np.ndarray, step: Sequence[float], alpha: float) -> None:
    """Fills every organ in a slice with its colour."""
    for colour, x, y, mask in _masks(labels, step):
        panel.contourf(x, y, mask.astype(np.float32), levels=[0.5, 1.5], colors=[colour], alpha=alpha)


def outline_organs(
    panel: Axes, labels: np.ndarray, step: Sequence[float], width: float, colour: str | None = None
) -> None:
    """Draws the outline of every organ in a slice, in its own colour or in one for all, `width` points wide."""
    for own, x, y, mask in _masks(labels, step):
        panel.contour(x, y, mask.astype(np.float32), levels=[0.5], colors=[colour or own], linewidths=width)


def write_on(panel: Axes, x: float, y: float, text: str, across: str, along: str) -> None:
    """Writes in white on a dark patch; x and y are fractions of the panel."""
    shade = {"facecolor": "black", "alpha": 0.5, "edgecolor": "none", "pad": 1.5}
    panel.text(
        *(x, y, text),
        transform=panel.transAxes,
        ha=across,
        va=along,
        color="white",
        fontsize=7.5,
        bbox=shade,
        clip_on=True,
    )


def draw_scale_bar(panel: Axes, unit: str = "mm") -> None:
    """Draws the longest round length that fits into a third of the panel."""
    width, height = panel.get_xlim()[1], panel.get_ylim()[0]
    length = max((mm for mm in (1, 2, 5, 10, 20, 50, 100, 200) if mm <= width / 3), default=1)
    right, level = width * 0.97, height * 0.96
    panel.plot([right - length, right], [level, level], color="white", linewidth=2, solid_capstyle="butt")
    write_on(panel, right / width, 1 - (level / height - 0.02), f"{length} {unit}", "right", "bottom")


def _head(figure: Figure, level: float, run: int, name: str, note: str) -> None:
    """Writes a row's heading: the run's line (the reference has none), its name and a note."""
    width, height = figure.get_size_inches()
    left = 0.02
    if run >= 0:
        ends = ([left / width, (left + 0.32) / width], [level / height, level / height])
        line = Line2D(*ends, color=run_colour(run), linewidth=2.2)
        if run_dashes(run):
            line.set_dashes(run_dashes(run))
        figure.add_artist(line)
        left += 0.42
    short = name if len(name) <= 48 else name[:23] + "…" + name[-24:]
    for x, across, text, colour, weight in (
        (left, "left", short, INK, "bold"),
        (width - 0.02, "right", note, FAINT, "normal"),
    ):
        style = {"fontsize": 9, "color": colour, "fontweight": weight, "parse_math": False}
        figure.add_artist(Text(x / width, level / height, text, ha=across, va="center", **style))
