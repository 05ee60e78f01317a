"""Colours, line styles and the way figures are turned into pictures inside the page."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ars_jax.files import written_atomically

# Okabe and Ito's colours, which people with any colour vision can tell apart; yellow is too pale for a line on white.
RUN_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
RUN_DASHES = ((), (5.0, 2.0), (1.2, 1.6), (6.0, 2.0, 1.2, 2.0), (9.0, 3.0), (3.0, 1.2))

# On grey anatomy the pale ones read best; the later ones are Paul Tol's light scheme.
ORGAN_COLOURS = (
    *("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2", "#BBCC33"),
    *("#FFAABB", "#44BB99", "#EE8866", "#99DDFF", "#AAAA00", "#77AADD", "#EEDD88", "#DDDDDD"),
)

PAGE_FONTS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK = "#22272e"
FAINT = "#6b7480"
RULE = "#d9dee4"

# Figures for print: the double column of a journal (183 mm), and its sizes of letters in points.
WIDTH_IN = 7.2
SMALL, NORMAL = 6.5, 8.0


def run_colour(index: int) -> str:
    """The colour of a run everywhere on the page.

    Args:
        index: the run's place among the runs.

    Returns:
        A hexadecimal colour.
    """
    return RUN_COLOURS[index % len(RUN_COLOURS)]


def run_dashes(index: int) -> tuple[float, ...]:
    """The dash pattern of a run's lines, so that no reader needs the colour.

    Args:
        index: the run's place among the runs.

    Returns:
        Lengths of dashes and gaps in line widths; empty for a solid line.
    """
    return RUN_DASHES[index % len(RUN_DASHES)]


def organ_colour(index: int) -> str:
    """The colour of an organ everywhere on the page.

    Args:
        index: the organ's place among the organs.

    Returns:
        A hexadecimal colour.
    """
    return ORGAN_COLOURS[index % len(ORGAN_COLOURS)]


def calm(panel: Axes, size: float) -> None:
    """Takes away what is not data.

    Args:
        panel: to be drawn on.
        size: of the numbers on its axes.
    """
    panel.grid(axis="y", color=RULE, linewidth=0.6)
    panel.set_axisbelow(True)
    panel.tick_params(which="both", labelsize=size, colors=FAINT, length=0)
    for side in ("top", "right", "left"):
        panel.spines[side].set_visible(False)
    panel.spines["bottom"].set_color(RULE)


def data_uri(figure: Figure) -> str:
    """Turns a figure into an SVG picture that lives inside the page.

    Vector graphics stay crisp on any screen and on paper. The same figure always gives the same bytes.

    Args:
        figure: a figure made without pyplot.

    Returns:
        A data URI for an `img` element.
    """
    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "ars_jax"}):
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    # Text stays text in the page's own fonts, and enlarged voxels are interpolated as a viewer would do it.
    text = text.replace("'DejaVu Sans'", PAGE_FONTS).replace("crisp-edges;image-rendering:pixelated", "auto")
    return "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()


def save_figure(path: Path, figure: Figure, formats: Sequence[str] = ("png", "pdf")) -> list[Path]:
    """Writes a figure for paper and screen, 300 dots per inch; in PDF lines and text stay vectors.

    Args:
        path: without ending.
        figure: made without pyplot.
        formats: of matplotlib.

    Returns:
        The written files.

    Raises:
        UserError: the place cannot be written.
    """
    paths = [path.with_name(f"{path.name}.{ending}") for ending in formats]
    for place, ending in zip(paths, formats, strict=True):
        undated = {"CreationDate": None} if ending == "pdf" else {}
        with written_atomically(place) as temporary, rc_context({"pdf.fonttype": 42}):
            figure.savefig(temporary, format=ending, dpi=300, metadata=undated)
    return paths
