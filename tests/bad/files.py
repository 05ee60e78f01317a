"""Files as nobody should write them, drawn by hypothesis: volumes, JSON, YAML and .npz, by their bytes."""

import gzip
import io
import json
import math
import os
import struct
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hypothesis import strategies as st

ABSOLUTE = str(Path(tempfile.gettempdir()) / f"ars-jax-escaped-{os.getpid()}")
"""A place where nothing is to be written, nor by another process at the same time."""

HOSTILE = (
    "",
    " ",
    ".",
    "../../x",
    ABSOLUTE,
    "a/b",
    "a\0b",
    "a\nb",
    "\x1b[31m",
    "[red]b[/red]",
    "<script>alert(1)</script>",
    "$x^{$",
    "%s{}\\",
    "☢ ü ",
    "\ud800",
    "x" * 300,
    "-1",
    "null",
    ":x:",
    "__class__",
)
"""Names that file systems, terminals, pages, figures and parsers read as something else."""

NUMBERS = (0, -1, 1, 2, 3, 255, 256, 65536, 2**31, 2**63, 2**64, 10**30, -(10**30), 0.5, -0.0, 1e-320, 1e308, 1e999)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from(NUMBERS),
    st.just(math.nan),
    st.just(-math.inf),
    st.sampled_from(HOSTILE),
    st.integers(-3, 40),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(HOSTILE), inner, max_size=3),
        st.tuples(inner, inner, inner).map(list),
    ),
    max_leaves=8,
)
TEXTS = (
    b"",
    b"\0",
    b"\xff\xfe{\0}\0",
    b"\xef\xbb\xbf{}",
    bytes(range(256)),
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b"1" * 6000,
    b"-",
    b"{",
    b"[]",
    b"{}",
    b"null",
    b"NaN",
    b'"text"',
    b"3",
    b"{'a': 1}",
    b'{"a": 1, "a": 2}',
    b"\n" * 5000,
    b"caf\xe9",
)
"""Contents that no table or configuration has."""


@st.composite
def _changed(draw: Any, document: Any) -> Any:
    """A document of which one part, however deep, is replaced, missing or new."""
    if isinstance(document, dict) and document and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(document)))
        return {**document, key: draw(_changed(document[key]))}
    if isinstance(document, list) and document and draw(st.integers(0, 3)):
        place = draw(st.integers(0, len(document) - 1))
        return [*document[:place], draw(_changed(document[place])), *document[place + 1 :]]
    if isinstance(document, dict) and draw(st.booleans()):
        names = st.sampled_from([*HOSTILE, *document])
        kept = {name: value for name, value in document.items() if draw(st.booleans())}
        return {**kept, draw(names): draw(values)}
    return draw(values)


@st.composite
def json_like(draw: Any, document: Any) -> bytes:
    """JSON that is nearly the document, cut short, or no JSON at all."""
    if not draw(st.integers(0, 3)):
        return draw(st.sampled_from(TEXTS))
    text = json.dumps(draw(_changed(document))).encode()
    return text[: draw(st.integers(0, len(text)))] if not draw(st.integers(0, 5)) else text


LAUGHS = "a0: &a0 [ha, ha]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 50))
YAML_LINES = (
    LAUGHS,
    "train: &a {epochs: *a}",
    "train: &a [*a]",
    "model: !!python/object/apply:os.system ['touch EXECUTED']",
    "model: !!python/name:os.system ''",
    "model: {class_path: EXECUTED.Model}",
    "model: EXECUTED.Model",
    "data: {class_path: subprocess.Popen, init_args: {args: [touch, EXECUTED]}}",
    "train: {epochs: 1, epochs: 2}",
    "train:\n\tepochs: 1",
    "train: {epochs: 1e999}",
    "train: {seed: -0x7}",
    f"train: {'[' * 5000}{']' * 5000}",
    f"train: {'{a: ' * 500}1{'}' * 500}",
    f"train: {{epochs: {'9' * 5000}}}",
    "? [a, b]\n: 1",
    "1: 2",
    "---\na: 1\n---\nb: 2",
    "train: {epochs: 2020-01-01}",
    "train: {epochs: 1:30}",
    "train: !!binary aGFo",
    "<<: {train: {epochs: 1}}",
    "config: config.yaml",
    "help: true",
    "print_config: x",
    "train: null",
    "train: [1, 2]",
    "train: 3",
    "%YAML 9.9",
    "a: 'unclosed",
    "# caf\udce9",
)
"""Lines that are to be refused, or to mean nothing, at the end of a configuration."""


@st.composite
def yaml_like(draw: Any, document: Any) -> bytes:
    """YAML that is nearly the document, with a deceiving line, or no YAML at all."""
    how = draw(st.integers(0, 5))
    if how == 0:
        return draw(st.sampled_from(TEXTS))
    if how <= 2:
        text = yaml.safe_dump(document) + draw(st.sampled_from(YAML_LINES))
        return text.encode("utf-8", "surrogateescape")
    return yaml.safe_dump(_dumpable(draw(_changed(document)))).encode()


