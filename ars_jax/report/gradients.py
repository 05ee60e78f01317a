"""Figures over the image: where each loss puts its gradient, and what happens in the regions of an organ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from ars_jax.report.overlays import (
    PLANES,
    Picture,
    draw_image,
    draw_scale_bar,
    field_of_view,
    fill_organs,
    informative_slices,
    make_panel,
    outline_organs,
    panel_extent,
    view,
    write_on,
)
from ars_jax.report.phase import signed_colours
from ars_jax.report.style import FAINT, INK, NORMAL, SMALL, WIDTH_IN, organ_colour

GAP_IN = 0.05
DECADES = 2.5
HEAT = colormaps["inferno"]
BACKDROP = 0.3
CONTOUR = "#FFFFFF"
KEYS_PER_ROW = 6
HALO = "#000000"
"""Around white lines, which no organ's colour is."""
HATCH = "//////"
PLANE_NAMES = {"mm": PLANES, "voxels": ("y, x", "z, x", "z, y")}
"""What lies in a plane of a volume, and in one of arrays that may be of anything."""
REFERENCE, PREDICTION = "#FFFFFF", "#FF9966"
EDGE = [withStroke(linewidth=2, foreground="#777777")]

Area = tuple[float, float, float, float]
"""Left, bottom, width and height in inches."""


@dataclass(frozen=True)
class RegionPanel:
    """One quantity of the regions of a class.

    Attributes:
        title: its name.
        values: of each voxel's region `[z, y, x]` where figures take it; NaN where the region has none.
        limits: lowest and highest colour; None for marks without a scale, whose value is 1.
        signed: whether colours tell values above 0 from those below, whose regions are hatched besides.
    """

    title: str
    values: np.ndarray
    limits: tuple[float, float] | None = None
    signed: bool = False


def gradient_figure(
    picture: Picture,
    organs: Sequence[str],
    densities: Mapping[str, np.ndarray],
    notes: Mapping[str, str],
    unit: str = "mm",
) -> Figure:
    """Draws where objectives put their gradient on one prediction, beside the image with reference and prediction.

    Args:
        picture: the case with one prediction.
        organs: names of the organ numbers 1, 2, ...
        densities: objective to the share of its total gradient in % per ml, `[z, y, x]`; one colour scale serves all.
        notes: objective to the line beneath its name.
        unit: of the picture's spacing: "mm", or "voxels", whose densities are % per voxel.

    Returns:
        The figure: a row per plane, one alone for a single slice, and a column per objective.
    """
    labelled = [picture.reference] if picture.reference.any() else [*picture.predictions]
    box = field_of_view(labelled, picture.spacing)
    picture, densities = _cut(picture, box), {name: density[box] for name, density in densities.items()}
    size = [side * step for side, step in zip(picture.image.shape, picture.spacing, strict=True)]
    planes = PLANES if picture.image.shape[0] > 1 else PLANES[:1]
    slices = informative_slices(picture.reference, picture.predictions)
    norm = _heat_norm([view(d, plane, slices[k]) for d in densities.values() for k, plane in enumerate(planes)])
    keys = _organ_keys(picture, organs, dict(zip(planes, slices, strict=False)))
    head, foot, right = 0.42, 0.12 + 0.17 * -(-len(keys) // KEYS_PER_ROW), 0.72
    columns = 1 + len(densities)
    wide = (WIDTH_IN - right) / columns - GAP_IN
    scale = wide / max(size[1:])
    tall = [side * scale for side in (size[1], size[0], size[0])[: len(planes)]]
    figure = Figure(figsize=(WIDTH_IN, head + foot + sum(tall) + GAP_IN * (len(planes) - 1)))
    top = float(figure.get_figheight()) - head
    for axis, plane in enumerate(planes):
        across = size[1 if plane == "sagittal" else 2] * scale
        for column, density in enumerate([None, *densities.values()]):
            left = column * (wide + GAP_IN) + (wide - across) / 2
            panel = make_panel(figure, (left, top - tall[axis], across, tall[axis]))
            if density is None:
                _draw_case(panel, picture, plane, slices[axis])
                write_on(panel, 0.02, 0.98, PLANE_NAMES[unit][axis], "left", "top")
            else:
                _draw_heat(panel, picture, view(density, plane, slices[axis]), norm, plane, slices[axis])
            if axis == column == 0:
                draw_scale_bar(panel, unit)
        top -= tall[axis] + GAP_IN
    for column, name in enumerate(["reference, prediction", *densities]):
        _head(figure, column * (wide + GAP_IN) + wide / 2, name, notes.get(name, "filled, outlined"))
    bar_area = (WIDTH_IN - right + 0.05, foot, 0.1, float(figure.get_figheight()) - head - foot)
    _heat_bar(figure, bar_area, norm, "ml" if unit == "mm" else "voxel")
    draw_keys(figure, keys)
    return figure


def _cut(picture: Picture, box: tuple[slice, slice, slice]) -> Picture:
    predictions = tuple(None if labels is None else labels[box] for labels in picture.predictions)
    return replace(picture, image=picture.image[box], reference=picture.reference[box], predictions=predictions)


def _step(picture: Picture, plane: str) -> list[float]:
    return [side for axis, side in enumerate(picture.spacing) if PLANES[axis] != plane]


def _heat_norm(pixels: Sequence[np.ndarray]) -> LogNorm:
    """One scale for all panels, up to the value that one pixel in a thousand exceeds."""
    values = np.concatenate([part.ravel() for part in pixels])
    highest = float(np.quantile(values, 0.999)) or float(values.max()) or 1.0
    return LogNorm(highest / 10**DECADES, highest, clip=True)


def _draw_case(panel: Axes, picture: Picture, plane: str, index: int) -> None:
    step = _step(picture, plane)
    draw_image(panel, view(picture.image, plane, index), step, picture.window)
    fill_organs(panel, view(picture.reference, plane, index), step, 0.4)
    for labels in picture.predictions:
        if labels is not None:
            outline_organs(panel, view(labels, plane, index), step, 0.9)


def _draw_heat(panel: Axes, picture: Picture, pixels: np.ndarray, norm: LogNorm, plane: str, index: int) -> None:
    """Lays the colours of the scale over the darkened image; its lowest quarter fades into it."""
    step = _step(picture, plane)
    low, high = picture.window
    image = np.minimum(view(picture.image, plane, index), high)
    draw_image(panel, image, step, (low, low + (high - low) / BACKDROP))
    place = np.ma.filled(norm(np.maximum(pixels, norm.vmin or 0)), 0)
    colours = HEAT(place)
    colours[..., 3] = np.clip(4 * place, 0, 1)
    panel.imshow(colours, extent=panel_extent(panel, pixels, step), interpolation="none")
    for width, colour in ((0.9, HALO), (0.4, CONTOUR)):
        outline_organs(panel, view(picture.reference, plane, index), step, width, colour)


def _head(figure: Figure, middle: float, title: str, note: str) -> None:
    """Writes a column's name and a line beneath it; `middle` is in inches."""
    width, height = figure.get_size_inches()
    for down, text, size, colour in ((0.11, title, NORMAL, INK), (0.29, note, SMALL, FAINT)):
        style = {"fontsize": size, "color": colour, "ha": "center", "va": "center", "parse_math": False}
        figure.add_artist(Text(middle / width, 1 - down / height, text, **style))


def _heat_bar(figure: Figure, area: Area, norm: LogNorm, volume: str) -> None:
    place = make_panel(figure, area)
    place.set_axis_on()
    bar = figure.colorbar(ScalarMappable(norm, HEAT), cax=place, extend="both", extendfrac=0.02)
    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.1g}"))
    bar.ax.tick_params(labelsize=SMALL, length=2)
    bar.set_label(f"gradient, % of all per {volume}", fontsize=NORMAL - 1, color=INK)


