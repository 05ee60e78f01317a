"""What lies in a case's folder of a DICOM export: one image series, and a label map or a structure set."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ars_jax.data import rtstruct
from ars_jax.data.streams import STRUCTURE_SET, dicom_kind, is_beside
from ars_jax.data.volumes import READABLE
from ars_jax.errors import UserError


@dataclass(frozen=True)
class Export:
    """What a case's folder holds.

    Args:
        image: the folder of the image series.
        label: a label map in another format.
        structures: a structure set (RTSTRUCT).
        fault: why the files are not known for certain; `image` and `structures` are then the first of those there are.
    """

    image: Path | None
    label: Path | None
    structures: Path | None
    fault: UserError | None = None


def find_export(folder: Path) -> Export:
    """Finds a case's image series and what was drawn on it, however deep they lie.

    Doses, plans, reports and other DICOM files beside them are passed over. Of several series in folders of their own,
    the one counts that the structure set refers to.

    Args:
        folder: the case's folder.

    Returns:
        What is there; with a fault if there are several label maps or structure sets, both kinds, or several series and
        no way to tell which.

    Raises:
        UserError: several series on which nothing was drawn.
    """
    series: list[Path] = []
    structures: list[Path] = []
    labels: list[Path] = []
    for place, files in _walk(folder):
        kinds = {file: dicom_kind(file) for file in files}
        if any(kind and not is_beside(kind) for kind in kinds.values()):
            series.append(place)
        structures += [file for file, kind in kinds.items() if kind == STRUCTURE_SET]
        labels += [file for file in files if file.name.lower().endswith(READABLE)]
    drawn = labels + structures
    try:
        if len(drawn) > 1:
            found = f"{len(labels)} label maps and {len(structures)} structure sets: {_listed(folder, drawn)}"
            raise UserError(folder, found=found, wanted="one of either", fix="keep the one to learn from")
        if len(series) > 1:
            series = [_referenced(folder, series, structures)]
    except UserError as fault:
        if not drawn:
            raise
        return Export(next(iter(series), None), None, drawn[0], fault)
    image, label, structure = (next(iter(paths), None) for paths in (series, labels, structures))
    return Export(image, label, structure)


def has_series(folder: Path) -> bool:
    """Whether there is a DICOM image anywhere in a folder."""
    kinds = (dicom_kind(file) for _, files in _walk(folder) for file in files)
    return any(kind and not is_beside(kind) for kind in kinds)


def _referenced(folder: Path, series: Sequence[Path], structures: Sequence[Path]) -> Path:
    uids = rtstruct.referenced_series(structures[0]) if structures else set()
    chosen = [place for place in series if uids and rtstruct.series_of(place) in uids]
    if len(chosen) != 1:
        found = f"{len(series)} image series: {_listed(folder, series)}"
        wanted = "one, or one that the structure set refers to"
        raise UserError(folder, found=found, wanted=wanted, fix="move the others out of the case's folder")
    return chosen[0]


def _listed(folder: Path, paths: Sequence[Path]) -> str:
    return ", ".join(path.relative_to(folder).as_posix() for path in paths)


def _walk(folder: Path) -> Iterator[tuple[Path, list[Path]]]:
    """Every folder with its visible files, sorted; links to folders inside are not followed."""
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield Path(place), [Path(place, name) for name in sorted(files) if not name.startswith(".")]
