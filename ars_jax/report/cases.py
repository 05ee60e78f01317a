"""The worst, the median and the best case: which they are, their volumes, and their place on the page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ars_jax.data.geometry import Geometry, mismatches
from ars_jax.data.plan import Plan
from ars_jax.data.volumes import Volume, canonical, read_volume
from ars_jax.errors import UserError
from ars_jax.report.overlays import Picture, choose_cases, display_window, overlay_figure
from ars_jax.report.runs import Run, organs_of
from ars_jax.report.style import data_uri
from ars_jax.report.tables import NONE, TIMES, case_means, case_organs


@dataclass(frozen=True)
class Overlay:
    """One case on the page.

    Args:
        title: "Worst case", "Median case", "Best case" or "Only case".
        case: its name.
        scores: its mean DSC in every run.
        picture: data URI; empty if it cannot be shown.
        alt: the picture in words.
        caption: what is beneath it, or why there is no picture.
    """

    title: str
    case: str
    scores: str
    picture: str
    alt: str
    caption: str


def overlay_blocks(runs: Sequence[Run]) -> list[Overlay]:
    """Draws the chosen cases, the same ones for all runs.

    Args:
        runs: the runs; the first one with an evaluation chooses.

    Returns:
        Up to three cases; none where no run was evaluated.
    """
    chooser = next((run for run in runs if run.evaluation), None)
    if chooser is None or chooser.evaluation is None:
        return []
    chosen = choose_cases(case_means(chooser.evaluation))
    return [_block(title, case, runs, chooser) for title, case in chosen.items()]


def _block(title: str, case: str, runs: Sequence[Run], chooser: Run) -> Overlay:
    heading = f"{title.capitalize()} case"
    scores = " · ".join(_score(run, case) + (f" ({run.name})" if len(runs) > 1 else "") for run in runs)
    try:
        picture = load_picture(case, runs, chooser)
    except UserError as error:
        # Data sets move; the rest of the page stays true without this picture.
        return Overlay(heading, case, f"mean DSC {scores}", "", "", f"This case cannot be shown. {error}")
    figure = overlay_figure(picture, [run.name for run in runs], [_note(run, case) for run in runs])
    alt = f"Axial, coronal and sagittal slice of {case}: reference and outlines of the predictions"
    low, high = picture.window
    caption = f"Grey window {low:.4g} to {high:.4g}; voxels {_voxel(picture)} mm (z, y, x)."
    return Overlay(heading, case, f"mean DSC {scores}", data_uri(figure), alt, caption)


def _voxel(picture: Picture) -> str:
    return f" {TIMES} ".join(f"{step:.3g}" for step in picture.spacing)


def _score(run: Run, case: str) -> str:
    mean = case_means(run.evaluation).get(case, math.nan) if run.evaluation else math.nan
    return NONE if math.isnan(mean) else f"{mean:.3f}"


def _note(run: Run, case: str) -> str:
    """The case's mean DSC in a run and the organ that did worst, or why there is nothing to see."""
    if run.evaluation is None:
        return "not evaluated"
    if not _known(run, case):
        return "no prediction of this case"
    organs = case_organs(run.evaluation, case)
    if len(organs) < 2:
        return f"DSC {_score(run, case)}"
    lowest = min(organs, key=lambda organ: organs[organ])
    return f"mean DSC {_score(run, case)}, lowest {lowest} {organs[lowest]:.3f}"


def load_picture(case: str, runs: Sequence[Run], chooser: Run) -> Picture:
    """Reads a case's volumes and brings them into canonical orientation.

    Args:
        case: its name.
        runs: the runs whose predictions are to be shown.
        chooser: the run whose image and reference are shown.

    Returns:
        The picture, its labels numbered by the organs of the whole page.

    Raises:
        UserError: a file is missing, damaged or on another grid than the image.
    """
    organs = organs_of(runs)
    files = _files(chooser, case)
    image = canonical(read_volume(files["image"]))
    predictions = tuple(
        _labels(_files(run, case)["prediction"], image.geometry, run.plan, organs) if _known(run, case) else None
        for run in runs
    )
    return Picture(
        image=image.array,
        reference=_labels(files["reference"], image.geometry, chooser.plan, organs),
        predictions=predictions,
        spacing=image.geometry.spacing,
        window=display_window(image.array, chooser.plan),
    )


def _known(run: Run, case: str) -> bool:
    return run.evaluation is not None and case in run.evaluation.files


def _files(run: Run, case: str) -> Mapping[str, Path]:
    if run.evaluation is None or case not in run.evaluation.files:
        path = run.folder / "evaluation" / "cases.json"
        raise UserError(path, found=f"no entry for {case}", wanted="its files", fix=f"ars-jax evaluate {run.folder}")
    return run.evaluation.files[case]


def _labels(path: Path, geometry: Geometry, plan: Plan, organs: Sequence[str]) -> np.ndarray:
    """Reads a label map of channel numbers and renumbers it by the page's organs."""
    volume: Volume = canonical(read_volume(path))
    if differences := mismatches(volume.geometry, geometry):
        raise UserError(
            path, found="; ".join(map(str, differences)), wanted="the image's grid", fix="evaluate the run again"
        )
    channels = np.rint(volume.array).astype(np.int64)
    if channels.min() < 0 or channels.max() > len(plan.labels):
        found = f"values {channels.min()} to {channels.max()}"
        raise UserError(path, found=found, wanted=f"0 to {len(plan.labels)}", fix="evaluate the run again")
    numbers = np.array([0, *(organs.index(label) + 1 for label in plan.labels)], dtype=np.uint8)
    return numbers[channels]
