"""What the laboratory looks at: a prediction, its reference and, where there is one, the image under them."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from ars_jax.data.geometry import Geometry
from ars_jax.data.phantom import PHANTOM_LABELS, phantom_case
from ars_jax.errors import UserError
from ars_jax.files import array_of

_UNREADABLE = (OSError, EOFError, ValueError, LookupError, RuntimeError, TypeError, MemoryError)
_UNREADABLE = (*_UNREADABLE, zipfile.BadZipFile, zlib.error)
_FLOOR = 1e-4
_MISSED = {"Parotid_L": 0.5, "OpticNerve_R": 1.0}
_GROWN = {"Submandibular_L": 2, "Larynx": 1}


@dataclass(frozen=True)
class Case:
    """A prediction and its reference.

    Attributes:
        logits: `[b, *space, c]` float32, finite, two or three spatial axes; b is 1 but for files that hold a batch.
        labels: `[b, *space]` int32 in `[0, c)`.
        organs: names of the classes 1 to c - 1.
        where: `[b, *space]` bool, false for voxels that take part in no sum; None where all do.
        image: `[*space]`, HU for a CT; None where only arrays were given.
        geometry: the grid of the image; None where only arrays were given.
        source: what the case was read or made from, in a few words.
        canvas: voxels per axis of the samples that the run was trained on; None where no run is known.
    """

    logits: np.ndarray
    labels: np.ndarray
    organs: tuple[str, ...]
    where: np.ndarray | None = None
    image: np.ndarray | None = None
    geometry: Geometry | None = None
    source: str = "arrays"
    canvas: tuple[int, ...] | None = None


def from_npz(path: str | Path) -> Case:
    """Reads arrays that were written by `np.savez(path, logits=..., labels=..., where=...)`.

    Voxels that `where` leaves out get label 0 and, where they hold no number, logits of 0: no loss sees either.

    Args:
        path: an .npz file with `logits`, `[b, *space, c]` or `[*space, c]` of a float type, `labels`, the same shape
            without c, integers (whole numbers of a float type are taken as such), and if wanted `where`, the shape of
            `labels`. Four axes of logits are read as one volume, `[z, y, x, c]`, unless the first has length 1.

    Returns:
        The case, without image, its organs called by their class numbers.

    Raises:
        UserError: no such file, not an .npz file, a missing or pickled array, shapes that do not fit, logits that
            are not finite, or labels that are not whole numbers in `[0, c)`.
    """
    path = Path(path)
    arrays = _read_arrays(path)
    logits, labels = _numbers(path, "logits", arrays["logits"]), _numbers(path, "labels", arrays["labels"])
    _check_shapes(path, logits, labels)
    if logits.ndim == 3 or (logits.ndim == 4 and logits.shape[0] != 1):
        logits, labels = logits[None], labels[None]
    where = arrays.get("where")
    if where is not None:
        where = _mask(path, where, labels.shape)
    with np.errstate(over="ignore"):
        logits = logits.astype(np.float32)
    return Case(
        logits=_finite(path, logits, where),
        labels=_class_numbers(path, labels, where, logits.shape[-1]),
        organs=tuple(f"class {number}" for number in range(1, logits.shape[-1])),
        where=where,
        source=str(path),
    )


def from_phantom(seed: int = 0, shape: tuple[int, int, int] | None = (48, 48, 48)) -> Case:
    """Makes a head-and-neck phantom and a prediction for it, as a network halfway through its training might give.

    Every organ is displaced by less than a voxel and smoothed; the upper half of one parotid and one optic nerve are
    missed, a submandibular gland and the larynx are drawn too large, and smooth and fine noise lies over all logits.

    Args:
        seed: decides anatomy and prediction; the same seed gives the same bits.
        shape: voxels of 4 mm z, y, x, at least 40 of each; None draws sides of at most 48 that differ from seed to
            seed.

    Returns:
        The case with image and geometry, batch 1, eleven classes.

    Raises:
        UserError: the phantom does not fit into the shape, or a seed below 0.
    """
    if seed < 0:
        raise UserError("seed", found=seed, wanted="a number from 0 on", fix="give another seed")
    try:
        image, label = phantom_case(seed, shape)
    except ValueError as error:
        raise UserError("shape", found=shape, wanted="at least 40 voxels a side", fix=str(error)) from error
    return Case(
        logits=_prediction(np.random.default_rng((seed, 1)), label.array)[None],
        labels=label.array.astype(np.int32)[None],
        organs=tuple(PHANTOM_LABELS),
        image=image.array,
        geometry=image.geometry,
        source=f"phantom {seed}",
    )


def _prediction(rng: np.random.Generator, label: np.ndarray) -> np.ndarray:
    """Returns logits `[z, y, x, c]` that are wrong in the ways of a real prediction."""
    organs = np.stack([_predicted_organ(rng, label == value, name) for name, value in PHANTOM_LABELS.items()], -1)
    background = np.clip(1 - organs.sum(-1, keepdims=True), 0, 1)
    logits = np.log(np.concatenate([background, organs], -1) + _FLOOR)
    coarse = ndimage.gaussian_filter(rng.standard_normal(logits.shape), (3, 3, 3, 0))
    logits += 0.8 * coarse / coarse.std() + 0.3 * rng.standard_normal(logits.shape)
    return logits.astype(np.float32)


def _predicted_organ(rng: np.random.Generator, mask: np.ndarray, name: str) -> np.ndarray:
    if name in _GROWN:
        mask = ndimage.binary_dilation(mask, iterations=_GROWN[name])
    soft = ndimage.shift(mask.astype(np.float64), rng.uniform(-0.7, 0.7, 3), order=1)
    soft = np.clip(ndimage.gaussian_filter(soft, 0.5), 0, 1)
    if name in _MISSED:
        slices = np.flatnonzero(mask.any((1, 2)))
        kept = slices[0] + round((1 - _MISSED[name]) * len(slices))
        soft[kept:] = 0
    return soft


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    wanted, fix = "an .npz file with logits and labels", "write it with np.savez(path, logits=..., labels=...)"
    try:
        # np.load would leave a file that it opened itself, and finds damaged, open.
        with path.open("rb") as raw:
            if not zipfile.is_zipfile(raw):
                raise UserError(path, found="another kind of file", wanted=wanted, fix=fix)
            raw.seek(0)
            with np.load(raw, allow_pickle=False) as file:
                arrays = {name: array_of(file, name) for name in ("logits", "labels", "where") if name in file.files}
                names = ", ".join(file.files) or "nothing"
    except _UNREADABLE as error:
        known = {FileNotFoundError: "no such file", IsADirectoryError: "a folder"}
        found = "pickled objects" if "Object arrays" in str(error) else f"a damaged file ({error})"
        found, fix = (known[type(error)], "check the path") if type(error) in known else (found, fix)
        raise UserError(path, found=found, wanted=wanted, fix=fix) from error
    for name in ("logits", "labels"):
        if name not in arrays:
            raise UserError(f"{path}: {name}", found=f"only {names}", wanted=wanted, fix=fix)
    return arrays


def _numbers(path: Path, name: str, array: np.ndarray) -> np.ndarray:
    allowed = "f" if name == "logits" else "fiub"
    if array.dtype.kind not in allowed:
        wanted = "numbers of a float type" if name == "logits" else "whole numbers"
        fix = "save them before the softmax, as float32" if name == "logits" else "save class numbers"
        raise UserError(f"{path}: {name}", found=f"{array.dtype}", wanted=wanted, fix=fix)
    return array


def _check_shapes(path: Path, logits: np.ndarray, labels: np.ndarray) -> None:
    if logits.ndim in (3, 4, 5) and labels.shape == logits.shape[:-1] and logits.size:
        return
    found = f"logits {logits.shape} and labels {labels.shape}"
    wanted = "logits [b, *space, c] or [*space, c] and labels without c"
    fix = "give the same volume"
    if labels.shape == logits.shape:
        fix = "give class numbers, labels.argmax(-1), instead of one-hot labels"
    elif logits.ndim > 2 and labels.shape in (logits.shape[:1] + logits.shape[2:], logits.shape[1:]):
        axis = 1 if labels.ndim == logits.ndim - 1 and labels.shape[:1] == logits.shape[:1] else 0
        fix = f"put the classes last: np.moveaxis(logits, {axis}, -1)"
    elif labels.ndim == logits.ndim and labels.shape[-1:] == (1,):
        fix = "drop the last axis of labels"
    raise UserError(path, found=found, wanted=wanted, fix=fix)


def _mask(path: Path, where: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    fits = where.shape == shape or (shape[0] == 1 and where.shape == shape[1:])
    if where.dtype.kind not in "biu" or not fits:
        found, wanted = f"{where.dtype} {where.shape}", f"true and false, {shape} as labels"
        raise UserError(f"{path}: where", found=found, wanted=wanted, fix="save it as bool with the shape of labels")
    if not where.any():
        raise UserError(f"{path}: where", found="no true voxel", wanted="some that count", fix="mark those that count")
    return where.reshape(shape).astype(bool)


def _finite(path: Path, logits: np.ndarray, where: np.ndarray | None) -> np.ndarray:
    if where is not None:
        logits = np.where(where[..., None] | np.isfinite(logits), logits, np.float32(0))
    wrong = int(np.sum(~np.isfinite(logits)))
    if wrong:
        found, fix = f"{wrong} that are NaN or infinite in float32", "mend them, or leave their voxels out by where"
        raise UserError(f"{path}: logits", found=found, wanted="finite numbers", fix=fix)
    return logits


def _class_numbers(path: Path, labels: np.ndarray, where: np.ndarray | None, classes: int) -> np.ndarray:
    labels = labels if where is None else np.where(where, labels, 0)
    thing, wanted = f"{path}: labels", f"whole numbers from 0 to {classes - 1}, as logits have {classes} classes"
    fix = "give class numbers; leave other voxels out by where, as in where=labels != 255"
    if labels.dtype.kind == "f" and not np.all(labels == np.floor(labels)):
        raise UserError(thing, found="numbers that are not whole", wanted=wanted, fix=fix)
    low, high = labels.min(), labels.max()
    if low < 0 or high >= classes:
        raise UserError(thing, found=f"{low:g} to {high:g}", wanted=wanted, fix=fix)
    return labels.astype(np.int32)
