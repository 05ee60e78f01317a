"""The figures of gradients: what is drawn where, in which colours, and that nothing leaves the paper."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from ars_jax.errors import UserError
from ars_jax.report.gradients import CONTOUR, HALO, PREDICTION, REFERENCE, RegionPanel, gradient_figure, regions_figure
from ars_jax.report.overlays import PLANES, Picture
from ars_jax.report.phase import Weights, phase_figure
from ars_jax.report.style import ORGAN_COLOURS, WIDTH_IN, organ_colour, save_figure

SHAPE = (12, 20, 24)
SPACING = (3.0, 2.0, 2.0)


def picture(shape: tuple[int, int, int] = SHAPE, organs: int = 2) -> Picture:
    """Boxes for organs, one beside the other, each predicted a voxel too far."""
    reference = np.zeros(shape, np.uint8)
    for organ in range(organs):
        first = 6 + 3 * (organ % 2)
        reference[shape[0] // 3 : shape[0] // 3 + 4, first : first + 3, 2 * organ : 2 * organ + 2] = organ + 1
    image = np.random.default_rng(0).normal(0, 100, shape).astype(np.float32)
    return Picture(image, reference, (np.roll(reference, 1, 2),), SPACING, (-200.0, 400.0))


def assert_on_paper(figure: Figure) -> None:
    """Everything that is drawn lies within the figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = figure.get_tightbbox(canvas.get_renderer())
    width, height = figure.get_size_inches()
    assert -0.01 <= box.x0 <= box.x1 <= width + 0.01
    assert -0.01 <= box.y0 <= box.y1 <= height + 0.01


def heat(figure: Figure) -> list[np.ndarray]:
    """The colours that lie over the image in each heat panel."""
    return [np.asarray(panel.images[1].get_array()) for panel in figure.axes if len(panel.images) == 2]


def outlines(panel: Axes) -> list[tuple[str, float]]:
    """Colour and left end in mm of every line around a mask, in the order of drawing."""
    lines = [part for part in panel.collections if not len(np.atleast_1d(part.get_facecolor()))]
    return [(colour_of(part.get_edgecolor()), left_of(part)) for part in lines]


def fills(panel: Axes) -> list[tuple[str, float]]:
    parts = [part for part in panel.collections if len(np.atleast_1d(part.get_facecolor()))]
    return [(colour_of(part.get_facecolor()), left_of(part)) for part in parts]


def colour_of(colours: Any) -> str:
    return to_hex(np.asarray(colours)[0][:3]).upper()


def left_of(part: Any) -> float:
    return min(path.get_extents().x0 for path in part.get_paths() if len(path.vertices))


def test_contours_have_the_colours_of_what_they_surround() -> None:
    """Reference filled and prediction outlined in the organ's colour; over the gradient the reference in white.

    The prediction lies one voxel, 2 mm, to the right.
    """
    scene = picture(organs=1)
    figure = gradient_figure(scene, ("One",), {"a": np.ones(SHAPE)}, {"a": ""})
    cases, heats = ([panel for panel in figure.axes if len(panel.images) == count] for count in (1, 2))
    assert (len(cases), len(heats)) == (3, 3)
    for plane, case, hot in zip(PLANES, cases, heats, strict=True):
        ((filled, left),) = fills(case)
        assert filled == organ_colour(0)
        # The sagittal slice is the first of the organ's two, which the prediction has left.
        moved = [] if plane == "sagittal" else [(organ_colour(0), pytest.approx(left + 2))]
        assert outlines(case) == moved
        assert outlines(hot) == [(HALO, pytest.approx(left)), (CONTOUR, pytest.approx(left))]
    assert CONTOUR not in ORGAN_COLOURS


def test_only_organs_in_the_slices_have_keys() -> None:
    """The third organ lies outside of the slices with most of the first."""
    scene = picture(organs=1)
    reference = scene.reference.copy()
    reference[0, 0, -1] = 3
    figure = gradient_figure(
        replace(scene, reference=reference), ("One", "Two", "Three"), {"a": np.ones(SHAPE)}, {"a": ""}
    )
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["One", "reference"]


