"""Faults of a data set, each named by file with its fix, and the repair of labels that lie on another grid."""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Literal

import numpy as np

from ars_jax.data.labels import channel_numbers, mask_voxels
from ars_jax.data.layouts import Case, Dataset
from ars_jax.data.volumes import WRITABLE, Geometry, Volume, map_to, mismatches, read_volume, resample, write_volume
from ars_jax.errors import UserError
from ars_jax.files import write_json, written_atomically

REPAIR = "resample the label to the image's grid by physical space: ars-jax check --repair DIR"
"""The fix of every fault that `repair_dataset` mends."""

_UNDRAWN = "draw it, or list it in unlabelled.json if it was not drawn"
_INSIDE = 0.99  # part of the labelled voxels that has to lie in the image: less means that a header is wrong
_WORKERS = 4


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a data set.

    Args:
        case: the case's name; empty if the file belongs to none.
        file: the file's path.
        kind: "missing pair", "image without label", "unreadable file", "size", "spacing", "origin", "direction", "NaN",
            "unknown label value", "empty label", "missing organ mask", "overlapping masks" or "drawn although
            unlabelled".
        found: what is there.
        wanted: what would be right.
        fix: what to do about it.
        severity: an "error" makes the case unfit for training, a "warning" may be meant.
    """

    case: str
    file: str
    kind: str
    found: str
    wanted: str
    fix: str
    severity: Literal["error", "warning"]

    def __str__(self) -> str:
        return f"{self.severity}: {self.file}: {self.kind}: found {self.found}; wanted {self.wanted}; fix: {self.fix}"


def check_dataset(dataset: Dataset, progress: Callable[[int, int, str], None] | None = None) -> list[Fault]:
    """Reads every file of a data set and names what is wrong; faulty files never stop it.

    Args:
        dataset: the data set.
        progress: called after every case, in order, with the number done, the number of all and the case's name.

    Returns:
        The faults: first of files without a partner, then by case in the data set's order.
    """
    faults = [_orphan(path) for path in dataset.orphans]
    for done, (case, found) in enumerate(_checked(dataset), start=1):
        faults += found
        if progress:
            progress(done, len(dataset.cases), case.name)
    return faults


def check_case(case: Case, labels: Mapping[str, int]) -> list[Fault]:
    """Reads every file of a case and names what is wrong; faulty files never stop it.

    Args:
        case: the case.
        labels: the data set's organs with their values.

    Returns:
        The faults, of the image first.
    """
    image, faults = _read(case, case.image)
    if image is not None and (broken := np.count_nonzero(~np.isfinite(image.array))):
        faults.append(
            _fault(case, case.image, "NaN", f"NaN or infinity in {broken} voxels", "numbers", "export it again")
        )
    if case.label is not None:
        return faults + _check_map(case, case.label, labels, image)
    if case.masks:
        return faults + _check_masks(case, labels, image)
    wanted = "a label map or masks"
    fix = "add the label; the case is left out of training"
    return [*faults, _warning(case, case.image, "image without label", "no label", wanted, fix)]


def repair_dataset(dataset: Dataset, out: Path, progress: Callable[[int, int, str], None] | None = None) -> list[Fault]:
    """Writes a corrected copy of a data set in the "folders" layout; the source is never touched.

    Labels on another grid than their image are resampled onto it, by physical position and nearest neighbour. Label
    maps without fault are copied byte by byte, masks are combined into one label map (where they overlap, the later
    organ wins), and values that were not chosen become background. Images are copied byte by byte; DICOM series and
    images of several files become .nii.gz. Cases with an error that this does not mend are left out.

    Args:
        dataset: the data set.
        out: a folder that does not exist or is empty, outside of the data set. `labels.json` is written last.
        progress: called after every case, in order, with the number done, the number of all and the case's name.

    Returns:
        The errors of the cases that were left out.

    Raises:
        UserError: the folder is not empty, lies in the data set, or cannot be written.
    """
    out = Path(out)
    _check_target(dataset.root, out)
    left: list[Fault] = []
    unlabelled: dict[str, tuple[str, ...]] = {}
    for done, (case, faults) in enumerate(_checked(dataset), start=1):
        lasting = [fault for fault in faults if fault.severity == "error" and fault.fix != REPAIR]
        left += lasting
        if not lasting:
            repair_case(case, dataset.labels, out)
            unlabelled |= {case.name: case.unlabelled} if case.unlabelled else {}
        if progress:
            progress(done, len(dataset.cases), case.name)
    if unlabelled:
        write_json(out / "unlabelled.json", unlabelled)
    write_json(out / "labels.json", dict(dataset.labels))
    return left


def repair_case(case: Case, labels: Mapping[str, int], out: Path) -> None:
    """Writes one case of `repair_dataset`: `out/images/<case>` and `out/labels/<case>`.

    Args:
        case: the case.
        labels: the data set's organs with their values, which the label map keeps.
        out: the folder of the copy.

    Raises:
        UserError: a file cannot be read or written.
    """
    image = read_volume(case.image)
    ending = _ending(case.image)
    if ending:
        _copy(case.image, out / "images" / f"{case.name}{ending}")
    else:
        write_volume(out / "images" / f"{case.name}.nii.gz", image)
    if not case.labelled:
        return
    if case.label is not None and not case.others and (ending := _ending(case.label)):
        if not mismatches(read_volume(case.label).geometry, image.geometry):
            _copy(case.label, out / "labels" / f"{case.name}{ending}")
            return
    channels = _channels_on(case, labels, image.geometry)
    values = np.array([0, *labels.values()], np.min_scalar_type(max(labels.values())))
    write_volume(out / "labels" / f"{case.name}.nii.gz", Volume(values[channels], image.geometry))


def _channels_on(case: Case, labels: Mapping[str, int], geometry: Geometry) -> np.ndarray:
    """Channel numbers on the image's grid, whatever grid the label or the masks lie on."""
    if case.label is not None:
        label = read_volume(case.label)
        channels = channel_numbers(case.label, label.array, labels, case.others)
        return map_to(Volume(channels, label.geometry), geometry).array
    result = np.zeros(geometry.shape, np.uint8)
    for channel, organ in enumerate(labels, start=1):
        if path := case.masks.get(organ):
            mask = read_volume(path)
            inside = mask_voxels(path, mask.array).astype(np.uint8)
            result[map_to(Volume(inside, mask.geometry), geometry).array > 0] = channel
    return result


