"""All figures of an experiment, as files for paper and screen."""

import importlib.util
from pathlib import Path

from ars_jax.errors import UserError
from ars_jax.report.results import Results, whole_seeds

KINDS = ("validation_curves", "division_curve", "range_curve", "overlays")


def draw_experiment(results: Results, out: Path) -> list[Path]:
    """Draws what an experiment has so far.

    `validation_curves` is the DSC of the validation cases over the training, `division_curve` and `range_curve` that of
    the scored cases over the settings by which the arms differ, and `overlays_<case>` the same slice of every arm. Only
    seeds count that have all folds.

    Args:
        results: the experiment.
        out: folder to write to; it is made. Figures of an earlier call that are not drawn again are removed.

    Returns:
        The written files, PNG and PDF; none where no run was finished.

    Raises:
        UserError: matplotlib is missing, `out` cannot be written, or the volumes of a case cannot be read; the overlays
            are drawn last, so that the other figures are there even then.
    """
    check_figures()
    # Imported only now because they need matplotlib, which is an extra.
    from ars_jax.report.ablations import FIGURES
    from ars_jax.report.gallery import overlay_figures
    from ars_jax.report.style import save_figure

    arms = whole_seeds(results)
    written: list[Path] = []
    for draw in FIGURES:
        for name, figure in draw(arms).items():
            written += save_figure(out / name, figure)
    for name, figure in overlay_figures(arms):
        written += save_figure(out / name, figure)
    _remove_old(out, written)
    return written


def check_figures() -> None:
    """Raises a UserError where figures cannot be drawn, for want of matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        fix = "install ars_jax with its extra `plots`, or pip install matplotlib"
        raise UserError("figures of the experiment", found="no matplotlib", wanted="matplotlib", fix=fix)


def _remove_old(out: Path, written: list[Path]) -> None:
    """Removes figures that no longer belong: other cases may be worst and best when more seeds are done."""
    for kind in KINDS:
        for path in out.glob(f"{kind}*"):
            if path.suffix in (".png", ".pdf") and path not in written:
                path.unlink(missing_ok=True)