def test_gradients_are_drawn_where_they_are_on_one_scale() -> None:
    """A voxel that takes all of one objective's gradient is the brightest; the other objective's is darker."""
    scene = picture()
    sharp, broad = np.full(SHAPE, 1e-6), np.full(SHAPE, 1e-6)
    sharp[scene.reference > 0], broad[scene.reference > 0] = 5.0, 0.5
    figure = gradient_figure(scene, ("One", "Two"), {"sharp": sharp, "broad": broad}, {"sharp": "90%", "broad": "50%"})
    panels = heat(figure)
    assert len(panels) == 2 * 3
    for bright, dark in zip(panels[::2], panels[1::2], strict=True):
        assert (bright[..., 3] > 0).sum() == (dark[..., 3] > 0).sum() > 0
        assert bright[..., :3].sum(-1).max() > dark[..., :3].sum(-1).max() + 0.3
    assert figure.get_figwidth() == WIDTH_IN
    assert_on_paper(figure)


@pytest.mark.parametrize("organs", [1, 5, 12])
def test_many_organs_fit_into_the_legend(organs: int) -> None:
    names = tuple(f"Submandibular_{organ}" for organ in range(organs))
    figure = gradient_figure(picture(organs=organs), names, {"a": np.ones(SHAPE)}, {"a": "100%"})
    assert_on_paper(figure)
    assert len(figure.legends[0].get_texts()) == organs + 1


def test_a_single_slice_has_one_row() -> None:
    scene = picture((1, *SHAPE[1:]))
    figure = gradient_figure(scene, ("One", "Two"), {"a": np.ones(scene.image.shape)}, {"a": ""})
    assert len(heat(figure)) == 1


@pytest.mark.parametrize("unit", ["mm", "voxels"])
def test_headings_do_not_run_into_each_other(unit: str) -> None:
    """With the longest names and notes that the laboratory gives; the unit stands at scale bar and colour bar."""
    names = ("Dice + cross-entropy", "region-specific", "adaptive region-specific")
    notes: dict[str, str] = {name: f"100% at a boundary (3 {unit})" for name in names}
    figure = gradient_figure(picture(), ("One", "Two"), dict.fromkeys(names, np.ones(SHAPE)), notes, unit)
    assert_on_paper(figure)
    canvas = FigureCanvasAgg(figure)
    boxes = [part.get_window_extent(canvas.get_renderer()) for part in figure.artists if isinstance(part, Text)]
    assert len(boxes) == 2 * (1 + len(names))
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    written = [text.get_text() for panel in figure.axes for text in panel.texts]
    assert any(text.endswith(f" {unit}") for text in written)
    volume = "ml" if unit == "mm" else "voxel"
    assert any(panel.get_ylabel().endswith(f"per {volume}") for panel in figure.axes)


def test_nothing_labelled_and_no_gradient_still_make_a_figure() -> None:
    empty = Picture(np.zeros(SHAPE), np.zeros(SHAPE, np.uint8), (np.zeros(SHAPE, np.uint8),), SPACING, (0.0, 1.0))
    figure = gradient_figure(empty, (), {"a": np.zeros(SHAPE)}, {"a": ""})
    assert all(not panel[..., 3].any() for panel in heat(figure))


def test_regions_without_a_value_are_left_open() -> None:
    """Eight panels of an organ's regions, their borders drawn, colours only where there are values."""
    scene = picture()
    numbers = np.arange(8).reshape(2, 2, 2).repeat(6, 0).repeat(10, 1).repeat(12, 2).astype(float)
    values = np.where(numbers == 0, 0.5, np.nan)
    panels = [RegionPanel(f"quantity {k}", values, (0.0, 1.0)) for k in range(7)] + [RegionPanel("marks", values)]
    figure = regions_figure(scene, 1, "One", panels, numbers)
    places = [panel for panel in figure.axes if len(panel.images) == 2]
    assert [panel.get_title() for panel in places] == [panel.title for panel in panels]
    for panel in places:
        (_, left), (reference, at), (_, _), (prediction, beside) = outlines(panel)
        assert (reference, prediction) == (REFERENCE, PREDICTION)
        assert (at, beside) == (pytest.approx(left), pytest.approx(left + 2))
        shown = np.ma.getmaskarray(np.ma.asarray(panel.images[1].get_array()))
        assert 0 < shown.sum() < shown.size
        assert len(panel.lines) >= 2
    assert_on_paper(figure)


