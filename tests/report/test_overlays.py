import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from ars_jax.data.geometry import Geometry
from ars_jax.data.plan import Plan
from ars_jax.data.volumes import Volume, canonical, read_volume, write_volume
from ars_jax.report.overlays import (
    PLANES,
    Picture,
    choose_cases,
    display_window,
    field_of_view,
    informative_slices,
    overlay_figure,
    view,
)
from ars_jax.report.style import organ_colour

SPACING = (4.0, 2.0, 1.0)
SHAPE = (10, 20, 40)
# x to the patient's Right, y to Anterior, z to Inferior: the opposite of the canonical orientation on every axis.
FLIPPED = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, -1.0)
# Array axes x, z, y instead of z, y, x (each column is the unit step of one array axis).
TURNED = (0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0)


def marked_at(point_mm: tuple[float, float, float], direction: tuple[float, ...]) -> Volume:
    """A label map whose only marker lies around a physical point (LPS, z, y, x order)."""
    steps = np.reshape(direction, (3, 3)) * SPACING
    origin = -0.5 * steps @ SHAPE
    geometry = Geometry(SHAPE, SPACING, (origin[0], origin[1], origin[2]), direction)
    index = np.rint(np.linalg.solve(steps, point_mm - origin)).astype(int)
    array = np.zeros(SHAPE, np.uint8)
    array[tuple(slice(max(0, i - 1), i + 2) for i in index)] = 1
    return Volume(array, geometry)


def middle(mask: np.ndarray) -> tuple[float, float]:
    """Centre of a mask as fractions of height (from the top) and width (from the left)."""
    rows, columns = np.nonzero(mask)
    return rows.mean() / mask.shape[0], columns.mean() / mask.shape[1]


@pytest.mark.parametrize("direction", [(1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0), FLIPPED, TURNED])
def test_patients_left_is_right_and_superior_and_anterior_are_up(direction: tuple[float, ...], tmp_path: Path) -> None:
    # 5 mm to Superior, 4 mm to Anterior (y grows to Posterior) and 5 mm to the patient's Left.
    write_volume(tmp_path / "marker.nrrd", marked_at((5.0, -4.0, 5.0), direction))
    labels = canonical(read_volume(tmp_path / "marker.nrrd")).array
    axial, coronal, sagittal = (
        middle(view(labels, plane, index)) for plane, index in zip(PLANES, informative_slices(labels), strict=True)
    )
    assert axial[0] < 0.5 < axial[1]
    assert coronal[0] < 0.5 < coronal[1]
    assert sagittal[0] < 0.5
    assert sagittal[1] < 0.5


def drawn(picture: Picture) -> tuple[np.ndarray, list[tuple[float, float, float, float]]]:
    """The figure's pixels [row, column, 3] in 0 to 1 and its panels as left, bottom, right, top fractions."""
    figure = overlay_figure(picture, ["run"], [""])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255, [panel.get_position().extents for panel in figure.axes]


def picture_of(labels: np.ndarray, spacing: tuple[float, float, float] = SPACING) -> Picture:
    return Picture(np.zeros(labels.shape, np.float32), labels, (labels,), spacing, (0.0, 1.0))


def test_drawn_marker_lies_where_it_belongs() -> None:
    labels = np.zeros((20, 40, 40), np.uint8)
    labels[14:17, 5:9, 28:36] = 1
    spacing = (3.0, 2.0, 1.0)
    pixels, panels = drawn(picture_of(labels, spacing))
    box = field_of_view([labels], spacing)
    expected = [np.argwhere(labels[box])[:, axis].mean() + 0.5 for axis in range(3)]
    z, y, x = (place / side for place, side in zip(expected, labels[box].shape, strict=True))
    coloured = np.abs(pixels - to_rgb(organ_colour(0))).sum(axis=2) < 0.05
    height, width = coloured.shape
    for (left, bottom, right, top), (row, column) in zip(panels[3:], ((y, x), (1 - z, x), (1 - z, y)), strict=True):
        panel = coloured[int((1 - top) * height) : int((1 - bottom) * height), int(left * width) : int(right * width)]
        assert middle(panel) == pytest.approx((row, column), abs=0.02)