def _organ_keys(picture: Picture, organs: Sequence[str], drawn: Mapping[str, int]) -> list[Patch | Line2D]:
    """Keys of the organs that reference or prediction have in the slices that are drawn, and of the white contour."""
    labelled = [picture.reference, *(labels for labels in picture.predictions if labels is not None)]
    pixels = [view(labels, plane, index) for labels in labelled for plane, index in drawn.items()]
    numbers = sorted({int(number) for part in pixels for number in np.unique(part)} - {0})
    keys = [Patch(color=organ_colour(n - 1), label=organs[n - 1]) for n in numbers]
    return [*keys, Line2D([], [], color=CONTOUR, linewidth=1, label="reference", path_effects=EDGE)]


def draw_keys(figure: Figure, keys: Sequence[Patch | Line2D]) -> None:
    """Writes keys into the lower left corner of a figure.

    Args:
        figure: with room for a line of 0.17 inches per six keys.
        keys: in rows, from left to right.
    """
    rows = -(-len(keys) // KEYS_PER_ROW)
    columns = -(-len(keys) // rows)
    by_column = [key for column in range(columns) for key in keys[column::columns]]
    legend = figure.legend(
        handles=by_column,
        loc="lower left",
        bbox_to_anchor=(0, 0),
        ncols=columns,
        fontsize=SMALL,
        frameon=False,
        handlelength=1.2,
        handleheight=0.8,
        columnspacing=1.2,
        borderpad=0.2,
        labelcolor=INK,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def regions_figure(
    picture: Picture,
    organ: int,
    name: str,
    panels: Sequence[RegionPanel],
    regions: np.ndarray,
    plane: str = "axial",
    unit: str = "mm",
) -> Figure:
    """Draws quantities of one organ's regions over the image, four to a row.

    Args:
        picture: the case with one prediction.
        organ: its number.
        name: its name.
        panels: what to draw.
        regions: number of each voxel's region `[z, y, x]`, whose borders are drawn.
        plane: "axial", "coronal" or "sagittal"; the slice is the one with most of the organ.
        unit: of the picture's spacing, "mm" or "voxels".

    Returns:
        The figure, cut to the regions that have a value in every panel.
    """
    drawn = (picture.reference, *(labels for labels in picture.predictions if labels is not None))
    only = [np.where(labels == organ, labels, 0) for labels in drawn]
    index = informative_slices(only[0], only[1:])[PLANES.index(plane)]
    shared = np.logical_and.reduce([np.isfinite(content.values) for content in panels]) | (only[0] > 0)
    box = _slice_box(shared, plane, index, picture.spacing)
    step = _step(picture, plane)
    image, *labels = (view(part[box], plane, 0) for part in (picture.image, *only))
    columns, bar, head, foot = 4, 0.4, 0.22, 0.24
    rows = -(-len(panels) // columns)
    wide = WIDTH_IN / columns - 2 * GAP_IN
    tall = wide * image.shape[0] * step[0] / (image.shape[1] * step[1])
    figure = Figure(figsize=(WIDTH_IN, rows * (head + tall + bar) + foot))
    for place, content in enumerate(panels):
        row, column = divmod(place, columns)
        left = GAP_IN + column * (wide + 2 * GAP_IN)
        bottom = float(figure.get_figheight()) - (row + 1) * (head + tall) - row * bar
        panel = make_panel(figure, (left, bottom, wide, tall))
        draw_image(panel, image, step, picture.window)
        numbers = view(regions[box], plane, 0)
        _draw_regions(panel, content, view(content.values[box], plane, 0), numbers, step)
        _draw_borders(panel, numbers, step)
        for part, colour in zip(labels, (REFERENCE, PREDICTION), strict=False):
            outline_organs(panel, part, step, 2.0, "black")
            outline_organs(panel, part, step, 1.0, colour)
        panel.set_title(content.title, fontsize=NORMAL, color=INK, pad=3)
        if content.limits is not None:
            _flat_bar(figure, (left + 0.1 * wide, bottom - 0.13, 0.8 * wide, 0.07), content)
        if place == 0:
            write_on(panel, 0.02, 0.98, PLANE_NAMES[unit][PLANES.index(plane)], "left", "top")
            draw_scale_bar(panel, unit)
    hatch = [Patch(facecolor="none", edgecolor=INK, hatch=HATCH, linewidth=0.5, label="negative: errors are rewarded")]
    negative = any(content.signed and np.any(content.values[box] < 0) for content in panels)
    draw_keys(figure, [*_contour_keys(name), *(hatch if negative else [])])
    return figure


def _slice_box(mask: np.ndarray, plane: str, index: int, spacing: Sequence[float]) -> tuple[slice, slice, slice]:
    """One slice, cut to a mask and a margin."""
    axis = PLANES.index(plane)
    within = np.zeros_like(mask)
    within[(slice(None),) * axis + (index,)] = mask.take(index, axis)
    box = list(field_of_view([within], spacing, 15.0))
    box[axis] = slice(index, index + 1)
    return box[0], box[1], box[2]


def _colours(content: RegionPanel) -> tuple[str | ListedColormap, Normalize]:
    limits = content.limits or (0.0, 2.0)
    return signed_colours(*limits) if content.signed else ("viridis", Normalize(*limits))


def _draw_regions(
    panel: Axes, content: RegionPanel, pixels: np.ndarray, regions: np.ndarray, step: Sequence[float]
) -> None:
    colours, norm = _colours(content)
    shown = np.ma.masked_invalid(pixels)
    extent = panel_extent(panel, pixels, step)
    alpha = 0.9 if content.signed else 0.75
    panel.imshow(shown, cmap=colours, norm=norm, extent=extent, alpha=alpha, interpolation="none")
    for number in np.unique(regions[pixels < 0]) if content.signed else ():
        rows, columns = (np.flatnonzero((regions == number).any(axis)) for axis in (1, 0))
        corner = (columns[0] * step[1], rows[0] * step[0])
        size = (len(columns) * step[1], len(rows) * step[0])
        panel.add_patch(Rectangle(corner, *size, fill=False, hatch=HATCH, edgecolor=INK, linewidth=0.8))


def _draw_borders(panel: Axes, regions: np.ndarray, step: Sequence[float]) -> None:
    """Draws the lines of a grid of regions, which run through the whole slice."""
    for axis, draw in enumerate((panel.axhline, panel.axvline)):
        for index in np.flatnonzero((np.diff(regions, axis=axis) != 0).any(1 - axis)):
            draw((index + 1) * step[axis], color="white", linewidth=0.3, alpha=0.6)


def _flat_bar(figure: Figure, area: Area, content: RegionPanel) -> None:
    place = make_panel(figure, area)
    place.set_axis_on()
    colours, norm = _colours(content)
    bar = figure.colorbar(ScalarMappable(norm, colours), cax=place, orientation="horizontal")
    bar.ax.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    bar.ax.tick_params(labelsize=SMALL, length=2, pad=1.5)


def _contour_keys(name: str) -> list[Patch | Line2D]:
    return [
        Line2D([], [], color=REFERENCE, linewidth=1.2, label=f"{name}, reference", path_effects=EDGE),
        Line2D([], [], color=PREDICTION, linewidth=1.2, label=f"{name}, prediction"),
    ]
