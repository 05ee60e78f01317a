"""Faults of a data set, each named by file with its fix, and the measures of its cases from the same reading."""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np

from ars_jax.data.cases import Case, Dataset
from ars_jax.data.compare import compare_cases
from ars_jax.data.faults import IMAGE_HEADER, LABEL_HEADER, REPAIR, Fault, error, warning
from ars_jax.data.labels import channel_numbers, mask_voxels
from ars_jax.data.layouts import read_label
from ars_jax.data.survey import (
    CaseSurvey,
    OrganSurvey,
    label_digest,
    organ_voxels,
    survey_image,
    survey_organ,
    without_place,
)
from ars_jax.data.volumes import Geometry, Mismatch, Volume, map_to, mismatches, read_volume, resample
from ars_jax.errors import UserError

_UNDRAWN = "draw it, or list it in unlabelled.json if it was not drawn"
_INSIDE = 0.99  # part of the labelled voxels that has to lie in the image: less means that a header is wrong
_CALMER = 0.7  # unrest within organs of the right label, as part of the wrong one's: none of 115 CTs and 208 MRs errs
_AIR = 0.1  # part of the image's range of intensities that air and its noise take
_STILL = 0.02  # part of the image's range of intensities that no organ falls below
_WORKERS = 4


@dataclass(frozen=True)
class Examination:
    """All that was found out about a data set.

    Args:
        dataset: the data set.
        cases: the measures of its cases, in its order.
        faults: first of files without a partner, then by case, then of cases beside each other.
    """

    dataset: Dataset
    cases: tuple[CaseSurvey, ...]
    faults: tuple[Fault, ...]


def examine_dataset(dataset: Dataset, progress: Callable[[int, int, str], None] | None = None) -> Examination:
    """Reads every file of a data set, measures it and names what is wrong; faulty files never stop it.

    Args:
        dataset: the data set.
        progress: called after every case, in order, with the number done, the number of all and the case's name.

    Returns:
        Measures and faults.
    """
    faults = [_orphan(path) for path in dataset.orphans]
    surveys: list[CaseSurvey] = []
    for done, (found, survey) in enumerate(_examined(dataset), start=1):
        faults += found
        surveys.append(survey)
        if progress:
            progress(done, len(dataset.cases), survey.case)
    seen = {(fault.file, fault.kind) for fault in faults}
    compared = compare_cases(list(zip(dataset.cases, surveys, strict=True)), list(dataset.labels))
    faults += [fault for fault in compared if (fault.file, fault.kind) not in seen]
    return Examination(dataset, tuple(surveys), tuple(faults))


def examine_case(case: Case, labels: Mapping[str, int]) -> tuple[list[Fault], CaseSurvey]:
    """Reads every file of a case, measures it and names what is wrong; faulty files never stop it.

    Args:
        case: the case.
        labels: the data set's organs with their values.

    Returns:
        The faults, of the image first, and the measures, as far as there are any.
    """
    image, faults = _read(case, case.image)
    measured = survey_image(image) if image is not None else None
    faults += _check_values(case, image) if image is not None else []
    if case.structures is not None:
        more, organs, digest = _check_structures(case, case.structures, labels, image)
    elif case.label is not None:
        more, organs, digest = _check_map(case, case.label, labels, image)
    elif case.masks:
        more, organs, digest = _check_masks(case, labels, image)
    else:
        wanted, fix = "a label map or masks", "add the label; the case is left out of training"
        more, organs, digest = (
            [warning(case.name, case.image, "image without label", "no label", wanted, fix)],
            {},
            None,
        )
    # Every mask finds the same fault of the image.
    return list(dict.fromkeys(faults + more)), CaseSurvey(case.name, measured, organs, digest)


def _check_values(case: Case, image: Volume) -> list[Fault]:
    if broken := np.count_nonzero(~np.isfinite(image.array)):
        found = f"NaN or infinity in {broken} voxels"
        return [error(case.name, case.image, "NaN", found, "numbers", "export it again")]
    if (first := image.array.flat[0]) == image.array.max() == image.array.min():
        return [error(case.name, case.image, "one value", f"{first:g} everywhere", "an image", "export it again")]
    return []


_Checked = tuple[list[Fault], dict[str, OrganSurvey], str | None]


def _examined(dataset: Dataset) -> Iterator[tuple[list[Fault], CaseSurvey]]:
    """Each case, in order; reading overlaps, since decompression leaves the interpreter free."""
    with ThreadPoolExecutor(min(_WORKERS, os.cpu_count() or 1)) as pool:
        yield from pool.map(partial(examine_case, labels=dataset.labels), dataset.cases)


