"""What ITK does not notice in a file: a NIfTI stream that ends early, numbers that are none, a bad checksum."""

import gzip
import zlib
from pathlib import Path

import numpy as np


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
    with path.open("rb") as stream:
        zipped = stream.read(2) == b"\x1f\x8b"
    with gzip.open(path) if zipped else path.open("rb") as stream:
        data = stream.read()
    wanted = offset + voxels * bits // 8
    if len(data) < wanted:
        raise EOFError(f"{len(data)} of {wanted} bytes")
    if not floating or bits not in (32, 64):
        return None
    little = int.from_bytes(data[:4], "little") in (348, 540)  # the header's own length
    values = np.frombuffer(data, f"{'<' if little else '>'}f{bits // 8}", voxels, offset)
    finite = np.isfinite(values)
    return None if finite.all() else ~finite


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
        stream.decompress(data.partition(b"\n")[2])
        if not stream.eof:
            raise EOFError("the compressed stream ends early")
