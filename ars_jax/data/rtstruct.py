"""DICOM structure sets (RTSTRUCT): the contours of organs, which pydicom, an extra, reads, as voxels of a grid."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ars_jax.data.contours import fill_contours
from ars_jax.data.geometry import Geometry
from ars_jax.data.streams import STRUCTURE_SET, dicom_kind, is_beside
from ars_jax.errors import UserError

_BREAKS = (OSError, EOFError, ValueError, LookupError, AttributeError, TypeError, NotImplementedError)
_UNDEFINED_LENGTH = 0xFFFFFFFF
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")


def read_structures(
    path: Path,
    names: Mapping[str, Collection[str]],
    geometry: Geometry,
    *,
    image: Path | None = None,
    unlabelled: Collection[str] = (),
) -> np.ndarray:
    """Reads the contours of organs as one map of channel numbers.

    Args:
        path: an RTSTRUCT file.
        names: the names that each organ's contours may carry; the k-th organ becomes channel k + 1. Case, blanks,
            underscores and hyphens do not count, unless two contours differ by them only.
        geometry: the image's grid.
        image: the image, whose frame of reference has to be the contours' if it is a DICOM series.
        unlabelled: organs that may be missing.

    Returns:
        uint8 [z, y, x], 0 background. Where organs overlap, the later one wins.

    Raises:
        UserError: no pydicom, not an RTSTRUCT, an organ without contours or with several candidates, another frame of
            reference, or what `fill_contours` raises.
    """
    drawn = _drawn(path, names, unlabelled, _frame_of(image) if image is not None else None)
    result = np.zeros(geometry.shape, np.uint8)
    for channel, organ in enumerate(names, start=1):
        if organ not in drawn:
            continue
        name, contours = drawn[organ]
        mask = fill_contours(contours, geometry, f"{path}: {name}") if contours else None
        if mask is not None and mask.any():
            result[mask] = channel
        elif organ not in unlabelled:
            found = "no closed contour" if mask is None else "contours round no voxel of the image"
            wanted = "contours in every slice of the organ"
            raise UserError(f"{path}: {name}", found=found, wanted=wanted, fix=_undrawn(organ))
    return result


def contour_names(path: Path) -> list[str]:
    """Lists the names of a structure set's contours.

    Args:
        path: an RTSTRUCT file.

    Returns:
        The names, sorted.

    Raises:
        UserError: no pydicom, or not an RTSTRUCT.
    """
    with _named(path):
        return sorted(str(structure.ROIName) for structure in _read(path).get("StructureSetROISequence", ()))


def referenced_series(path: Path) -> set[str]:
    """Returns the UIDs of the image series that a structure set says it was drawn on.

    Args:
        path: an RTSTRUCT file.

    Returns:
        UIDs; empty if it does not say.

    Raises:
        UserError: no pydicom, or not an RTSTRUCT.
    """
    with _named(path):
        return {
            str(series.SeriesInstanceUID)
            for frame in _read(path).get("ReferencedFrameOfReferenceSequence", ())
            for study in frame.get("RTReferencedStudySequence", ())
            for series in study.get("RTReferencedSeriesSequence", ())
        }


def series_of(folder: Path) -> str | None:
    """Returns the UID of the image series in a folder.

    Args:
        folder: of DICOM slices.

    Returns:
        The UID of the first slice; None without one.

    Raises:
        UserError: no pydicom, or an unreadable slice.
    """
    return _tag_of_slice(folder, "SeriesInstanceUID")


def _drawn(
    path: Path, names: Mapping[str, Collection[str]], unlabelled: Collection[str], frame: str | None
) -> dict[str, tuple[str, list[np.ndarray]]]:
    """For every organ that is there, the name and the contours that it has in the structure set."""
    dataset = _read(path)
    drawn = {}
    with _named(path):
        for organ, candidates in names.items():
            structure = _find(path, dataset, organ, candidates, optional=organ in unlabelled)
            if structure is not None:
                _check_frame(path, structure, frame)
                drawn[organ] = str(structure.ROIName), _contours(dataset, structure)
    return drawn


def _find(path: Path, dataset: Any, organ: str, candidates: Collection[str], *, optional: bool) -> Any:
    """The entry of the structure set that carries one of an organ's names; None if there is none and may be none."""
    structures = list(dataset.get("StructureSetROISequence", ()))
    found = [structure for structure in structures if str(structure.ROIName) in candidates]
    if not found:
        wanted = {_plain(name) for name in candidates}
        found = [structure for structure in structures if _plain(str(structure.ROIName)) in wanted]
    if len(found) > 1:
        listed = ", ".join(str(structure.ROIName) for structure in found)
        fix = "name the one in contours.json by its exact name, or take one out"
        raise UserError(path, found=f"{len(found)} contours for {organ}: {listed}", wanted="one", fix=fix)
    if not found and not optional:
        there = ", ".join(sorted(str(structure.ROIName) for structure in structures)) or "no contour at all"
        fix = f"name it in contours.json, or {_undrawn(organ)}"
        raise UserError(path, found=f"no contour named {' or '.join(candidates)}", wanted=f"one of: {there}", fix=fix)
    return found[0] if found else None


