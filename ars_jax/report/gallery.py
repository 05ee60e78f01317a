"""One slice of one case as every arm of an experiment segments it, beside the reference."""

import textwrap
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

from ars_jax.report.bands import slug
from ars_jax.report.cases import load_picture
from ars_jax.report.gradients import draw_keys
from ars_jax.report.overlays import (
    MARKS,
    SIDES,
    Picture,
    choose_cases,
    draw_image,
    draw_scale_bar,
    field_of_view,
    fill_organs,
    informative_slices,
    make_panel,
    outline_organs,
    view,
    write_on,
)
from ars_jax.report.results import Arm
from ars_jax.report.runs import organs_of
from ars_jax.report.seed_curves import mean_case_dsc, median_trial
from ars_jax.report.seeds import evaluation_of
from ars_jax.report.style import FAINT, INK, NORMAL, SMALL, WIDTH_IN, organ_colour
from ars_jax.report.tables import case_means

GAP_IN = 0.06
TALLEST_IN = 2.8
LINE_IN = 0.145
LETTERS_PER_INCH = 15.5
"""Of the titles' size."""
REGIONAL = ("baseline+region_specific", "baseline+adaptive_region_specific")


def overlay_figures(arms: Sequence[Arm]) -> Iterator[tuple[str, Figure]]:
    """Draws the worst, the median and the best case of the first regional arm (else of the first), by mean over seeds.

    Args:
        arms: of an experiment, with whole seeds. Of each the median seed by DSC is shown.

    Yields:
        Name of a file and its figure, one case after the other; none where nothing was scored.

    Raises:
        UserError: the volumes of a case cannot be read.
    """
    finished = [arm for arm in arms if arm.trials]
    chooser = next((arm for arm in finished if arm.objective in REGIONAL), next(iter(finished), None))
    if chooser is None:
        return
    for rank, case in choose_cases(mean_case_dsc(chooser)).items():
        yield f"overlays_{slug(case)}", _case_figure(case, f"{rank} case of {chooser.name}", finished, chooser)


def _case_figure(case: str, rank: str, arms: Sequence[Arm], chooser: Arm) -> Figure:
    shown = [(arm, trial) for arm in arms if (trial := median_trial(arm, case))]
    runs = [trial.run for _, trial in shown]
    picture = load_picture(case, runs, next(trial.run for arm, trial in shown if arm is chooser))
    notes = [f"DSC {case_means(evaluation_of(trial))[case]:.3f}, seed {trial.seed}" for _, trial in shown]
    heading = f"{case}, {rank}; DSC: mean over organs of this case, median seed of each arm"
    return slice_figure(picture, organs_of(runs), heading, [arm.name for arm, _ in shown], notes)


def slice_figure(
    picture: Picture, organs: Sequence[str], heading: str, arms: Sequence[str], notes: Sequence[str]
) -> Figure:
    """Draws the axial slice with most of the reference once for the reference and once for every prediction.

    Args:
        picture: the case with one prediction per arm.
        organs: names of the organ numbers 1, 2, ...
        heading: above all.
        arms: what stands above each prediction.
        notes: what stands below each prediction.

    Returns:
        The figure; predictions are outlines over the pale reference. It is cut to what is labelled in the slice.
    """
    image, labels, step = _cut(picture)
    columns, wide, tall = _panel_size(1 + len(arms), image.shape[0] * step[0], image.shape[1] * step[1])
    titles = [textwrap.wrap(name, int(WIDTH_IN / columns * LETTERS_PER_INCH)) or [""] for name in ("Reference", *arms)]
    keys = _organ_keys(labels, organs)
    head, foot = LINE_IN * max(map(len, titles)) + 0.04, LINE_IN + 0.04
    rows = -(-len(titles) // columns)
    top, bottom = LINE_IN + 0.06, 0.02 + 0.17 * -(-len(keys) // 6)
    figure = Figure(figsize=(WIDTH_IN, top + rows * (head + tall + foot) + bottom))
    level = float(figure.get_figheight()) - top
    _write(figure, GAP_IN, level + top - LINE_IN * 0.75, heading, NORMAL, INK, "left")
    for place, (title, note) in enumerate(zip(titles, ["", *notes], strict=True)):
        kept = labels[place] is not None
        row, column = divmod(place, columns)
        middle = (column + 0.5) * WIDTH_IN / columns
        below = level - row * (head + tall + foot) - head - tall
        panel = make_panel(figure, (middle - wide / 2, below, wide, tall))
        _draw(panel, image, labels[0], labels[place] if place else None, step, picture.window)
        _write(figure, middle, below + tall + head / 2, "\n".join(title), NORMAL, INK)
        _write(figure, middle, below - foot / 2, note if kept else f"{note}, no prediction kept", SMALL, INK)
        if place == 0:
            _mark(panel)
    draw_keys(figure, keys)
    return figure


def _cut(picture: Picture) -> tuple[np.ndarray, list[np.ndarray | None], tuple[float, float]]:
    """The slice's pixels of the image, of the reference and of each prediction, and mm per row and column."""
    index = informative_slices(picture.reference, picture.predictions)[0]
    within = [None if part is None else part[index : index + 1] for part in (picture.reference, *picture.predictions)]
    box = field_of_view(within, picture.spacing)[1:]
    image, *labels = (
        None if part is None else view(part, "axial", index)[box]
        for part in (picture.image, picture.reference, *picture.predictions)
    )
    assert image is not None
    return image, labels, picture.spacing[1:]


def _panel_size(count: int, tall_mm: float, wide_mm: float) -> tuple[int, float, float]:
    """Columns, and width and height of a panel in inches: few empty places, and few rows."""
    choices = (max(count, 2),) if count < 5 else (4, 3, 5) if count < 13 else (5, 6)
    columns = min(choices, key=lambda columns: -count % columns)
    scale = min((WIDTH_IN / columns - GAP_IN) / wide_mm, TALLEST_IN / tall_mm)
    return columns, wide_mm * scale, tall_mm * scale


def _draw(
    panel: Axes,
    image: np.ndarray,
    reference: np.ndarray | None,
    prediction: np.ndarray | None,
    step: Sequence[float],
    window: tuple[float, float],
) -> None:
    """Draws a prediction's outlines over the pale reference, or the reference alone."""
    draw_image(panel, image, step, window)
    if reference is not None:
        fill_organs(panel, reference, step, 0.5 if prediction is None else 0.35)
    if prediction is not None:
        outline_organs(panel, prediction, step, 1.0)


def _mark(panel: Axes) -> None:
    for text, (across, along, x, y) in zip(MARKS["axial"], SIDES, strict=True):
        write_on(panel, x, y, text, across, along)
    draw_scale_bar(panel)


def _organ_keys(labels: Sequence[np.ndarray | None], organs: Sequence[str]) -> list[Patch | Line2D]:
    numbers = sorted({int(number) for part in labels if part is not None for number in np.unique(part)} - {0})
    keys = [Patch(color=organ_colour(n - 1), label=organs[n - 1]) for n in numbers]
    style = [Patch(color=FAINT, alpha=0.4, label="reference"), Line2D([], [], color=FAINT, label="prediction")]
    return [*keys, *style]


def _write(figure: Figure, x: float, y: float, text: str, size: float, colour: str, across: str = "center") -> None:
    """Writes at a place in inches from the lower left corner."""
    width, height = figure.get_size_inches()
    style = {"fontsize": size, "color": colour, "ha": across, "va": "center", "parse_math": False}
    figure.add_artist(Text(x / width, y / height, text, **style))
