"""Scoring label maps against references, case by case, in millimetres on the images' own grids."""

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ars_jax.data.cases import Case
from ars_jax.data.geometry import mismatches
from ars_jax.data.labels import channel_numbers, checked_labels
from ars_jax.data.layouts import read_unlabelled
from ars_jax.data.prepare import read_case_label
from ars_jax.data.volumes import READABLE, Volume, read_volume, write_volume
from ars_jax.errors import UserError
from ars_jax.files import read_json, write_json
from ars_jax.metrics import table
from ars_jax.metrics.surface import TOLERANCE_MM, Convention, check_tolerance
from ars_jax.metrics.table import Row, evaluate_case
from ars_jax.predict import Network, predict_volume, write_labels

PREDICTIONS, REFERENCES, UNLABELLED = "predictions", "references", "unlabelled.json"
CASES, CSV_TABLE, JSON_TABLE = "cases.json", "table.csv", "table.json"

Progress = Callable[[int, int, str], None]


def evaluate_cases(
    network: Network,
    cases: Sequence[Case],
    labels: Mapping[str, int],
    out: Path,
    *,
    convention: Convention = "paper-boundary",
    tolerance_mm: float = TOLERANCE_MM,
    about: Mapping[str, str | int] | None = None,
    progress: Progress | None = None,
) -> list[Row]:
    """Predicts cases and scores them on the grids of their images.

    Args:
        network: from `predict.load_network`.
        cases: with labels.
        labels: the data set's organs and their values on disk, the network's organs in the same order.
        out: gets table.csv, table.json, cases.json and the folders predictions and references of label maps, which
            replace those of an earlier evaluation when all cases are done; table.json comes last.
        convention: of the surface distances.
        tolerance_mm: of the surface Dice.
        about: what is scored, for table.json.
        progress: called after every case with the number done, the number of all and the name.

    Returns:
        One row per case and organ.

    Raises:
        UserError: a file that cannot be read, a data set with other organs than the network's, or a tolerance below 0.
    """
    check_tolerance(tolerance_mm)
    organs = network.plan.labels
    if tuple(labels) != organs:
        fix = "evaluate on a data set of the same organs"
        raise UserError("labels", found=tuple(labels), wanted=organs, fix=fix)
    rows, files = [], []
    with tempfile.TemporaryDirectory(prefix=".evaluation-", dir=_made(out)) as name:
        staging = Path(name)
        for case in cases:
            rows += _score_case(network, case, labels, staging, convention, tolerance_mm)
            files.append(
                {
                    "case": case.name,
                    "image": str(case.image.absolute()),
                    "prediction": f"{out.name}/{PREDICTIONS}/{case.name}.nii.gz",
                    "reference": f"{out.name}/{REFERENCES}/{case.name}.nii.gz",
                }
            )
            if progress is not None:
                progress(len(files), len(cases), case.name)
        for folder in (PREDICTIONS, REFERENCES):
            write_labels(staging / folder, organs)
        write_json(staging / REFERENCES / UNLABELLED, {c.name: c.unlabelled for c in cases if c.unlabelled})
        write_json(staging / CASES, files)
        write_tables(staging, rows, about)
        _replace_evaluation(staging, out)
    return rows


def _replace_evaluation(new: Path, out: Path) -> None:
    """The tables go first and table.json comes last: wherever this is stopped, no scores are of other label maps."""
    for name in (JSON_TABLE, CSV_TABLE):
        (out / name).unlink(missing_ok=True)
    for folder in (PREDICTIONS, REFERENCES):
        shutil.rmtree(out / folder, ignore_errors=True)
    for name in (PREDICTIONS, REFERENCES, CASES, CSV_TABLE, JSON_TABLE):
        (new / name).replace(out / name)


def _score_case(
    network: Network,
    case: Case,
    labels: Mapping[str, int],
    out: Path,
    convention: Convention,
    tolerance_mm: float,
) -> list[Row]:
    """Predicts and scores one case and writes both label maps."""
    volume = read_volume(case.image)
    reference = read_case_label(case, labels, volume.geometry)
    prediction = predict_volume(network, volume, case.image)
    write_volume(out / PREDICTIONS / f"{case.name}.nii.gz", prediction)
    write_volume(out / REFERENCES / f"{case.name}.nii.gz", reference)
    labelled = [True, *(organ not in case.unlabelled for organ in labels)]
    arrays, spacing = (prediction.array, reference.array), volume.geometry.spacing
    return evaluate_case(case.name, *arrays, spacing, tuple(labels), labelled, convention, tolerance_mm)


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        found, wanted = error.strerror or error, "a folder that can be written"
        raise UserError(folder, found=found, wanted=wanted, fix="choose another --out") from error
    return folder


