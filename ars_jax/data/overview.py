"""A data set at a glance: sizes, spacings, orientations, intensities and organs, as tables and as JSON."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from ars_jax.data.check import Examination
from ars_jax.data.compare import organ_volumes, side_gap, volume_outliers
from ars_jax.data.sides import left_right_pairs
from ars_jax.data.survey import ORGAN_PERCENTILES, PERCENTILES, CaseSurvey, orientation, without_place
from ars_jax.files import write_json

_SHOWN = (0.5, 50.0, 99.5)
_NAMED = 3  # outliers that the table names; the JSON file names all


@dataclass(frozen=True)
class Range:
    """A measure over cases."""

    smallest: float
    median: float
    largest: float


@dataclass(frozen=True)
class OrganOverview:
    """An organ over the cases whose label could be read.

    Args:
        organ: its name.
        cases: on how many it was drawn.
        missing: cases on which it was not, though nothing says that it is unlabelled.
        volume_ml: its volume, as far as `compare.organ_volumes` compares it; None without cases.
        outliers: case to its volume as a multiple of the median.
        other_side: the same organ of the other side, if there is one.
        swapped: cases where the left of the two lies to the right.
        compared: cases with both.
    """

    organ: str
    cases: int
    missing: tuple[str, ...]
    volume_ml: Range | None
    outliers: Mapping[str, float]
    other_side: str | None
    swapped: tuple[str, ...]
    compared: int


@dataclass(frozen=True)
class Overview:
    """A data set at a glance.

    Args:
        root: its folder.
        layout: how it is arranged.
        cases: how many.
        labelled: how many of them have a label.
        orientations: as of `survey.orientation`, with how many images have it.
        without_place: images whose header holds no place.
        measures: of the images, by name with unit.
        organs: in the data set's order.
    """

    root: str
    layout: str
    cases: int
    labelled: int
    orientations: Mapping[str, int]
    without_place: int
    measures: Mapping[str, Range]
    organs: tuple[OrganOverview, ...]


def overview(examination: Examination) -> Overview:
    """Summarises an examination.

    Args:
        examination: the data set's measures.

    Returns:
        The summary.
    """
    dataset = examination.dataset
    images = [survey.image for survey in examination.cases if survey.image]
    return Overview(
        root=str(dataset.root),
        layout=dataset.layout,
        cases=len(dataset.cases),
        labelled=sum(case.labelled for case in dataset.cases),
        orientations=dict(Counter(orientation(image.geometry) for image in images).most_common()),
        without_place=sum(without_place(image.geometry) for image in images),
        measures=_measures(examination.cases),
        organs=tuple(_organ_overview(examination, organ) for organ in dataset.labels),
    )


def render(summary: Overview) -> Group:
    """Shows a summary as tables.

    Args:
        summary: what to show.

    Returns:
        What rich can print within 100 columns.
    """
    title = f"{summary.root} ({summary.layout}): {summary.cases} cases, {summary.labelled} with a label"
    turns = ", ".join(f"{name} {count}" for name, count in summary.orientations.items())
    lines = [f"orientation (where x, y, z grow to): {turns}"] if turns else []
    if summary.without_place:
        lines.append(f"headers without a place (spacing 1 mm, origin 0 or 1): {summary.without_place}")
    parts = [Text(title), _image_table(summary), Text("\n".join(lines)), _organ_table(summary)]
    return Group(*(part for part in parts if not isinstance(part, Text) or part.plain))


def write_examination(path: Path, examination: Examination) -> None:
    """Writes summary, faults and all measures of all cases as JSON.

    Args:
        path: the file; its folder is made.
        examination: what to write.

    Raises:
        UserError: the place cannot be written.
    """
    content: dict[str, Any] = {
        "summary": asdict(overview(examination)),
        "labels": dict(examination.dataset.labels),
        "faults": [asdict(fault) for fault in examination.faults],
        "image_percentiles": PERCENTILES,
        "organ_percentiles": ORGAN_PERCENTILES,
        "axes": "z, y, x; mm in LPS",
        "cases": [asdict(survey) for survey in examination.cases],
    }
    write_json(path, content)


def _measures(surveys: Iterable[CaseSurvey]) -> dict[str, Range]:
    images = [survey.image for survey in surveys if survey.image]
    rows: dict[str, list[float]] = {}
    for number, axis in enumerate("zyx"):
        rows[f"size {axis}"] = [image.geometry.shape[number] for image in images]
    for number, axis in enumerate("zyx"):
        rows[f"spacing {axis} [mm]"] = [image.geometry.spacing[number] for image in images]
    for percentile in _SHOWN:
        number = PERCENTILES.index(percentile)
        rows[f"intensity, {percentile:g} %"] = [image.intensities[number] for image in images]
    for percentile in _SHOWN:
        number = PERCENTILES.index(percentile)
        rows[f"in the body (CT), {percentile:g} % [HU]"] = [image.body[number] for image in images if image.body]
    return {name: _range(values) for name, values in rows.items() if values}


def _range(values: Iterable[float]) -> Range:
    array = np.array(list(values), float)
    return Range(float(array.min()), float(np.median(array)), float(array.max()))


def _organ_overview(examination: Examination, organ: str) -> OrganOverview:
    organs = examination.dataset.labels
    read = [survey for survey in examination.cases if survey.label_digest]
    undrawn = {case.name for case in examination.dataset.cases if organ in case.unlabelled}
    volumes = organ_volumes(read, organ)
    pair = next((pair for pair in left_right_pairs(organs) if organ in pair), None)
    gaps = {survey.case: side_gap(survey, *pair) for survey in read} if pair else {}
    return OrganOverview(
        organ=organ,
        cases=sum(organ in survey.organs for survey in read),
        missing=tuple(s.case for s in read if organ not in s.organs and s.case not in undrawn),
        volume_ml=_range(volumes.values()) if volumes else None,
        outliers=volume_outliers(volumes),
        other_side=pair[organ == pair[0]] if pair else None,
        swapped=tuple(case for case, gap in gaps.items() if gap is not None and gap < 0),
        compared=sum(gap is not None for gap in gaps.values()),
    )


def _image_table(summary: Overview) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("images")
    for name in ("smallest", "median", "largest"):
        table.add_column(name, justify="right")
    for name, values in summary.measures.items():
        table.add_row(name, *(f"{value:.5g}" for value in (values.smallest, values.median, values.largest)))
    return table


def _organ_table(summary: Overview) -> Table:
    outliers = any(organ.outliers for organ in summary.organs)
    sides = any(organ.other_side for organ in summary.organs)
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column("organ", overflow="fold", min_width=min(20, max(len(organ.organ) for organ in summary.organs)))
    for name in ("cases", "missing", "least ml", "median", "most"):
        table.add_column(name, justify="right")
    if sides:
        table.add_column("on its side", justify="right")
    if outliers:
        table.add_column("unusual volume", overflow="fold", max_width=24)
    for organ in summary.organs:
        volume = organ.volume_ml
        placed = f"{organ.compared - len(organ.swapped)} of {organ.compared}" if organ.other_side else ""
        table.add_row(
            organ.organ,
            str(organ.cases),
            str(len(organ.missing)),
            *(map(_ml, (volume.smallest, volume.median, volume.largest)) if volume else [""] * 3),
            *([placed] if sides else []),
            *([_named(organ.outliers)] if outliers else []),
        )
    return table


def _ml(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _named(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
