"""Tables of an evaluation: one row per case and organ, their summary, and their files."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from scipy import ndimage

from ars_jax import files
from ars_jax.errors import UserError
from ars_jax.files import written_atomically
from ars_jax.metrics.overlap import overlap_metrics
from ars_jax.metrics.surface import (
    TOLERANCE_MM,
    Convention,
    check_convention,
    check_tolerance,
    surface_metrics,
)

Status = Literal["ok", "miss", "false alarm", "absent", "unlabelled"]
MEASURES = ("dsc", "recall", "precision", "surface_dice", "hd95_mm", "asd_mm", "volume_difference_percent")
"""The measures of a row, in the order of every table."""
MEAN = "mean over organs"
"""What the last line of a summary is called."""
_BEYOND = 1e100  # any measure, and still a number whose square is one
_UNITS = {
    "hd95_mm": "mm",
    "asd_mm": "mm",
    "volume_prediction_ml": "ml",
    "volume_reference_ml": "ml",
    "volume_difference_percent": "%",
}


@dataclass(frozen=True)
class Row:
    """One organ of one case.

    Args:
        case: name of the case.
        organ: name of the organ.
        status: "ok" where both masks exist, "miss" where only the reference does, "false alarm" where only the
            prediction does, "absent" where neither does, "unlabelled" where nobody drew the organ in this case.
        dsc: DSC; None for absent and unlabelled organs.
        recall: recall; None also for a false alarm.
        precision: precision; None also for a miss.
        hd95_mm: 95 % Hausdorff distance, mm; None unless the status is "ok".
        asd_mm: average surface distance, mm; None unless the status is "ok".
        volume_prediction_ml: volume of the prediction, ml.
        volume_reference_ml: volume of the reference, ml; None for an unlabelled organ.
        convention: which definition of the surface distances was used.
        surface_dice: surface Dice at the tolerance; 0 for a miss and a false alarm, None for absent and unlabelled
            organs and in tables written before there was this measure.
        tolerance_mm: the tolerance of the surface Dice, mm; None in such old tables.
    """

    case: str
    organ: str
    status: Status
    dsc: float | None
    recall: float | None
    precision: float | None
    hd95_mm: float | None
    asd_mm: float | None
    volume_prediction_ml: float
    volume_reference_ml: float | None
    convention: Convention
    surface_dice: float | None = None
    tolerance_mm: float | None = None

    @property
    def volume_difference_percent(self) -> float | None:
        """Prediction minus reference in % of the reference's volume; None unless the status is "ok"."""
        if self.status != "ok" or not self.volume_reference_ml:
            return None
        return 100 * (self.volume_prediction_ml - self.volume_reference_ml) / self.volume_reference_ml


@dataclass(frozen=True)
class Statistic:
    """Mean and spread of the values that exist.

    Args:
        mean: their mean; None when there is none.
        sd: their sample standard deviation (n - 1); None below two.
        n: how many there are.
    """

    mean: float | None
    sd: float | None
    n: int


@dataclass(frozen=True)
class Line:
    """One line of a summary.

    Args:
        organ: name of the organ, or `MEAN`.
        cases: cases that count: the organ is in the reference or was predicted.
        misses: cases in which it is in the reference and was not predicted.
        false_alarms: cases in which it was predicted and is not in the reference.
        dsc: over the cases that count; a miss and a false alarm count as 0.
        recall: over the cases with a reference; a miss counts as 0.
        precision: over the cases with a prediction.
        surface_dice: over the cases that count; a miss and a false alarm count as 0.
        hd95_mm: mm, over the cases with both masks, so read it together with `misses`.
        asd_mm: mm, over the cases with both masks.
        volume_difference_percent: prediction minus reference, % of the reference, over the cases with both masks; above
            0 where the prediction is the larger one. Differences of unlike signs cancel, so read it with its `sd`.
    """

    organ: str
    cases: int
    misses: int
    false_alarms: int
    dsc: Statistic
    recall: Statistic
    precision: Statistic
    surface_dice: Statistic
    hd95_mm: Statistic
    asd_mm: Statistic
    volume_difference_percent: Statistic


@dataclass(frozen=True)
class Summary:
    """What a set of rows amounts to.

    Args:
        convention: which definition of the surface distances was used.
        tolerance_mm: the tolerance of the surface Dice, mm; None where there is no such measure.
        organs: one line per organ, over its cases.
        overall: the mean over organs of the organs' means (each organ weighs the same, however many cases have it);
            its `sd` is the spread between organs, its counts are sums.
    """

    convention: Convention
    tolerance_mm: float | None
    organs: tuple[Line, ...]
    overall: Line