def evaluate_folders(
    predictions: Path,
    references: Path,
    *,
    labels: Mapping[str, int] | None = None,
    convention: Convention = "paper-boundary",
    tolerance_mm: float = TOLERANCE_MM,
    progress: Progress | None = None,
) -> list[Row]:
    """Scores a folder of label maps against a folder of references with equal names.

    Args:
        predictions: label maps; further ones than the references' are not scored.
        references: label maps, each on the grid of its prediction; unlabelled.json may name organs that were not drawn.
        labels: organs and their values in both folders; by default each folder's labels.json, or the other's.
        convention: of the surface distances.
        tolerance_mm: of the surface Dice.
        progress: called after every case with the number done, the number of all and the name.

    Returns:
        One row per case and organ of the references.

    Raises:
        UserError: no references, one without a prediction, grids or values that do not fit, or no table of labels.
    """
    predicted, referenced = label_maps(predictions), label_maps(references)
    if not referenced:
        raise UserError(references, found="no label map", wanted=f"files {', '.join(READABLE)}", fix="check the path")
    if missing := [name for name in referenced if name not in predicted]:
        found, fix = f"no prediction for {', '.join(missing)}", "predict these cases or take out their references"
        raise UserError(predictions, found=found, wanted="one per reference", fix=fix)
    tables = [labels or _label_table(folder) for folder in (predictions, references)]
    prediction_table, reference_table = tables[0] or tables[1], tables[1] or tables[0]
    if prediction_table is None or reference_table is None:
        fix = "give --labels '{\"Organ\": 1}' or put such a labels.json into one of them"
        raise UserError(f"{predictions}, {references}", found="no labels.json", wanted="organ names", fix=fix)
    undrawn = read_unlabelled(references, referenced, reference_table)
    rows = []
    for done, (name, path) in enumerate(referenced.items(), start=1):
        reference = _read_map(path, reference_table, reference_table)
        prediction = _read_map(predicted[name], prediction_table, reference_table)
        if differences := mismatches(prediction.geometry, reference.geometry):
            raise UserError(
                predicted[name],
                found=", ".join(f"{item.kind} {item.found}" for item in differences),
                wanted=f"the grid of {path}: " + ", ".join(f"{item.kind} {item.wanted}" for item in differences),
                fix="predict on the grid of the reference's image",
            )
        spacing = reference.geometry.spacing
        organs = tuple(reference_table)
        labelled = [True, *(organ not in undrawn.get(name, ()) for organ in organs)]
        rows += evaluate_case(
            name, prediction.array, reference.array, spacing, organs, labelled, convention, tolerance_mm
        )
        if progress is not None:
            progress(done, len(referenced), name)
    return rows


def write_tables(out: Path, rows: Sequence[Row], about: Mapping[str, str | int] | None = None) -> None:
    """Writes table.csv and table.json into a folder, where no older table.json stands beside a new table.csv."""
    (out / JSON_TABLE).unlink(missing_ok=True)
    table.write_csv(out / CSV_TABLE, rows)
    table.write_json(out / JSON_TABLE, rows, about)


def label_maps(folder: Path) -> dict[str, Path]:
    """Lists the volumes of a folder.

    Args:
        folder: the folder.

    Returns:
        Name without ending to path, sorted by name.

    Raises:
        UserError: no such folder.
    """
    if not folder.is_dir():
        raise UserError(folder, found="no folder", wanted="a folder of label maps", fix="check the path")
    return {
        path.name[: -len(end)]: path
        for path in sorted(folder.iterdir())
        for end in READABLE
        if path.name.lower().endswith(end) and not path.name.startswith(".")
    }


def _label_table(folder: Path) -> dict[str, int] | None:
    path = folder / "labels.json"
    return checked_labels(path, read_json(path)) if path.is_file() else None


def _read_map(path: Path, table: Mapping[str, int], organs: Mapping[str, int]) -> Volume:
    """Reads a label map as numbers of `organs`; further organs of its own table are background."""
    volume = read_volume(path)
    if missing := [organ for organ in organs if organ not in table]:
        raise UserError(
            path.parent / "labels.json", found=f"no {', '.join(missing)}", wanted="the same organs", fix="add"
        )
    values = {organ: table[organ] for organ in organs}
    others = tuple(value for organ, value in table.items() if organ not in organs)
    return Volume(channel_numbers(path, volume.array, values, others), volume.geometry)
