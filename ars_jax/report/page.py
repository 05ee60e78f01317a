"""The page itself: finds the optional libraries, renders and writes one self-contained HTML file."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from ars_jax.errors import UserError
from ars_jax.files import written_atomically
from ars_jax.report.runs import read_runs


def write_report(runs: Sequence[Path], out: Path) -> Path:
    """Writes out/index.html: curves, tables and overlays of one or several runs, with every picture inside.

    Args:
        runs: run folders of `ars-jax train`, in the order in which they are to be shown. The worst, the median and the
            best case are chosen on the first one that was evaluated.
        out: folder to write to; it is made.

    Returns:
        The path of the page.

    Raises:
        UserError: a folder is no run, a file in it is damaged, `out` cannot be written, or matplotlib or jinja2 is
            missing.
    """
    for library in ("matplotlib", "jinja2"):
        if importlib.util.find_spec(library) is None:
            fix = "install ars_jax with its extra `plots`, or pip install matplotlib jinja2"
            raise UserError("ars-jax report", found=f"no {library}", wanted="matplotlib and jinja2", fix=fix)
    # Imported only now because it needs both libraries, which are extras.
    from ars_jax.report.render import render_page

    text = render_page(read_runs([Path(run) for run in runs]))
    page = Path(out) / "index.html"
    with written_atomically(page) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return page