def evaluate_case(
    name: str,
    prediction: np.ndarray,
    reference: np.ndarray,
    spacing: tuple[float, float, float],
    organs: Sequence[str],
    labelled: Sequence[bool] | np.ndarray | None = None,
    convention: Convention = "paper-boundary",
    tolerance_mm: float = TOLERANCE_MM,
) -> list[Row]:
    """Compares a predicted label map with the reference, organ by organ.

    Args:
        name: name of the case.
        prediction: label map [z, y, x] of channel numbers: 0 background, k + 1 for `organs[k]`.
        reference: label map of the same shape.
        spacing: mm z, y, x.
        organs: organ names in the order of their channels.
        labelled: one flag per channel, background first; False where nobody drew that organ. None means all are drawn.
        convention: which definition of the surface distances, see `ars_jax.metrics.surface`.
        tolerance_mm: how far apart two surfaces may lie and still agree in the surface Dice.

    Returns:
        One row per organ, in order.

    Raises:
        UserError: unlike shapes, a channel number without organ, a wrong number of flags, an unknown convention or a
            tolerance below 0.
    """
    check_convention(convention)
    check_tolerance(tolerance_mm)
    _check_maps(name, prediction, reference, organs)
    flags = [True] * (len(organs) + 1) if labelled is None else [bool(flag) for flag in labelled]
    if len(flags) != len(organs) + 1:
        raise UserError(
            f"{name}: labelled", found=f"{len(flags)} flags", wanted=f"{len(organs) + 1}", fix="give one per channel"
        )
    rows = []
    # Each organ is compared where it is in either map: the rest of a whole-body grid costs one pass per map.
    for k, (organ, box) in enumerate(zip(organs, _boxes(prediction, reference, len(organs)), strict=True), start=1):
        found, drawn = prediction[box] == k, reference[box] == k if flags[k] else None
        rows.append(_row(name, organ, found, drawn, spacing, convention, tolerance_mm))
    return rows


def _boxes(prediction: np.ndarray, reference: np.ndarray, organs: int) -> list[tuple[slice, ...]]:
    """For each organ the smallest box that holds it in both maps; a single voxel for one that is in neither."""
    pairs = zip(*(ndimage.find_objects(labels, max_label=organs) for labels in (prediction, reference)), strict=True)
    return [
        tuple(slice(min(s.start for s in axis), max(s.stop for s in axis)) for axis in zip(*present, strict=True))
        if (present := [box for box in pair if box is not None])
        else (slice(0, 1),) * 3
        for pair in pairs
    ]


def _check_maps(name: str, prediction: np.ndarray, reference: np.ndarray, organs: Sequence[str]) -> None:
    if prediction.shape != reference.shape or prediction.ndim != 3:
        raise UserError(
            f"{name}: prediction",
            found=f"shape {prediction.shape}",
            wanted=f"three axes and the reference's shape {reference.shape}",
            fix="bring both label maps onto one grid",
        )
    for what, array in (("prediction", prediction), ("reference", reference)):
        if array.size and int(array.max()) > len(organs):
            raise UserError(
                f"{name}: {what}",
                found=f"label {int(array.max())}",
                wanted=f"at most {len(organs)}, the number of organs",
                fix="give label maps of channel numbers and the organ list that they were made with",
            )


def _row(
    case: str,
    organ: str,
    prediction: np.ndarray,
    reference: np.ndarray | None,
    spacing: tuple[float, float, float],
    convention: Convention,
    tolerance_mm: float,
) -> Row:
    millilitres = float(np.prod(spacing)) / 1000.0
    if reference is None:
        volume = int(np.count_nonzero(prediction)) * millilitres
        return Row(
            case, organ, "unlabelled", None, None, None, None, None, volume, None, convention, None, tolerance_mm
        )
    overlap = overlap_metrics(prediction, reference)
    surface = surface_metrics(prediction, reference, spacing, convention, tolerance_mm)
    statuses: dict[tuple[bool, bool], Status] = {
        (True, True): "ok",
        (False, True): "miss",
        (True, False): "false alarm",
        (False, False): "absent",
    }
    status = statuses[overlap.volume_prediction > 0, overlap.volume_reference > 0]
    return Row(
        case=case,
        organ=organ,
        status=status,
        dsc=overlap.dsc,
        recall=overlap.recall,
        precision=overlap.precision,
        hd95_mm=surface.hd95_mm if surface else None,
        asd_mm=surface.asd_mm if surface else None,
        volume_prediction_ml=overlap.volume_prediction * millilitres,
        volume_reference_ml=overlap.volume_reference * millilitres,
        convention=convention,
        surface_dice=surface.surface_dice if surface else (None if status == "absent" else 0.0),
        tolerance_mm=tolerance_mm,
    )