def test_image_and_labels_lie_on_each_other() -> None:
    labels = np.zeros((20, 40, 40), np.uint8)
    labels[14:17, 5:9, 28:36] = 1
    bright = np.where(labels == 1, 1.0, 0.3).astype(np.float32)
    pixels, panels = drawn(replace(picture_of(labels, (3.0, 2.0, 1.0)), image=bright, predictions=(0 * labels,)))
    height, width = pixels.shape[:2]
    for left, bottom, right, top in panels[3:]:
        edges = int((1 - top) * height), int((1 - bottom) * height), int(left * width), int(right * width)
        panel = pixels[edges[0] : edges[1], edges[2] : edges[3]]
        coloured = panel[..., 0] - panel[..., 2] > 0.2
        # Pale orange over white keeps a full red channel; over the grey around it would not.
        assert panel[coloured][:, 0].mean() > 0.9
        assert coloured.sum() > 200


def test_panels_have_the_aspect_of_the_body() -> None:
    labels = np.ones((10, 20, 40), np.uint8)
    figure = overlay_figure(picture_of(labels, (5.0, 3.0, 2.0)), ["run"], [""])
    width, height = figure.get_size_inches()
    sides = [(panel.get_position().width * width, panel.get_position().height * height) for panel in figure.axes[:3]]
    millimetre = sides[0][0] / 80
    assert np.allclose(np.array(sides) / millimetre, [(80, 60), (80, 50), (60, 50)])


def test_slices_go_through_most_of_the_reference() -> None:
    reference = np.zeros((8, 9, 10), np.uint8)
    reference[2, 3:6, 4:8] = 1
    reference[3, 4, 5] = 2
    assert informative_slices(reference) == (2, 4, 5)


def test_empty_reference_is_looked_at_through_the_prediction_or_the_middle() -> None:
    empty = np.zeros((8, 9, 10), np.uint8)
    prediction = empty.copy()
    prediction[1, 2, 3] = 1
    assert informative_slices(empty, [None, prediction]) == (1, 2, 3)
    assert informative_slices(empty, [None]) == (4, 4, 5)


def test_field_of_view_keeps_everything_labelled_and_a_margin() -> None:
    reference, prediction = np.zeros((2, 40, 40, 40), np.uint8)
    reference[20, 20, 20] = 1
    prediction[25, 20, 2] = 1
    assert field_of_view([reference, None, prediction], (1.0, 2.0, 4.0), 8.0) == (
        slice(12, 34),
        slice(16, 25),
        slice(0, 23),
    )
    assert field_of_view([np.zeros((4, 4, 4))], (1.0, 1.0, 1.0)) == (slice(None),) * 3


def test_worst_median_and_best_do_not_depend_on_the_order() -> None:
    means = {"d": 0.5, "a": 0.9, "c": 0.5, "b": 0.7, "e": math.nan}
    expected = {"worst": "c", "median": "d", "best": "a"}
    assert choose_cases(means) == expected
    assert choose_cases(dict(reversed(means.items()))) == expected


def test_few_cases_are_each_shown_once() -> None:
    assert choose_cases({}) == {}
    assert choose_cases({"a": 0.3}) == {"only": "a"}
    assert choose_cases({"a": 0.3, "b": 0.2}) == {"worst": "b", "best": "a"}


def test_window_is_the_plans_or_the_percentiles() -> None:
    image = np.linspace(0, 1000, 10_001).reshape(1, 1, -1)
    assert display_window(image, Plan(labels=("a",), intensity="window", window=(-5.0, 7.0))) == (-5.0, 7.0)
    assert display_window(image, Plan(labels=("a",))) == pytest.approx((10.0, 990.0))
    low, high = display_window(np.full((2, 2, 2), 3.0), Plan(labels=("a",)))
    assert high > low


def test_run_without_prediction_has_a_heading_and_no_panels() -> None:
    labels = np.ones((4, 4, 4), np.uint8)
    picture = Picture(labels.astype(np.float32), labels, (None, labels), (1.0, 1.0, 1.0), (0.0, 1.0))
    figure = overlay_figure(picture, ["young", "old"], ["not evaluated", ""])
    assert len(figure.axes) == 6
    texts = [artist.get_text() for artist in figure.artists if isinstance(artist, Text)]
    assert {"young", "old", "not evaluated"} <= set(texts)
