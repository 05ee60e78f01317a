"""The figures of gradients: what is drawn where, in which colours, and that nothing leaves the paper."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from ars_jax.errors import UserError
from ars_jax.report.gradients import RegionPanel, gradient_figure, regions_figure
from ars_jax.report.overlays import Picture
from ars_jax.report.phase import Weights, phase_figure
from ars_jax.report.style import WIDTH_IN, save_figure

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
        shown = np.ma.getmaskarray(np.ma.asarray(panel.images[1].get_array()))
        assert 0 < shown.sum() < shown.size
        assert len(panel.lines) >= 2
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
        assert np.min(dots.get_xdata()) == pytest.approx(0.01)
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
