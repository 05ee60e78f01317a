"""Scoring label maps against references, case by case, in millimetres on the images' own grids."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ars_jax.data.labels import channel_numbers, checked_labels, read_json
from ars_jax.data.layouts import Case, read_label
from ars_jax.data.plan import written_atomically
from ars_jax.data.volumes import READABLE, Volume, map_to, mismatches, read_volume, write_volume
from ars_jax.errors import UserError
from ars_jax.metrics.surface import Convention
from ars_jax.metrics.table import Row, evaluate_case, write_csv, write_json
from ars_jax.predict import Network, predict_volume, write_labels

Progress = Callable[[int, int, str], None]


def evaluate_cases(
    network: Network,
    cases: Sequence[Case],
    labels: Mapping[str, int],
    out: Path,
    *,
    convention: Convention = "paper-boundary",
    progress: Progress | None = None,
) -> list[Row]:
    """Predicts cases and scores them on the grids of their images.

    Args:
        network: from `predict.load_network`.
        cases: with labels.
        labels: the data set's organs and their values on disk, the network's organs in the same order.
        out: gets table.csv, table.json, cases.json, and the label maps predictions/CASE.nii.gz and
            references/CASE.nii.gz.
        convention: of the surface distances.
        progress: called after every case with the number done, the number of all and the name.

    Returns:
        One row per case and organ.

    Raises:
        UserError: a file that cannot be read, or a data set with other organs than the network's.
    """
    organs = network.plan.labels
    if tuple(labels) != organs:
        fix = "evaluate on a data set of the same organs"
        raise UserError("labels", found=tuple(labels), wanted=organs, fix=fix)
    rows, files = [], []
    for case in cases:
        volume = read_volume(case.image)
        reference = map_to(read_label(case, labels, volume.geometry), volume.geometry)
        prediction = predict_volume(network, volume, case.image)
        labelled = [True, *(organ not in case.unlabelled for organ in organs)]
        spacing = volume.geometry.spacing
        rows += evaluate_case(case.name, prediction.array, reference.array, spacing, organs, labelled, convention)
        paths = {kind: f"{out.name}/{kind}s/{case.name}.nii.gz" for kind in ("prediction", "reference")}
        for kind, label in (("prediction", prediction), ("reference", reference)):
            write_volume(out / f"{kind}s" / f"{case.name}.nii.gz", label)
        files.append({"case": case.name, "image": str(case.image.absolute()), **paths})
        if progress is not None:
            progress(len(files), len(cases), case.name)
    for kind in ("predictions", "references"):
        write_labels(out / kind, organs)
    with written_atomically(out / "cases.json") as temporary:
        temporary.write_text(json.dumps(files, indent=2) + "\n", encoding="utf-8")
    write_tables(out, rows)
    return rows


def evaluate_folders(
    predictions: Path,
    references: Path,
    *,
    labels: Mapping[str, int] | None = None,
    convention: Convention = "paper-boundary",
    progress: Progress | None = None,
) -> list[Row]:
    """Scores a folder of label maps against a folder of references with equal names.

    Args:
        predictions: label maps; further ones than the references' are not scored.
        references: label maps, each on the grid of its prediction.
        labels: organs and their values in both folders; by default each folder's labels.json, or the other's.
        convention: of the surface distances.
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
        rows += evaluate_case(
            name, prediction.array, reference.array, spacing, tuple(reference_table), convention=convention
        )
        if progress is not None:
            progress(done, len(referenced), name)
    return rows


def write_tables(out: Path, rows: Sequence[Row]) -> None:
    """Writes table.csv and table.json into a folder."""
    write_csv(out / "table.csv", rows)
    write_json(out / "table.json", rows)


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
