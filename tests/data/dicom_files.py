"""DICOM files as a clinic exports them: CT slices and structure sets, made with pydicom."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RTDoseStorage, RTStructureSetStorage, generate_uid

from ars_jax.data.geometry import Geometry
from ars_jax.data.volumes import Volume

FRAME = generate_uid(entropy_srcs=["frame of reference"])
SERIES = generate_uid(entropy_srcs=["series"])


def xyz(points: np.ndarray) -> np.ndarray:
    return np.asarray(points, float)[..., ::-1]


def positions(geometry: Geometry, index: np.ndarray) -> np.ndarray:
    """LPS points z, y, x in mm of (fractional) voxel indices z, y, x."""
    matrix = np.reshape(geometry.direction, (3, 3))
    return geometry.origin + np.asarray(index) * geometry.spacing @ matrix.T


def header(storage: str, name: str) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = storage
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[name])
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
    dataset.PatientName, dataset.PatientID = "Nobody", "0"
    return dataset


def write_series(
    folder: Path, volume: Volume, *, series: str = SERIES, frame: str = FRAME, ending: str = ".dcm"
) -> Path:
    """Writes a CT as one file per slice, in an order of names that says nothing about their place."""
    folder.mkdir(parents=True, exist_ok=True)
    direction = np.reshape(volume.geometry.direction, (3, 3))
    for index, pixels in enumerate(volume.array.astype(np.int16)):
        dataset = header(CTImageStorage, f"{series} {index}")
        dataset.Modality, dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = "CT", series, frame
        dataset.InstanceNumber = index + 1
        dataset.ImageOrientationPatient = [*xyz(direction[:, 2]), *xyz(direction[:, 1])]
        dataset.ImagePositionPatient = [*xyz(positions(volume.geometry, np.array([index, 0, 0])))]
        dataset.PixelSpacing = [*volume.geometry.spacing[1:]]
        dataset.SliceThickness = volume.geometry.spacing[0]
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 1
        dataset.RescaleIntercept, dataset.RescaleSlope = 0, 1
        dataset.PixelData = pixels.tobytes()
        dataset.save_as(folder / f"{(7 * index) % 997:03d}{ending}", enforce_file_format=True)
    return folder


def write_dose(path: Path) -> Path:
    """Writes a dose file: DICOM, with pixels, but not the image that organs are drawn on."""
    dataset = header(RTDoseStorage, "dose")
    dataset.Modality, dataset.SeriesInstanceUID = "RTDOSE", generate_uid(entropy_srcs=["dose series"])
    dataset.Rows = dataset.Columns = 2
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 16, 15, 0
    dataset.PixelData = bytes(8)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def write_structures(
    path: Path,
    contours: Mapping[str, Sequence[np.ndarray]] | Sequence[tuple[str, Sequence[np.ndarray]]],
    *,
    series: str = SERIES,
    frame: str = FRAME,
    kind: str = "CLOSED_PLANAR",
) -> Path:
    """Writes an RTSTRUCT; each contour is an array of LPS points z, y, x in mm."""
    dataset = header(RTStructureSetStorage, "structures")
    dataset.Modality, dataset.SeriesInstanceUID = "RTSTRUCT", generate_uid(entropy_srcs=["structure series"])
    dataset.StructureSetROISequence, dataset.ROIContourSequence = [], []
    referenced, study, image = Dataset(), Dataset(), Dataset()
    image.SeriesInstanceUID = series
    study.RTReferencedSeriesSequence = [image]
    referenced.FrameOfReferenceUID, referenced.RTReferencedStudySequence = frame, [study]
    dataset.ReferencedFrameOfReferenceSequence = [referenced]
    pairs = contours.items() if isinstance(contours, Mapping) else contours
    for number, (name, polygons) in enumerate(pairs, start=1):
        structure, drawn = Dataset(), Dataset()
        structure.ROINumber, structure.ROIName, structure.ReferencedFrameOfReferenceUID = number, name, frame
        drawn.ReferencedROINumber = number
        items = []
        for polygon in polygons:
            item = Dataset()
            item.ContourGeometricType, item.NumberOfContourPoints = kind, len(polygon)
            item.ContourData = [f"{value:.6g}" for value in xyz(polygon).ravel()]
            items.append(item)
        if items:  # an organ of the clinic's template that nobody drew has no sequence at all
            drawn.ContourSequence = items
        dataset.StructureSetROISequence.append(structure)
        dataset.ROIContourSequence.append(drawn)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def box_contours(label: np.ndarray, geometry: Geometry, value: int) -> list[np.ndarray]:
    """The outline of a box-shaped organ in every slice that it meets, along the edges of its voxels."""
    slices, rows, columns = (np.flatnonzero((label == value).any(axis=a)) for a in ((1, 2), (0, 2), (0, 1)))
    y0, y1, x0, x1 = rows[0] - 0.5, rows[-1] + 0.5, columns[0] - 0.5, columns[-1] + 0.5
    corners = [(y0, x0), (y0, x1), (y1, x1), (y1, x0)]
    return [positions(geometry, np.array([(z, *corner) for corner in corners])) for z in slices]


def read(path: Path) -> Dataset:
    return pydicom.dcmread(path)