def _dumpable(value: Any) -> Any:
    if isinstance(value, dict):
        return {_dumpable(key): _dumpable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_dumpable(item) for item in value]
    return value.replace("\ud800", "?") if isinstance(value, str) else value


SHAPES = ((8, 8, 8), (8, 8, 8), (8, 8, 8), (8, 8), (8,), (0, 8, 8), (8, 8, 8, 1), (4, 4, 8, 4), (8, 8, 1), (1, 1, 1))
TYPES = {
    "<i2": (4, 16),
    "<f4": (16, 32),
    "<f8": (64, 64),
    "<u1": (2, 8),
    "<u8": (1280, 64),
    "<c8": (32, 64),
    ">i2": (4, 16),
    ">f4": (16, 32),
}
SPACINGS = (1.0, 1.0, 3.0, 0.0, -1.0, 1e-30, 1e30, 1e4, math.nan, math.inf, 1e-6)
FILLS = (math.nan, math.inf, 3e38, -3e38, 1e30, -2000.0, 0.5, 7.0)
TURNS = (
    None,
    None,
    None,
    np.zeros((3, 4)),
    np.full((3, 4), math.nan),
    np.array([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]),
    np.array([[1, 0, 0, 1e30], [0, 1, 0, 0], [0, 0, 1, -1e38]]),
    np.array([[-1, 0, 0, 5], [0, 0, 1, 5], [0, 1, 0, 5]]),
    np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]),
)
Grid = tuple[tuple[int, ...], tuple[float, float, float], np.ndarray | None]
grids = st.tuples(
    st.sampled_from(SHAPES),
    st.tuples(*[st.sampled_from(SPACINGS)] * 3) | st.just((1.0, 1.0, 1.0)),
    st.sampled_from(TURNS),
)
"""Shape, spacing and affine of a NIfTI header."""


@st.composite
def nifti(draw: Any, grid: Grid, *, label: bool = False) -> bytes:
    """A NIfTI file, mostly readable, with voxels or a header that may be wrong."""
    shape, spacing, affine = grid
    dtype = draw(st.sampled_from(["<u1", "<i2", *TYPES] if label else ["<i2", "<f4", *TYPES]))
    code, bits = TYPES[dtype]
    with np.errstate(all="ignore"):
        voxels = _voxels(draw, math.prod(shape), label).astype(dtype)
    end = dtype[0]
    head = bytearray(352)
    sides = [len(shape), *shape, *[1] * (7 - len(shape))]
    struct.pack_into(f"{end}i", head, 0, 348)
    struct.pack_into(f"{end}8h", head, 40, *sides)
    struct.pack_into(f"{end}hh", head, 70, code, bits)
    struct.pack_into(f"{end}8f", head, 76, 1.0, *spacing, 1.0, 1.0, 1.0, 1.0)
    struct.pack_into(f"{end}fff", head, 108, 352.0, 1.0, 0.0)
    if affine is not None:
        struct.pack_into(f"{end}hh", head, 252, 0, 1)
        struct.pack_into(f"{end}12f", head, 280, *affine.ravel())
    head[344:348] = b"n+1\0"
    if not draw(st.integers(0, 3)):
        place, form = draw(
            st.sampled_from([(0, "i"), (40, "h"), (42, "h"), (70, "h"), (72, "h"), (108, "f"), (112, "f")])
        )
        number = draw(st.sampled_from([0, -1, 9, 32767, 128, 1536]))
        struct.pack_into(f"{end}{form}", head, place, number)
    return bytes(head) + voxels.tobytes()


def _voxels(draw: Any, count: int, label: bool) -> np.ndarray:
    """Plausible values, some of which are not."""
    steps = np.arange(count)
    voxels = np.where(steps % 11 < 3, 3.0, np.where(steps % 11 < 5, 7.0, 0.0)) if label else 10.0 * (steps % 97) - 400
    if draw(st.booleans()):
        voxels[:: draw(st.sampled_from([1, 2, 100]))] = draw(st.sampled_from(FILLS))
    return voxels


NRRD = "NRRD0004\ntype: {0}\ndimension: {1}\nsizes: {2}\n{3}encoding: {4}\nendian: little\n\n"
MHA = "ObjectType = Image\nNDims = {1}\nDimSize = {2}\nElementType = {0}\n{3}ElementDataFile = LOCAL\n"