def summarise(rows: Sequence[Row]) -> Summary:
    """Averages rows over cases and then over organs.

    Distances exist only where both masks do; the misses that they leave out are counted beside them. An organ without
    any value of a measure is left out of that measure's mean over organs.

    Args:
        rows: rows of any number of cases, all of one convention and one tolerance.

    Returns:
        One line per organ in the order of first appearance, and their mean.

    Raises:
        UserError: there is no row, or the rows mix conventions or tolerances.
    """
    conventions = sorted({row.convention for row in rows})
    if len(conventions) != 1:
        raise UserError(
            "evaluation rows",
            found=f"the conventions {', '.join(conventions)}" if rows else "no row",
            wanted="rows of one convention",
            fix="evaluate at least one case, and all of them alike",
        )
    tolerances = {row.tolerance_mm for row in rows}
    if len(tolerances) != 1:
        found = "the tolerances " + ", ".join(sorted(f"{t} mm" if t is not None else "none" for t in tolerances))
        fix = "evaluate all of them again with one --tolerance_mm"
        raise UserError("evaluation rows", found=found, wanted="rows of one tolerance", fix=fix)
    lines = tuple(_line(organ, [r for r in rows if r.organ == organ]) for organ in dict.fromkeys(r.organ for r in rows))
    means = {measure: statistic(getattr(line, measure).mean for line in lines) for measure in MEASURES}
    overall = Line(
        organ=MEAN,
        cases=sum(line.cases for line in lines),
        misses=sum(line.misses for line in lines),
        false_alarms=sum(line.false_alarms for line in lines),
        **means,
    )
    return Summary(rows[0].convention, rows[0].tolerance_mm, lines, overall)


def _line(organ: str, rows: Sequence[Row]) -> Line:
    statuses = [row.status for row in rows]
    values = {measure: statistic(getattr(row, measure) for row in rows) for measure in MEASURES}
    return Line(
        organ=organ,
        cases=sum(status in ("ok", "miss", "false alarm") for status in statuses),
        misses=statuses.count("miss"),
        false_alarms=statuses.count("false alarm"),
        **values,
    )


def statistic(values: Iterable[float | None]) -> Statistic:
    """Averages the values that exist.

    Args:
        values: numbers; None where there is none.

    Returns:
        Their mean and sample standard deviation.
    """
    present = [value for value in values if value is not None]
    mean = float(np.mean(present)) if present else None
    return Statistic(mean, float(np.std(present, ddof=1)) if len(present) > 1 else None, len(present))


def write_csv(path: Path | str, rows: Sequence[Row]) -> None:
    """Writes rows as CSV: a header, then one line per case and organ; undefined values are empty.

    Args:
        path: file to write; replaced only when the new one is complete.
        rows: rows to write.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    with written_atomically(Path(path)) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def write_json(path: Path | str, rows: Sequence[Row], about: Mapping[str, str | int] | None = None) -> None:
    """Writes rows and their summary as JSON; undefined values are null.

    The keys are `about`, `convention`, `tolerance_mm`, `units`, `rows` and `summary`.

    Args:
        path: file to write; replaced only when the new one is complete.
        rows: rows to write, all of one convention.
        about: what was scored, such as the data set and the checkpoint.

    Raises:
        UserError: there is no row, or the rows mix conventions or tolerances.
    """
    summary = summarise(rows)
    content = {
        "about": dict(about or {}),
        "convention": summary.convention,
        "tolerance_mm": summary.tolerance_mm,
        "units": _UNITS,
        "rows": [asdict(row) for row in rows],
        "summary": asdict(summary),
    }
    files.write_json(Path(path), content)


def read_json(path: Path | str) -> list[Row]:
    """Reads the rows of a file that `write_json` wrote; `summarise` gives their summary again.

    Args:
        path: the file.

    Returns:
        The rows in order.

    Raises:
        UserError: the file is missing or is not such a table.
    """
    wanted = "a table that `ars-jax evaluate` wrote"
    fix = "give the table.json of an evaluated run"
    content: Any = files.read_json(Path(path))
    try:
        rows = [_typed(Row(**row)) for row in content["rows"]]
    except (KeyError, TypeError) as error:
        raise UserError(path, found=f"{type(error).__name__} ({error})", wanted=wanted, fix=fix) from error
    for row in rows:
        check_convention(row.convention)
        if row.status not in get_args(Status):
            raise UserError(path, found=f"status {row.status}", wanted=", ".join(get_args(Status)), fix=fix)
    return rows


def _typed(row: Row) -> Row:
    """Raises a TypeError where a row holds what no table has, such as a number beyond any measure."""
    for name, value in asdict(row).items():
        number = isinstance(value, int | float) and abs(value) < _BEYOND
        missing = value is None and name != "volume_prediction_ml"
        if not (isinstance(value, str) if name in ("case", "organ", "status", "convention") else number or missing):
            raise TypeError(f"{name} {value!r}"[:200])
    return row