def _checked(dataset: Dataset) -> Iterator[tuple[Case, list[Fault]]]:
    """Each case with its faults, in order; reading overlaps, since decompression leaves the interpreter free."""
    with ThreadPoolExecutor(min(_WORKERS, os.cpu_count() or 1)) as pool:
        yield from zip(dataset.cases, pool.map(partial(check_case, labels=dataset.labels), dataset.cases), strict=True)


def _check_map(case: Case, path: Path, labels: Mapping[str, int], image: Volume | None) -> list[Fault]:
    label, faults = _read(case, path)
    if label is None:
        return faults
    faults += _check_grid(case, path, label, image)
    if not np.isfinite(label.array).all():
        return [*faults, _fault(case, path, "NaN", "NaN or infinity", "whole numbers", "export it again")]
    try:
        channels = channel_numbers(path, label.array, labels, case.others)
    except UserError as error:
        return [*faults, _from_error(case, path, "unknown label value", error)]
    counts = np.bincount(channels.ravel(), minlength=len(labels) + 1)[1:]
    drawn = {organ: path for organ, count in zip(labels, counts, strict=True) if count}
    if not drawn:
        return [*faults, _warning(case, path, "empty label", "background only", "at least one organ", "draw the label")]
    for organ in labels:
        if organ not in drawn and organ not in case.unlabelled:
            faults.append(_warning(case, path, "empty label", f"no voxel of {organ}", "every organ", _UNDRAWN))
    return faults + _check_unlabelled(case, drawn)