@st.composite
def text_headed(draw: Any) -> tuple[str, bytes]:
    """A NRRD or MetaImage file whose header may be wrong, and its ending."""
    rank = draw(st.sampled_from([3, 3, 3, 2, 4, 0, 99]))
    sizes = draw(st.sampled_from(["8 8 8", "8 8 8", "0 8 8", "-8 8 8", "8 8", "8 8 8 2", "99999 99999 99999", "a b c"]))
    data = np.arange(512, dtype="<i2").tobytes()
    if draw(st.booleans()):
        more = draw(
            st.sampled_from(
                [
                    "",
                    "spacings: 0 1 1\n",
                    "spacings: nan 1 1\n",
                    "space directions: (1,0,0) (1,0,0) (0,0,1)\n",
                    "space origin: (1e300,0,0)\n",
                    "data file: /etc/hostname\n",
                    "data file: ../../x\n",
                ]
            )
        )
        kind, coding = (
            draw(st.sampled_from(["short", "float", "block", "x"])),
            draw(st.sampled_from(["raw", "gzip", "x"])),
        )
        return ".nrrd", NRRD.format(kind, rank, sizes, more, coding).encode() + (
            gzip.compress(data) if coding == "gzip" else data
        )
    more = draw(
        st.sampled_from(
            [
                "",
                "ElementSpacing = 0 1 1\n",
                "ElementSpacing = -1 1 nan\n",
                "TransformMatrix = 1 1 1 1 1 1 1 1 1\n",
                "Offset = 1e300 0 0\n",
                "ElementNumberOfChannels = 3\n",
                "CompressedData = True\n",
            ]
        )
    )
    kind = draw(st.sampled_from(["MET_SHORT", "MET_FLOAT", "MET_STRING", "x"]))
    return ".mha", MHA.format(kind, rank, sizes, more).encode() + (zlib.compress(data) if "True" in more else data)


@st.composite
def damaged(draw: Any, content: bytes) -> bytes:
    """The same bytes, cut short, with one changed, with more behind, or others."""
    how = draw(st.sampled_from(["whole", "whole", "whole", "cut", "cut", "flip", "more", "empty", "garbage"]))
    if how == "cut":
        return content[: draw(st.integers(0, max(0, len(content) - 1)))]
    if how == "flip" and content:
        place = draw(st.integers(0, len(content) - 1))
        return content[:place] + bytes([content[place] ^ draw(st.integers(1, 255))]) + content[place + 1 :]
    return {"more": content + b"more" * 9, "empty": b"", "garbage": bytes(range(256)) * 8}.get(how, content)


def broken(content: bytes) -> st.SearchStrategy[bytes | str]:
    """Bytes that say something else than these, or none: the file is gone, or a folder or a link to itself instead."""
    others = st.sampled_from(["gone", "folder", "loop", PICKLE, *TEXTS])
    return (damaged(content) | others).filter(lambda changed: _said(changed) != _said(content))


def _said(content: bytes | str) -> object:
    """What JSON says, or the bytes of what is none."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return content


class Executed:
    """What a pickle that is loaded would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("open('EXECUTED', 'w').close()",)


ARRAYS = (
    np.zeros((0, 8, 8), np.float32),
    np.full((8, 8, 8), math.nan, np.float32),
    np.full((8, 8, 8), math.inf, np.float32),
    np.zeros((8, 8), np.float32),
    np.zeros((8, 8, 8, 2), np.float32),
    np.zeros((1, 8, 8, 8, 2), np.float64),
    np.zeros((8, 8, 8), ">f4"),
    np.zeros((8, 8, 8), np.uint8),
    np.full((8, 8, 8), 200, np.uint8),
    np.full((8, 8, 8), -1, np.int64),
    np.full((8, 8, 8), 0.5),
    np.zeros((8, 8, 8), complex),
    np.zeros((8, 8, 8), bool),
    np.zeros(3, bool),
    np.array(5),
    np.array([8, 8, 8]),
    np.array([8, 8, -8]),
    np.array("x"),
    np.array(["a", "b"]),
    np.zeros((8, 8, 8), [("a", "f4")]),
    np.zeros((8, 8, 8), "M8[s]"),
    np.array([Executed()], dtype=object),
)


@st.composite
def npz_like(draw: Any, arrays: dict[str, np.ndarray]) -> bytes:
    """An archive that is nearly the arrays: one other, missing or pickled, a wrong length inside, or damaged bytes."""
    chosen = dict(arrays)
    for _ in range(draw(st.integers(0, 2))):
        name = draw(st.sampled_from(sorted(arrays)))
        chosen[name] = draw(st.sampled_from(ARRAYS))
    if not draw(st.integers(0, 4)):
        chosen.pop(draw(st.sampled_from(sorted(chosen))))
    stream = io.BytesIO()
    np.savez(stream, **chosen)  # type: ignore[arg-type]
    if not draw(st.integers(0, 5)):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for name in arrays:
                archive.writestr(f"{name}.npy", draw(st.sampled_from([*TEXTS, NPY_OF_TERABYTES, PICKLE])))
    return draw(damaged(stream.getvalue()))


NPY_OF_TERABYTES = b"\x93NUMPY\x01\x00v\x00" + (
    b"{'descr': '<f4', 'fortran_order': False, 'shape': (99999, 99999, 99999), }".ljust(117) + b"\n"
)
PICKLE = b"cposix\nsystem\n(S'touch EXECUTED'\ntR."
