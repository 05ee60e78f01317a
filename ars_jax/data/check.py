"""Faults of a data set, each named by file with its fix, and the measures of its cases from the same reading."""

import math
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from pathlib import Path

import numpy as np

from ars_jax.data.cases import Case, Dataset
from ars_jax.data.compare import compare_cases
from ars_jax.data.faults import CANNOT_TELL, IMAGE_HEADER, LABEL_HEADER, Fault, error, warning
from ars_jax.data.geometry import Geometry, Mismatch, mismatches
from ars_jax.data.grids import channel_map, header_fix, same_grids
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
from ars_jax.data.volumes import Volume, read_volume
from ars_jax.errors import UserError

_UNDRAWN = "if it is absent, nothing; if it was not drawn, draw it or list it in unlabelled.json"
_EMPTY = "if no organ is in the image, nothing; else draw the label"
_VALUES_FIRST = "correct the values first, then check again"
_WORKERS = 4


@dataclass(frozen=True)
class _Label:
    """What is wrong with a case's label, and its measures, as far as there are any."""

    faults: list[Fault]
    organs: Mapping[str, OrganSurvey] = field(default_factory=dict)
    digest: str | None = None


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
    label = _check_label(case, labels, image)
    # Every mask finds the same fault of the image.
    return list(dict.fromkeys(faults + label.faults)), CaseSurvey(case.name, measured, label.organs, label.digest)


def _check_values(case: Case, image: Volume) -> list[Fault]:
    if broken := np.count_nonzero(~np.isfinite(image.array)):
        found = f"NaN or infinity in {broken} voxels"
        return [error(case.name, case.image, "NaN", found, "numbers", "export it again")]
    if (first := image.array.flat[0]) == image.array.max() == image.array.min():
        return [error(case.name, case.image, "one value", f"{first:g} everywhere", "an image", "export it again")]
    return []


def _examined(dataset: Dataset) -> Iterator[tuple[list[Fault], CaseSurvey]]:
    """Each case, in order; reading overlaps, since decompression leaves the interpreter free."""
    with ThreadPoolExecutor(min(_WORKERS, os.cpu_count() or 1)) as pool:
        yield from pool.map(partial(examine_case, labels=dataset.labels), dataset.cases)


def _check_label(case: Case, labels: Mapping[str, int], image: Volume | None) -> _Label:
    if case.structures is not None:
        return _check_structures(case, case.structures, labels, image)
    if case.label is not None:
        return _check_map(case, case.label, labels, image)
    if case.masks:
        return _check_masks(case, labels, image)
    wanted, fix = "a label map or masks", "add the label; the case is left out of training"
    return _Label([warning(case.name, case.image, "image without label", "no label", wanted, fix)])


def _check_map(case: Case, path: Path, labels: Mapping[str, int], image: Volume | None) -> _Label:
    label, faults = _read(case, path)
    if label is None:
        return _Label(faults)
    try:
        channels = channel_numbers(path, label.array, labels, case.others)
    except UserError as fault:
        return _Label(_bad_values(case, path, label, image, fault))
    placed = Volume(channels, label.geometry)
    fix = header_fix(placed, image, list(labels)) if image is not None else ""
    if image is not None and fix == LABEL_HEADER:
        placed = Volume(channels, image.geometry)
    checked = _check_channels(case, path, labels, placed, image)
    return replace(checked, faults=_grid_faults(case, path, label.geometry, image, fix) + checked.faults)


def _check_structures(case: Case, path: Path, labels: Mapping[str, int], image: Volume | None) -> _Label:
    if image is None:
        return _Label([])
    try:
        channels = read_label(case, labels, image.geometry)
    except UserError as fault:
        return _Label([_from_error(case, path, "structure set", fault)])
    return _check_channels(case, path, labels, channels, image)


def _check_channels(
    case: Case, path: Path, labels: Mapping[str, int], channels: Volume, image: Volume | None
) -> _Label:
    voxels = organ_voxels(channels.array, len(labels))
    drawn = {organ: indices for organ, indices in zip(labels, voxels, strict=True) if indices.size}
    if not drawn and labels.keys() - case.unlabelled:
        return _Label([warning(case.name, path, "empty label", "background only", "at least one organ", _EMPTY)])
    faults = [
        warning(case.name, path, "empty label", f"no voxel of {organ}", "every organ", _UNDRAWN)
        for organ in labels
        if organ not in drawn and organ not in case.unlabelled
    ]
    faults += _check_unlabelled(case, dict.fromkeys(drawn, path))
    return _Label(faults, _organs(drawn, dict.fromkeys(drawn, channels.geometry), image), label_digest(drawn))


