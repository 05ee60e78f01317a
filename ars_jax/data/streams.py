"""What ITK does not notice or tell of a file.

A NIfTI stream that ends early, numbers that are none, a bad checksum, and what kind of object a DICOM file holds.
"""

import gzip
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
"""The kind of a DICOM file with contours, an RTSTRUCT."""

_WITHOUT_SLICES = (
    "1.2.840.10008.1.3.",  # directories of media
    "1.2.840.10008.5.1.4.1.1.11.",  # presentation states
    "1.2.840.10008.5.1.4.1.1.66",  # raw data, registrations, segmentations
    "1.2.840.10008.5.1.4.1.1.88.",  # reports
    "1.2.840.10008.5.1.4.1.1.104.",  # documents
    "1.2.840.10008.5.1.4.1.1.481.",  # radiotherapy: doses, plans, structure sets
)
_HEAD_BYTES = 1024
_CHUNK_BYTES = 1 << 20
_MOST_UNZIPPED = 1032  # bytes that one byte of deflate can stand for


def nifti_nonfinite(path: Path, *, offset: int, bits: int, floating: bool, voxels: int) -> np.ndarray | None:
    """Reads the whole stream of a NIfTI file, which ITK would fill up with zeros, and finds what is no number.

    Args:
        path: a .nii or .nii.gz file.
        offset: bytes before the first voxel.
        bits: per voxel.
        floating: whether the voxels are real floating point numbers.
        voxels: their number.

    Returns:
        Flat bool array, x fastest: where the file has NaN or infinity, which ITK reads as 0; None if nowhere.

    Raises:
        EOFError: the stream is shorter than the header says.
        OSError, zlib.error: it cannot be read, or its checksum is wrong.
    """
    wanted = offset + voxels * bits // 8
    with _opened(path) as stream:
        if (most := path.stat().st_size * (_MOST_UNZIPPED if isinstance(stream, gzip.GzipFile) else 1)) < wanted:
            raise EOFError(f"at most {most} of {wanted} bytes")  # before there is memory for them
        data = stream.read(max(wanted, 0))
        while stream.read(_CHUNK_BYTES):  # for the checksum at the end; the rest may be anything, and any amount
            pass
    if len(data) < wanted:
        raise EOFError(f"{len(data)} of {wanted} bytes")
    if not floating or bits not in (32, 64):
        return None
    little = int.from_bytes(data[:4], "little") in (348, 540)  # the header's own length
    values = np.frombuffer(data, f"{'<' if little else '>'}f{bits // 8}", voxels, offset)
    finite = np.isfinite(values)
    return None if finite.all() else ~finite


def nifti_place(path: Path) -> tuple[tuple[float, float, float], bool]:
    """Reads spacing and place as the header has them; ITK gives others where there are none.

    Args:
        path: a .nii or .nii.gz file.

    Returns:
        mm along z, y, x, and whether qform and sform, as far as they count, are numbers.

    Raises:
        EOFError, OSError, zlib.error: no whole header.
    """
    with _opened(path) as stream:
        head = stream.read(_HEAD_BYTES)
    second = 540 in (int.from_bytes(head[:4], order) for order in ("little", "big"))  # a NIfTI-2 header's length
    if len(head) < (540 if second else 348):
        raise EOFError("the header ends early")
    order = "<" if int.from_bytes(head[:4], "little") in (348, 540) else ">"
    code, number = (f"{order}i4", f"{order}f8") if second else (f"{order}i2", f"{order}f4")
    z, y, x = map(float, np.frombuffer(head, number, 3, 112 if second else 80)[::-1])
    codes = np.frombuffer(head, code, 2, 344 if second else 252)
    numbers = np.frombuffer(head, number, 18, 352 if second else 256)
    forms = zip(codes, (numbers[:6], numbers[6:]), strict=True)
    return (z, y, x), all(bool(np.isfinite(form).all()) for counts, form in forms if counts > 0)


def _opened(path: Path) -> BinaryIO:
    """A file, unzipped where it is zipped, whatever its name says."""
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path)) if zipped else path.open("rb")


def check_metaimage(path: Path) -> None:
    """Verifies the compressed stream of a .mha file, whose checksum ITK ignores.

    Args:
        path: the file; uncompressed ones pass.

    Raises:
        EOFError: the stream ends early.
        OSError, zlib.error: it cannot be read, or its checksum is wrong.
    """
    head, _, data = path.read_bytes().partition(b"ElementDataFile = LOCAL")
    if b"CompressedData = True" in head:
        stream = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        rest = data.partition(b"\n")[2]
        while rest and not stream.eof:  # in pieces, since a few bytes may unfold to any amount
            stream.decompress(rest, _CHUNK_BYTES)
            rest = stream.unconsumed_tail
        if not stream.eof:
            raise EOFError("the compressed stream ends early")


def dicom_kind(path: Path) -> str:
    """Reads what a DICOM file holds from its first bytes, which are in one form for all of them.

    Args:
        path: any file.

    Returns:
        The UID of its storage class (PS3.10, element 0002,0002); empty for other files, for files that lack this
        element, and for what cannot be read.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(_HEAD_BYTES)
    except OSError:
        return ""
    if head[128:132] != b"DICM":
        return ""
    value = head[132:].partition(b"\x02\x00\x02\x00UI")[2]
    return value[2 : 2 + int.from_bytes(value[:2], "little")].rstrip(b"\0 ").decode("ascii", "replace")


def is_beside(kind: str) -> bool:
    """Whether DICOM files of this kind lie beside the slices of an image and are none of them."""
    return kind.startswith(_WITHOUT_SLICES)