def test_regions_that_reward_errors_are_blue_and_hatched() -> None:
    """Of four regions in the slice one has a negative weight; panels without a sign have no hatching."""
    numbers = np.arange(4).reshape(1, 2, 2).repeat(12, 0).repeat(10, 1).repeat(12, 2).astype(float)
    values = np.choose(numbers.astype(int), [-0.1, 0.0, 0.3, 0.7])
    panels = [RegionPanel("weight", values, (-0.1, 0.7), signed=True), RegionPanel("other", values, (-0.1, 0.7))]
    figure = regions_figure(picture(), 1, "One", panels, numbers)
    signed, other = (panel for panel in figure.axes if len(panel.images) == 2)
    (hatched,) = (patch for patch in signed.patches if isinstance(patch, Rectangle))
    assert hatched.get_hatch()
    assert hatched.get_bbox().bounds == (0, 0, 24, 20)
    assert not other.patches
    red, _, blue, _ = np.asarray(signed.images[1].to_rgba(np.array([[-0.1, 0.0, 0.7]])))[0].T
    assert blue[0] > red[0] + 0.2
    assert min(red[1], blue[1]) > 0.9
    assert red[2] > blue[2] + 0.2
    assert "negative: errors are rewarded" in [text.get_text() for text in figure.legends[0].get_texts()]
    assert_on_paper(figure)


def weights(mode: str, negative: bool) -> Weights:
    errors, share = np.geomspace(0.01, 1000, 31), np.linspace(0, 1, 21)
    plane = errors[:, None] / (errors + errors[:, None])
    low, high = (-0.1, 0.7) if negative else (0.3, 0.7)
    along = np.stack([high + (low - high) * share, low + (high - low) * share])
    return Weights(mode, errors, high + (low - high) * plane, low + (high - low) * plane, share, along)


CASE = (np.array([1.0, 0.0, 5.0]), np.array([30.0, 2.0, 0.0]))


@pytest.mark.parametrize("regions", [None, CASE], ids=["bare", "case"])
def test_the_phase_diagram_marks_the_zero_line_where_there_is_one(regions: Any) -> None:
    """Only the mode with negative weights has a black line and hatching; regions outside are drawn at the edge."""
    figure = phase_figure([weights("through", True), weights("stop", False)], regions, 0.935)
    planes = [panel for panel in figure.axes if panel.get_xscale() == "log"]
    assert len(planes) == 4
    # Beside the colours there are the hatching and the line.
    assert [len(panel.collections) for panel in planes] == [3, 3, 1, 1]
    for panel in planes if regions is not None else []:
        (dots,) = panel.lines
        np.testing.assert_allclose(np.asarray(dots.get_xdata()), [1.0, 0.01, 5.0])
        np.testing.assert_allclose(np.asarray(dots.get_ydata()), [30.0, 2.0, 0.01])
    assert_on_paper(figure)


def test_figures_are_written_for_paper_and_screen(tmp_path: Path) -> None:
    """The same figure gives the same bytes; a place that cannot be written is told."""
    figure = phase_figure([weights("through", True)])
    written = save_figure(tmp_path / "a" / "phase", figure)
    assert [path.name for path in written] == ["phase.png", "phase.pdf"]
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["phase.pdf", "phase.png"]
    again = save_figure(tmp_path / "b" / "phase", phase_figure([weights("through", True)]))
    assert [path.read_bytes() for path in written] == [path.read_bytes() for path in again]
    assert b"%PDF" in written[1].read_bytes()[:8]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"phase\.png"):
        save_figure(tmp_path / "file" / "phase", figure)