def _check_masks(case: Case, labels: Mapping[str, int], image: Volume | None) -> _Label:
    faults: list[Fault] = []
    voxels: dict[str, np.ndarray] = {}
    grids: dict[str, Geometry] = {}
    folder = next(iter(case.masks.values())).parent
    for organ in labels:
        path = case.masks.get(organ)
        if path is None:
            if organ not in case.unlabelled:
                found = f"no mask of {organ}"
                faults.append(warning(case.name, folder, "missing organ mask", found, "one", _UNDRAWN))
            continue
        found, mask = _read_mask(case, path, image)
        faults += found
        if mask is None:
            continue
        voxels[organ], grids[organ] = np.flatnonzero(mask.array), mask.geometry
        if not voxels[organ].size and organ not in case.unlabelled:
            faults.append(warning(case.name, path, "empty label", f"no voxel of {organ}", "some", _UNDRAWN))
    found, grids = _check_grids(case, voxels, grids, image)
    faults += found
    drawn = {organ: indices for organ, indices in voxels.items() if indices.size}
    faults += _check_unlabelled(case, {organ: case.masks[organ] for organ in drawn})
    faults += _check_overlaps(case, drawn, {organ: grids[organ] for organ in drawn})
    return _Label(faults, _organs(drawn, grids, image), label_digest(drawn))


def _read_mask(case: Case, path: Path, image: Volume | None) -> tuple[list[Fault], Volume | None]:
    mask, faults = _read(case, path)
    if mask is None:
        return faults, None
    try:
        return [], Volume(mask_voxels(path, mask.array), mask.geometry)
    except UserError as fault:
        return _bad_values(case, path, mask, image, fault), None


def _check_grids(
    case: Case, voxels: Mapping[str, np.ndarray], grids: Mapping[str, Geometry], image: Volume | None
) -> tuple[list[Fault], dict[str, Geometry]]:
    """The faults of the masks' headers, judged together where they are the same, and where the masks are set."""
    if image is None:
        return [], dict(grids)
    faults, places = [], dict(grids)
    groups = same_grids(grids)
    for group in groups:
        union = channel_map((voxels[organ] for organ in group), grids[group[0]])
        fix = header_fix(union, image, group)
        if fix == IMAGE_HEADER and len(groups) > 1:
            fix = CANNOT_TELL  # the other masks say that the image lies elsewhere
        for organ in group:
            faults += _grid_faults(case, case.masks[organ], grids[organ], image, fix)
        if fix == LABEL_HEADER:
            places |= dict.fromkeys(group, image.geometry)
    return faults, places


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
    for group in same_grids(grids):
        counts = np.zeros(math.prod(grids[group[0]].shape), np.uint8)
        for organ in group:
            counts[drawn[organ]] += 1
        shared = {organ: drawn[organ][counts[drawn[organ]] > 1] for organ in group}
        for first, second in combinations([organ for organ in group if shared[organ].size], 2):
            if common := np.intersect1d(shared[first], shared[second], assume_unique=True).size:
                found = f"{common} voxels in both {first} and {second}"
                wanted, fix = "one organ per voxel", f"correct one of them; {second} wins"
                faults.append(warning(case.name, case.masks[second], "overlapping masks", found, wanted, fix))
    return faults


def _check_unlabelled(case: Case, drawn: Mapping[str, Path]) -> list[Fault]:
    kind, wanted = "drawn although unlabelled", "no voxel of it"
    fix = "take it out of unlabelled.json or out of the label"
    return [warning(case.name, drawn[organ], kind, organ, wanted, fix) for organ in case.unlabelled if organ in drawn]


def _bad_values(case: Case, path: Path, label: Volume, image: Volume | None, fault: UserError) -> list[Fault]:
    """Of a file that is perhaps no label, the grid is told but not judged."""
    kind = "unknown label value" if np.isfinite(label.array).all() else "NaN"
    return [
        _from_error(case, path, kind, fault),
        *_grid_faults(case, path, label.geometry, image, _VALUES_FIRST),
    ]


def _grid_faults(case: Case, path: Path, grid: Geometry, image: Volume | None, fix: str) -> list[Fault]:
    differences = mismatches(grid, image.geometry) if image is not None else []
    if not differences or image is None:
        return []
    found = "spacing 1 mm and no origin"
    if fix == IMAGE_HEADER:
        wanted = f"the label's {_words(mismatches(image.geometry, grid))}"
        return [error(case.name, case.image, "identity affine", found, wanted, fix)]
    if fix == LABEL_HEADER and without_place(grid):
        return [error(case.name, path, "identity affine", found, f"the image's {_words(differences)}", fix)]
    return [error(case.name, path, one.kind, one.found, f"the image's {one.wanted}", fix) for one in differences]


def _words(differences: list[Mismatch]) -> str:
    return " and ".join(f"{one.kind} {one.wanted}" for one in differences)


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