def _check_masks(case: Case, labels: Mapping[str, int], image: Volume | None) -> list[Fault]:
    faults: list[Fault] = []
    drawn: dict[str, np.ndarray] = {}
    folder = next(iter(case.masks.values())).parent
    for organ in labels:
        path = case.masks.get(organ)
        if path is None:
            if organ not in case.unlabelled:
                faults.append(_warning(case, folder, "missing organ mask", f"no mask of {organ}", "one", _UNDRAWN))
            continue
        mask, unread = _read(case, path)
        faults += unread
        if mask is None:
            continue
        faults += _check_grid(case, path, mask, image)
        try:
            inside = mask_voxels(path, mask.array)
        except UserError as error:
            kind = "unknown label value" if np.isfinite(mask.array).all() else "NaN"
            faults.append(_from_error(case, path, kind, error))
            continue
        if inside.any():
            drawn[organ] = inside
        elif organ not in case.unlabelled:
            faults.append(_warning(case, path, "empty label", f"no voxel of {organ}", "some", _UNDRAWN))
    faults += _check_unlabelled(case, {organ: case.masks[organ] for organ in drawn})
    return faults + _check_overlaps(case, drawn)


def _check_overlaps(case: Case, drawn: Mapping[str, np.ndarray]) -> list[Fault]:
    faults = []
    for (first, a), (second, b) in combinations(drawn.items(), 2):
        if a.shape == b.shape and (common := np.count_nonzero(a & b)):
            found = f"{common} voxels in both {first} and {second}"
            fix = f"correct one of them; {second} wins"
            faults.append(_warning(case, case.masks[second], "overlapping masks", found, "one organ per voxel", fix))
    return faults


def _check_unlabelled(case: Case, drawn: Mapping[str, Path]) -> list[Fault]:
    kind, wanted = "drawn although unlabelled", "no voxel of it"
    fix = "take it out of unlabelled.json or out of the label"
    return [_warning(case, drawn[o], kind, o, wanted, fix) for o in case.unlabelled if o in drawn]


def _check_grid(case: Case, path: Path, label: Volume, image: Volume | None) -> list[Fault]:
    differences = mismatches(label.geometry, image.geometry) if image is not None else []
    if not differences or image is None:
        return []
    fix = REPAIR if _lies_in(label, image) else "draw or export the label on this image: elsewhere they do not meet"
    return [_fault(case, path, one.kind, one.found, f"the image's {one.wanted}", fix) for one in differences]


def _lies_in(label: Volume, image: Volume) -> bool:
    """Whether the labelled voxels lie in the image's box in space; of an empty label, whether the boxes meet."""
    ones = Volume(np.ones(image.array.shape, np.uint8), image.geometry)
    covered = resample(ones, label.geometry, interpolation="nearest", fill=0).array
    labelled = label.array != 0
    return bool(covered[labelled].mean() >= _INSIDE) if labelled.any() else bool(covered.any())


def _read(case: Case, path: Path) -> tuple[Volume | None, list[Fault]]:
    try:
        return read_volume(path), []
    except UserError as error:
        return None, [_from_error(case, path, "unreadable file", error)]


def _fault(case: Case, path: Path, kind: str, found: str, wanted: str, fix: str) -> Fault:
    return Fault(case.name, str(path), kind, found, wanted, fix, "error")


def _warning(case: Case, path: Path, kind: str, found: str, wanted: str, fix: str) -> Fault:
    return Fault(case.name, str(path), kind, found, wanted, fix, "warning")


def _from_error(case: Case, path: Path, kind: str, error: UserError) -> Fault:
    # A DICOM folder's error may name one slice of it.
    file = error.thing if error.thing.startswith(str(path)) else str(path)
    return Fault(case.name, file, kind, error.found, error.wanted, error.fix, "error")


def _orphan(path: Path) -> Fault:
    if os.path.exists(path):
        found, wanted = "a label without an image", "an image of the same name"
    else:
        found, wanted = "listed in dataset.json but not there", "the image"
    return Fault("", str(path), "missing pair", found, wanted, "add the image or take this out", "error")


def _check_target(root: Path, out: Path) -> None:
    if os.path.lexists(out) and not (os.path.isdir(out) and not os.listdir(out)):
        raise UserError(out, found="something there already", wanted="a new or empty folder", fix="choose another")
    if out.resolve().is_relative_to(root.resolve()):
        raise UserError(out, found="a place in the data set", wanted="a folder outside of it", fix="choose another")


def _ending(path: Path) -> str:
    """The name's ending if the volume is one file, which can be copied."""
    if os.path.isdir(path):
        return ""
    return next((path.name[-len(end) :] for end in sorted(WRITABLE) if path.name.lower().endswith(end)), "")


def _copy(source: Path, target: Path) -> None:
    with written_atomically(target) as temporary:
        shutil.copyfile(source, temporary)