def _check_map(case: Case, path: Path, labels: Mapping[str, int], image: Volume | None) -> _Checked:
    label, faults = _read(case, path)
    if label is None:
        return faults, {}, None
    faults += _check_grid(case, path, label, image)
    if not np.isfinite(label.array).all():
        return [*faults, error(case.name, path, "NaN", "NaN or infinity", "whole numbers", "export it again")], {}, None
    try:
        channels = channel_numbers(path, label.array, labels, case.others)
    except UserError as fault:
        return [*faults, _from_error(case, path, "unknown label value", fault)], {}, None
    placed = Volume(channels, _grid_of(label, image, faults))
    more, organs, digest = _check_channels(case, path, labels, placed, image)
    return faults + more, organs, digest


def _check_structures(case: Case, path: Path, labels: Mapping[str, int], image: Volume | None) -> _Checked:
    if image is None:
        return [], {}, None
    try:
        channels = read_label(case, labels, image.geometry)
    except UserError as fault:
        return [_from_error(case, path, "structure set", fault)], {}, None
    return _check_channels(case, path, labels, channels, image)


def _check_channels(
    case: Case, path: Path, labels: Mapping[str, int], channels: Volume, image: Volume | None
) -> _Checked:
    faults: list[Fault] = []
    voxels = organ_voxels(channels.array, len(labels))
    drawn = {organ: indices for organ, indices in zip(labels, voxels, strict=True) if indices.size}
    if not drawn and labels.keys() - case.unlabelled:
        fault = warning(case.name, path, "empty label", "background only", "at least one organ", "draw the label")
        return [fault], {}, None
    for organ in labels:
        if organ not in drawn and organ not in case.unlabelled:
            faults.append(warning(case.name, path, "empty label", f"no voxel of {organ}", "every organ", _UNDRAWN))
    faults += _check_unlabelled(case, dict.fromkeys(drawn, path))
    return faults, _organs(drawn, dict.fromkeys(drawn, channels.geometry), image), label_digest(drawn)


def _check_masks(case: Case, labels: Mapping[str, int], image: Volume | None) -> _Checked:
    faults: list[Fault] = []
    drawn: dict[str, np.ndarray] = {}
    grids: dict[str, Geometry] = {}
    folder = next(iter(case.masks.values())).parent
    for organ in labels:
        path = case.masks.get(organ)
        if path is None:
            if organ not in case.unlabelled:
                found = f"no mask of {organ}"
                faults.append(warning(case.name, folder, "missing organ mask", found, "one", _UNDRAWN))
            continue
        found, mask = _check_mask(case, path, image)
        faults += found
        if mask is None:
            continue
        if mask.array.any():
            drawn[organ], grids[organ] = np.flatnonzero(mask.array), mask.geometry
        elif organ not in case.unlabelled:
            faults.append(warning(case.name, path, "empty label", f"no voxel of {organ}", "some", _UNDRAWN))
    faults += _check_unlabelled(case, {organ: case.masks[organ] for organ in drawn})
    return faults + _check_overlaps(case, drawn, grids), _organs(drawn, grids, image), label_digest(drawn)


def _check_mask(case: Case, path: Path, image: Volume | None) -> tuple[list[Fault], Volume | None]:
    """The faults of a mask, and where it is set."""
    mask, faults = _read(case, path)
    if mask is None:
        return faults, None
    faults += _check_grid(case, path, mask, image)
    try:
        return faults, Volume(mask_voxels(path, mask.array), _grid_of(mask, image, faults))
    except UserError as fault:
        kind = "unknown label value" if np.isfinite(mask.array).all() else "NaN"
        return [*faults, _from_error(case, path, kind, fault)], None


def _organs(
    drawn: Mapping[str, np.ndarray], grids: Mapping[str, Geometry], image: Volume | None
) -> dict[str, OrganSurvey]:
    on_image = {organ for organ in drawn if image is not None and not mismatches(grids[organ], image.geometry)}
    return {
        organ: survey_organ(voxels, grids[organ], image.array if image is not None and organ in on_image else None)
        for organ, voxels in drawn.items()
    }


def _check_overlaps(case: Case, drawn: Mapping[str, np.ndarray], grids: Mapping[str, Geometry]) -> list[Fault]:
    faults = []
    for first, second in combinations(drawn, 2):
        if grids[first].shape != grids[second].shape:
            continue
        if common := np.intersect1d(drawn[first], drawn[second], assume_unique=True).size:
            found = f"{common} voxels in both {first} and {second}"
            wanted, fix = "one organ per voxel", f"correct one of them; {second} wins"
            faults.append(warning(case.name, case.masks[second], "overlapping masks", found, wanted, fix))
    return faults


