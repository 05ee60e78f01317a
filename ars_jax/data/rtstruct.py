"""DICOM structure sets (RTSTRUCT): the contours of organs, drawn in the planes of an image, as voxels of its grid.

Contours are polygons of points in the patient's space. pydicom, which is an extra, reads them; they are filled here,
since what fills polygons elsewhere rounds their corners to voxels first and counts the whole rim as inside.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ars_jax.data.streams import STRUCTURE_SET, dicom_kind, is_beside
from ars_jax.data.volumes import Geometry
from ars_jax.errors import UserError

_BREAKS = (OSError, EOFError, ValueError, LookupError, AttributeError, TypeError, NotImplementedError)
_UNDEFINED_LENGTH = 0xFFFFFFFF
_CLOSED = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
_SAME_PLANE_MM = 0.1
_FLAT = 0.25  # of a slice: what a contour may leave its plane by
_THICKEST_MM = 5.0
_DECIMALS = 3  # of a voxel: corners on voxel centres, as exports of label maps have, must not fall to either side


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
            reference, contours across the slices or outside of the image.
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


def fill_contours(contours: Sequence[np.ndarray], geometry: Geometry, name: object = "contours") -> np.ndarray:
    """Finds the voxels whose centres lie inside of an organ's contours.

    In a plane the even-odd rule counts: a contour inside of another cuts a hole, and so does a slit to an inner loop
    (PS3.3, C.8.8.6.3). A contour that is there twice counts once. Of a centre on a line, the sides of lower index are
    inside and the others outside.

    Each plane stands for a slab as thick as the planes are apart (their median distance, at least one slice and at
    most 5 mm), so that contours of thicker slices, or between the slices, keep their volume. A slice takes the nearest
    plane whose slab holds its centre.

    Args:
        contours: polygons [n, 3], points z, y, x in mm (LPS).
        geometry: the grid to fill.
        name: what they are, for messages.

    Returns:
        bool [z, y, x].

    Raises:
        UserError: a contour that is not parallel to the slices, or a plane outside of the image.
    """
    matrix = np.reshape(geometry.direction, (3, 3))
    indices = [np.round((points - geometry.origin) @ matrix / geometry.spacing, _DECIMALS) for points in contours]
    planes = _planes(indices, geometry, name)
    heights = np.array(list(planes))
    step = _slab(heights, geometry.spacing[0])
    mask = np.zeros(geometry.shape, bool)
    corner, box = _box(indices, geometry.shape)
    for index, slice_mask in enumerate(mask[:, *box]):
        distance = index - heights
        inside = (distance >= -step / 2 - 1e-3) & (distance < step / 2 - 1e-3)
        if inside.any():
            nearest = heights[np.where(inside, np.abs(distance), np.inf).argmin()]
            slice_mask[:] = even_odd([polygon - corner for polygon in planes[float(nearest)]], slice_mask.shape)
    return mask


def even_odd(polygons: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Finds the pixels whose centres are inside of an odd number of polygons.

    Args:
        polygons: [n, 2], corners y, x in pixels; the last is joined to the first.
        shape: pixels y, x.

    Returns:
        bool [y, x].
    """
    height, width = shape
    crossings = np.zeros((height, width + 1), np.uint8)  # only their parity counts, so they may wrap round
    for corners in polygons:
        (y0, x0), (y1, x1) = corners.T, np.roll(corners, -1, axis=0).T
        first, stop = np.ceil(np.minimum(y0, y1)).astype(int), np.ceil(np.maximum(y0, y1)).astype(int)
        edge = np.repeat(np.arange(len(corners)), stop - first)
        row = np.arange(len(edge)) - np.repeat(np.cumsum(stop - first) - stop, stop - first)
        x = x0[edge] + (row - y0[edge]) * (x1 - x0)[edge] / (y1 - y0)[edge]
        column = np.clip(np.ceil(np.round(x, 2 * _DECIMALS)), 0, width).astype(int)
        inside = (row >= 0) & (row < height)
        np.add.at(crossings, (row[inside], column[inside]), 1)
    return np.bitwise_xor.accumulate(crossings[:, :width] % 2, axis=1).astype(bool)


def _planes(indices: Sequence[np.ndarray], geometry: Geometry, name: object) -> dict[float, list[np.ndarray]]:
    """The polygons y, x of every plane by its height in slices; doubled polygons are left out."""
    thickness, slices = geometry.spacing[0], geometry.shape[0]
    planes: dict[float, dict[bytes, np.ndarray]] = {}
    height = -np.inf
    for points in sorted(indices, key=lambda points: points[:, 0].mean()):
        if np.ptp(points[:, 0]) > _FLAT:
            found = f"a contour {np.ptp(points[:, 0]) * thickness:.3g} mm out of its plane"
            fix = "use the series that it was drawn on"
            raise UserError(name, found=found, wanted="contours parallel to the image's slices", fix=fix)
        if (points[:, 0].mean() - height) * thickness > _SAME_PLANE_MM:
            height = float(points[:, 0].mean())
        planes.setdefault(height, {})[np.unique(points[:, 1:], axis=0).tobytes()] = points[:, 1:]
    for height in planes:
        if not -1 < height < slices:
            place = f"{height * thickness:.4g} mm from the first slice"
            wanted = f"from 0 to {(slices - 1) * thickness:.4g} mm"
            raise UserError(name, found=f"a contour {place}", wanted=wanted, fix="use the series that it was drawn on")
    return {height: list(polygons.values()) for height, polygons in planes.items()}


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


def _box(indices: Sequence[np.ndarray], shape: Sequence[int]) -> tuple[np.ndarray, tuple[slice, slice]]:
    """The pixels y, x that polygons may reach, and the first of them: filling whole slices takes most of the time."""
    points = np.concatenate(indices)[:, 1:]
    first = np.clip(np.floor(points.min(axis=0)), 0, shape[1:]).astype(int)
    stop = np.clip(np.ceil(points.max(axis=0)) + 1, first, shape[1:]).astype(int)
    return first, (slice(first[0], stop[0]), slice(first[1], stop[1]))


def _slab(heights: np.ndarray, thickness: float) -> float:
    """How many slices a plane stands for."""
    apart = float(np.median(np.diff(heights))) if len(heights) > 1 else 1.0
    return max(1.0, min(apart, _THICKEST_MM / thickness))


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
