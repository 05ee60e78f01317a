"""Volumes with their place in space: read, write, reorient and resample.

The only file that knows SimpleITK. Every array and every tuple outside of it is ordered z, y, x; lengths are
millimetres in the patient's LPS system (x grows to the Left, y to Posterior, z to Superior).
"""

import contextlib
import math
import os
import secrets
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import SimpleITK as sitk

from ars_jax.data.geometry import Geometry, in_words, mismatches
from ars_jax.data.streams import check_metaimage, dicom_kind, is_beside, nifti_nonfinite, nifti_place
from ars_jax.errors import UserError

sitk.ProcessObject.SetGlobalWarningDisplay(False)

_READERS: dict[str, str] = {".nii.gz": "NiftiImageIO", ".nii": "NiftiImageIO"}
_READERS |= {".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}
READABLE = tuple(_READERS)
WRITABLE = (".nii", ".nii.gz", ".nrrd", ".mha")  # one file each, so that writing can be atomic
_NIFTI_FLOATS = (16, 64)
_SLICE_TOLERANCE_MM = 0.1
_SPACINGS_MM = (1e-6, 1e4)  # beyond are mistakes of units or of headers
_FARTHEST_MM = 1e6
_MOST_VOXELS = 1 << 31  # four times a CT of 512 x 512 x 2000


@dataclass(frozen=True)
class Volume:
    """An array and the grid it lies on.

    Args:
        array: voxels [z, y, x].
        geometry: the grid; its shape is the array's.

    Raises:
        ValueError: the shapes differ.
    """

    array: np.ndarray
    geometry: Geometry

    def __post_init__(self) -> None:
        if self.array.shape != self.geometry.shape:
            raise ValueError(f"array shape {self.array.shape} is not the geometry's shape {self.geometry.shape}")


def read_volume(path: str | Path) -> Volume:
    """Reads a volume from a file or from a folder that holds one DICOM series.

    Args:
        path: a .nii, .nii.gz, .nrrd, .nhdr, .mha or .mhd file, or a folder of DICOM slices. A fourth axis of length 1
            is dropped.

    Returns:
        The volume with the element type of the file (native byte order; NIfTI files with a scale factor become floats).
        In NIfTI files infinity is read as NaN.

    Raises:
        UserError: no such file, not readable, incomplete, not 3-D, more than one value per voxel; or a folder without
            or with several DICOM series, or with missing slices.
    """
    path = Path(path)
    image, nonfinite = (_read_series(path), None) if os.path.isdir(path) else _read_file(path)
    _check_axes(path, image.GetSize(), image.GetNumberOfComponentsPerPixel())
    array = sitk.GetArrayFromImage(image if image.GetDimension() == 3 else image[:, :, :, 0])
    if nonfinite is not None:
        array[nonfinite.reshape(array.shape)] = np.nan
    return Volume(array, _geometry(path, image))


def read_geometry(path: str | Path) -> Geometry:
    """Reads the grid of a volume; of files only the header is read, of DICOM series every slice.

    Args:
        path: as for `read_volume`.

    Returns:
        The grid.

    Raises:
        UserError: as for `read_volume`, but a file with a whole header and incomplete voxels passes.
    """
    path = Path(path)
    if os.path.isdir(path):
        return read_volume(path).geometry
    reader = _header(path)
    _check_axes(path, reader.GetSize(), reader.GetNumberOfComponents())
    return _geometry(path, reader)


def write_volume(path: str | Path, volume: Volume) -> None:
    """Writes a volume, so that the file is there whole or not at all.

    Args:
        path: a name ending in .nii, .nii.gz, .nrrd or .mha, which decides the format; missing folders are made.
        volume: what to write. The element type is kept; bool is written as uint8.

    Raises:
        UserError: another ending, or the place cannot be written.
    """
    path = Path(path)
    if _suffix(path) not in WRITABLE:
        raise _fault(path, f"ending '{path.suffix}'", ", ".join(WRITABLE), "choose one of these")
    # The real name comes last because its ending tells ITK the format.
    temporary = path.with_name(f".tmp-{os.getpid()}-{secrets.token_hex(4)}.{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(_to_image(volume), str(temporary), useCompression=_suffix(path) != ".nii")
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        fix = "check the folder, your rights and the free space"
        raise _fault(path, _cause(error), "a place that can be written", fix) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def canonical(volume: Volume) -> Volume:
    """Permutes and flips the axes so that the direction is the nearest to the identity; no voxel changes its value.

    Args:
        volume: any orientation; oblique ones go to the nearest.

    Returns:
        The same voxels with index x growing to the patient's Left, y to Posterior and z to Superior.
    """
    image = sitk.DICOMOrient(_to_image(volume), "LPS")
    array = sitk.GetArrayFromImage(image).astype(volume.array.dtype, copy=False)
    return Volume(array, _geometry("volume", image))


def resample(volume: Volume, target: Geometry, *, interpolation: Literal["linear", "nearest"], fill: float) -> Volume:
    """Samples a volume at the voxel centres of another grid, by physical position.

    Args:
        volume: the source.
        target: the grid of the result.
        interpolation: "linear" for images (the result is float32), "nearest" for labels (the element type is kept).
        fill: the value outside of the source.

    Returns:
        The volume on the target grid.
    """
    dtype = np.dtype(np.float32) if interpolation == "linear" else volume.array.dtype
    method = sitk.sitkLinear if interpolation == "linear" else sitk.sitkNearestNeighbor
    image = _to_image(Volume(volume.array.astype(dtype, copy=False), volume.geometry))
    size, spacing, origin, direction = _to_itk(target)
    image = sitk.Resample(image, size, sitk.Transform(), method, origin, spacing, direction, fill, image.GetPixelID())
    return Volume(sitk.GetArrayFromImage(image).astype(dtype, copy=False), target)


def map_to(volume: Volume, geometry: Geometry) -> Volume:
    """Brings a label map onto a grid by nearest neighbour; a label map that lies on it already is passed through.

    Args:
        volume: label map.
        geometry: the grid of the result.

    Returns:
        The label map on the grid, 0 where the source has no voxels.
    """
    if not mismatches(volume.geometry, geometry):
        return Volume(volume.array, geometry)
    return resample(volume, geometry, interpolation="nearest", fill=0)


def _suffix(path: Path) -> str:
    name = path.name.lower()
    return next((end for end in READABLE if name.endswith(end)), "")


def _fault(path: str | Path, found: str, wanted: str = "a whole 3-D volume", fix: str = "export it again") -> UserError:
    return UserError(path, found=found, wanted=wanted, fix=fix)


def _cause(error: Exception) -> str:
    """The reason in an ITK message, without its source lines, addresses and paths."""
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    last = str(error).strip().splitlines()[-1]
    if last.startswith("Reason: "):  # MetaImage's reasons are leftovers of the C library
        return "not a whole MetaImage"
    for mark in ("ERROR: ", "): ", "] "):
        last = last.rpartition(mark)[2]
    return last.strip()


def _header(path: Path) -> sitk.ImageFileReader:
    try:  # ITK reports a missing file or a lack of rights as a wrong format
        with path.open("rb") as stream:
            if not stream.read(1):
                raise _fault(path, "an empty file")
    except OSError as error:
        raise _fault(path, _cause(error), fix="check the path and your rights") from error
    if _suffix(path) not in READABLE:
        wanted = f"{', '.join(READABLE)} or a folder with one DICOM series"
        raise _fault(path, f"ending '{path.suffix}'", wanted, "convert the file, or name the folder of the slices")
    reader = sitk.ImageFileReader()
    reader.SetImageIO(_READERS[_suffix(path)])
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        if "orthonormal" in str(error):
            raise _fault(path, "a sheared affine", "axes at right angles", "correct sform and qform") from error
        raise _fault(path, _cause(error)) from error
    if _READERS[_suffix(path)] == "NiftiImageIO":
        _check_nifti(path)
    return reader


def _check_nifti(path: Path) -> None:
    """Raises where a NIfTI header has no spacing or place, for which ITK would take others."""
    try:
        sides, placed = nifti_place(path)
    except (OSError, EOFError, zlib.error) as error:
        raise _fault(path, f"an incomplete or damaged file ({_cause(error)})") from error
    if not all(0 < side < math.inf for side in sides):
        raise _fault(path, f"spacing {in_words(sides, ' mm')} in pixdim", "positive sides", "correct the header")
    if not placed:
        raise _fault(path, "NaN or infinity in qform or sform", "numbers", "correct the header")


def _read_file(path: Path) -> tuple[sitk.Image, np.ndarray | None]:
    """The image, and where a NIfTI file has no numbers, since ITK makes them 0."""
    reader = _header(path)
    _check_axes(path, reader.GetSize(), reader.GetNumberOfComponents())
    try:
        nonfinite = _check_stream(path, reader)
        return reader.Execute(), nonfinite
    except (OSError, EOFError, zlib.error, RuntimeError) as error:
        raise _fault(path, f"an incomplete or damaged file ({_cause(error)})") from error


def _check_axes(path: Path, size: Sequence[int], components: int) -> None:
    if components != 1:
        raise _fault(path, f"{components} values per voxel")
    if len(size) != 3 and not (len(size) == 4 and size[3] == 1):
        sides = " x ".join(str(side) for side in size)
        raise _fault(path, f"{len(size)}-D data of {sides} voxels (x first)")
    _check_voxels(path, size)


def _check_voxels(path: Path, size: Sequence[int]) -> None:
    """Raises where there is no voxel, and where a header asks for more memory than any volume needs."""
    sides = " x ".join(str(side) for side in size)
    if not math.prod(size):
        raise _fault(path, f"{sides} voxels (x first)")
    if math.prod(size) > _MOST_VOXELS:
        raise _fault(path, f"{sides} voxels (x first)", f"at most {_MOST_VOXELS} voxels", "correct the header, or crop")


def _check_stream(path: Path, reader: sitk.ImageFileReader) -> np.ndarray | None:
    if _suffix(path) == ".mha":
        check_metaimage(path)
    if _READERS[_suffix(path)] != "NiftiImageIO":
        return None
    header = {key: float(reader.GetMetaData(key)) for key in ("vox_offset", "bitpix", "datatype")}
    return nifti_nonfinite(
        path,
        offset=int(header["vox_offset"]),
        bits=int(header["bitpix"]),
        floating=header["datatype"] in _NIFTI_FLOATS,
        voxels=math.prod(reader.GetSize()),
    )


def _read_series(folder: Path) -> sitk.Image:
    try:
        reader = sitk.ImageSeriesReader()
        found = {uid: reader.GetGDCMSeriesFileNames(str(folder), uid) for uid in reader.GetGDCMSeriesIDs(str(folder))}
        series = {uid: names for uid, names in found.items() if not is_beside(dicom_kind(Path(names[0])))}
        names = _only_series(folder, series)
        _check_slices(folder, names)
        reader.SetImageIO("GDCMImageIO")
        reader.SetFileNames(names)
        return reader.Execute()
    except RuntimeError as error:
        raise _fault(folder, f"DICOM slices that do not form a volume ({_cause(error)})") from error


def _only_series(folder: Path, series: Mapping[str, Sequence[str]]) -> Sequence[str]:
    if not series:
        raise _fault(folder, "a folder without DICOM series", "one series", "check the path")
    if len(series) > 1:
        listed = ", ".join(f"{uid} ({len(files)} files)" for uid, files in series.items())
        raise _fault(folder, f"{len(series)} DICOM series: {listed}", "one series", "make one folder per series")
    (names,) = series.values()
    # GDCM leaves out slices that it cannot read, which would shorten the volume in silence.
    lost = {file.name for file in folder.glob("*.dcm")} - {Path(name).name for name in names}
    for name in sorted(lost):
        if not is_beside(dicom_kind(folder / name)):
            raise _fault(folder / name, "an unreadable DICOM slice")
    return names


def _check_slices(folder: Path, names: Sequence[str]) -> None:
    """Raises where slices are missing or sheared: ITK would stretch the others over the gap."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    origins: list[tuple[float, ...]] = []
    normal = np.zeros(3)
    for name in names:
        reader.SetFileName(name)
        reader.ReadImageInformation()
        _check_voxels(folder, (*reader.GetSize(), len(names)))
        origins.append(reader.GetOrigin())
        normal = np.array(reader.GetDirection()[2::3])
    if len(names) < 2:
        return
    places = np.array(origins)
    steps = places[1:] - places[:-1]
    along = steps @ normal
    if np.ptp(along) > _SLICE_TOLERANCE_MM:
        widest = Path(names[int(along.argmax())]).name
        found = f"slices {along.min():g} to {along.max():g} mm apart (most after {widest})"
        raise _fault(folder, found, "equal steps", "add the missing or take out the doubled slices")
    if np.abs(steps - along[:, None] * normal).max() > _SLICE_TOLERANCE_MM:
        raise _fault(folder, "slices shifted against each other (tilted gantry)")


def _geometry(path: str | Path, image: sitk.Image | sitk.ImageFileReader) -> Geometry:
    rank = len(image.GetSize())
    nx, ny, nz = image.GetSize()[:3]
    sx, sy, sz = image.GetSpacing()[:3]
    # Adding 0.0 turns the header's -0.0 into 0.0, which messages would show.
    ox, oy, oz = (value + 0.0 for value in image.GetOrigin()[:3])
    matrix = np.reshape(image.GetDirection(), (rank, rank))[:3, :3][::-1, ::-1]
    direction = tuple(float(value) + 0.0 for value in matrix.ravel())
    if not all(map(math.isfinite, (sx, sy, sz, ox, oy, oz, *direction))):
        raise _fault(path, "a header with NaN or infinity")
    if not _SPACINGS_MM[0] <= min(sx, sy, sz) <= max(sx, sy, sz) <= _SPACINGS_MM[1]:
        wanted = f"{_SPACINGS_MM[0]:g} to {_SPACINGS_MM[1]:g} mm"
        raise _fault(path, f"spacing {in_words((sz, sy, sx), ' mm')}", wanted, "correct the header")
    if max(abs(ox), abs(oy), abs(oz)) > _FARTHEST_MM:
        wanted = f"within {_FARTHEST_MM:g} mm"
        raise _fault(path, f"origin {in_words((oz, oy, ox), ' mm')}", wanted, "correct the header")
    return Geometry((nz, ny, nx), (sz, sy, sx), (oz, oy, ox), direction)


def _to_itk(geometry: Geometry) -> tuple[list[int], list[float], list[float], list[float]]:
    size = [int(side) for side in geometry.shape[::-1]]
    values = (geometry.spacing, geometry.origin, geometry.direction)  # a matrix reads backwards as both axes reversed
    spacing, origin, direction = ([float(value) for value in reversed(row)] for row in values)
    return size, spacing, origin, direction


def _to_image(volume: Volume) -> sitk.Image:
    array = volume.array.astype(np.uint8) if volume.array.dtype == bool else np.ascontiguousarray(volume.array)
    image = sitk.GetImageFromArray(array, isVector=False)
    _, spacing, origin, direction = _to_itk(volume.geometry)
    image.SetSpacing(spacing)
    image.SetOrigin(origin)
    image.SetDirection(direction)
    return image