def _check_unlabelled(case: Case, drawn: Mapping[str, Path]) -> list[Fault]:
    kind, wanted = "drawn although unlabelled", "no voxel of it"
    fix = "take it out of unlabelled.json or out of the label"
    return [warning(case.name, drawn[organ], kind, organ, wanted, fix) for organ in case.unlabelled if organ in drawn]


def _check_grid(case: Case, path: Path, label: Volume, image: Volume | None) -> list[Fault]:
    differences = mismatches(label.geometry, image.geometry) if image is not None else []
    if not differences or image is None:
        return []
    fix = _grid_fix(label, image)
    if fix == IMAGE_HEADER:
        found, wanted = (
            "spacing 1 mm and no origin",
            f"the label's {_words(mismatches(image.geometry, label.geometry))}",
        )
        return [error(case.name, case.image, "identity affine", found, wanted, fix)]
    if fix == LABEL_HEADER and without_place(label.geometry):
        found, wanted = "spacing 1 mm and no origin", f"the image's {_words(differences)}"
        return [error(case.name, path, "identity affine", found, wanted, fix)]
    return [error(case.name, path, one.kind, one.found, f"the image's {one.wanted}", fix) for one in differences]


def _grid_of(label: Volume, image: Volume | None, faults: list[Fault]) -> Geometry:
    """The label's grid; the image's where the label's own header was found to be wrong."""
    wrong = image is not None and any(fault.fix == LABEL_HEADER for fault in faults)
    return image.geometry if image is not None and wrong else label.geometry


def _words(differences: list[Mismatch]) -> str:
    return " and ".join(f"{one.kind} {one.wanted}" for one in differences)


def _grid_fix(label: Volume, image: Volume) -> str:
    """What mends a label on another grid: another header where one of the two is wrong, else resampling."""
    inside = _lies_in(label, image)
    if label.array.shape != image.array.shape:
        return REPAIR if inside else "draw or export the label on this image: elsewhere they do not meet"
    if without_place(image.geometry) and not without_place(label.geometry):
        return IMAGE_HEADER
    if not inside or without_place(label.geometry):
        return LABEL_HEADER
    placed = map_to(label, image.geometry).array
    return LABEL_HEADER if _calmer(label.array, placed, image.array) else REPAIR


def _lies_in(label: Volume, image: Volume) -> bool:
    """Whether the labelled voxels lie in the image's box in space; of an empty label, whether the boxes meet."""
    ones = Volume(np.ones(image.array.shape, np.uint8), image.geometry)
    covered = resample(ones, label.geometry, interpolation="nearest", fill=0).array
    labelled = label.array != 0
    return bool(covered[labelled].mean() >= _INSIDE) if labelled.any() else bool(covered.any())


def _calmer(label: np.ndarray, other: np.ndarray, image: np.ndarray) -> bool:
    """Whether one label fits an image clearly better than another: its organs are more uniform and less in air."""
    low, high = np.nanpercentile(image, (5, 95))
    scale = max(float(high - low), np.finfo(np.float32).tiny)
    air = low + _AIR * scale  # as uniform as no organ

    def unrest(inside: np.ndarray) -> float:
        spread = np.subtract(*np.nanpercentile(inside, (75, 25))) / scale
        return float(_STILL + spread + np.mean(inside <= air))

    values = [value for value in np.unique(label) if value and (other == value).any()]
    ratios = [unrest(image[label == value]) / unrest(image[other == value]) for value in values]
    return bool(ratios) and float(np.mean(np.log(ratios))) < math.log(_CALMER)


def _read(case: Case, path: Path) -> tuple[Volume | None, list[Fault]]:
    try:
        return read_volume(path), []
    except UserError as fault:
        return None, [_from_error(case, path, "unreadable file", fault)]


def _from_error(case: Case, path: Path, kind: str, fault: UserError) -> Fault:
    # A DICOM folder's error may name one slice of it.
    file = fault.thing if fault.thing.startswith(str(path)) else path
    return error(case.name, file, kind, fault.found, fault.wanted, fault.fix)


def _orphan(path: Path) -> Fault:
    if os.path.exists(path):
        found, wanted = "a label without an image", "an image of the same name"
    else:
        found, wanted = "listed in dataset.json but not there", "the image"
    return error("", path, "missing pair", found, wanted, "add the image or take this out")