def _undrawn(organ: str) -> str:
    return f"list {organ} in unlabelled.json if it was not drawn"


def _plain(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter not in " _-")


def _contours(dataset: Any, structure: Any) -> list[np.ndarray]:
    """The closed polygons [n, 3] of an entry, points z, y, x in mm."""
    return [
        points
        for drawn in dataset.get("ROIContourSequence", ())
        if drawn.get("ReferencedROINumber") == structure.ROINumber
        for contour in drawn.get("ContourSequence", ())
        if contour.get("ContourGeometricType") in _CLOSED and len(points := _points(contour)) > 2
    ]


def _points(contour: Any) -> np.ndarray:
    # The text in the file: making an object of each number, as pydicom does, takes 20 times as long.
    text = contour.get_item("ContourData").value
    values = np.array(text.split(b"\\") if isinstance(text, bytes) else text, float)
    return np.reshape(values, (-1, 3))[:, ::-1]


def _check_frame(path: Path, structure: Any, wanted: str | None) -> None:
    found = structure.get("ReferencedFrameOfReferenceUID")
    if found and wanted and found != wanted:
        raise UserError(
            f"{path}: {structure.ROIName}",
            found=f"frame of reference {found}",
            wanted=f"the image's {wanted}",
            fix="use the series that it was drawn on, or export both together",
        )


def _frame_of(image: Path) -> str | None:
    return _tag_of_slice(image, "FrameOfReferenceUID") if image.is_dir() else None


def _tag_of_slice(folder: Path, tag: str) -> str | None:
    files = sorted(file for file in folder.iterdir() if file.is_file())
    first = next((file for file in files if (kind := dicom_kind(file)) and not is_beside(kind)), None)
    return None if first is None else _read_dicom(first, specific_tags=[tag]).get(tag)


def _read(path: Path) -> Any:
    dataset = _read_dicom(path)
    for raw in map(dataset.get_item, list(dataset.keys())):
        if len(getattr(raw, "value", None) or b"") < getattr(raw, "length", 0) < _UNDEFINED_LENGTH:
            raise _broken(path, "the file ends early")
    if dataset.get("SOPClassUID") != STRUCTURE_SET:
        found = f"DICOM of kind {dataset.get('Modality', 'unknown')}"
        raise UserError(path, found=found, wanted="an RTSTRUCT", fix="export the structure set")
    return dataset


def _read_dicom(path: Path, **options: Any) -> Any:
    try:
        from pydicom import dcmread
        from pydicom.errors import InvalidDicomError
    except ImportError as error:
        wanted, fix = "pydicom, which reads RTSTRUCT files", "pip install 'ars_jax[rtstruct]'"
        raise UserError(path, found="no package pydicom", wanted=wanted, fix=fix) from error
    try:
        with _named(path):
            return dcmread(path, **options)
    except InvalidDicomError as error:
        raise _broken(path, error) from error


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Names the file whose bytes pydicom stumbles over, which it also does long after it read them."""
    try:
        yield
    except _BREAKS as error:
        raise _broken(path, error) from error


def _broken(path: Path, reason: object) -> UserError:
    return UserError(path, found=f"no whole DICOM file ({reason})", wanted="one", fix="export it again")
