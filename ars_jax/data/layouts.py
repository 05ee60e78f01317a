"""Data sets as folders: which image belongs to which labels and what the labels mean."""

import dataclasses
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ars_jax.data.cases import Case, Dataset
from ars_jax.data.finders import find_cases
from ars_jax.data.geometry import Geometry, mismatches
from ars_jax.data.labels import channel_numbers, checked_labels, mask_voxels
from ars_jax.data.rtstruct import contour_names, read_structures
from ars_jax.data.volumes import Volume, read_volume
from ars_jax.errors import UserError
from ars_jax.files import read_json


def find_dataset(root: Path, *, layout: str = "auto", labels: Mapping[str, int] | None = None) -> Dataset:
    """Finds the cases of a data set; only names, JSON files and the first bytes of DICOM files are read, no volumes.

    Layouts:
        msd: `dataset.json`, `imagesTr/`, `labelsTr/` (Medical Segmentation Decathlon; also nnU-Net's form).
        folders: `images/` and `labels/` with equal names; a label is a map or a folder of masks named by organ. The
            label values come from `labels` or from `labels.json` ({"Organ": value}).
        btcv: `img/imgNNNN.nii.gz` and `label/labelNNNN.nii.gz`, with the values of `BTCV_LABELS`.
        lits: `volume-N.nii` and `segmentation-N.nii`, also zipped, in one folder or in any sub-folders, with the values
            of `LITS_LABELS`.
        pddca: `<case>/img.nrrd` and `<case>/structures/<Organ>.nrrd`, or `<case>/ct.nii.gz` and
            `<case>/segmentations/<Organ>.nii.gz`; the cases may lie one folder deeper. Other files are passed over.
        dicom: `<case>/` with one image series of DICOM files, and with a label map in another format or with an
            RTSTRUCT, in any sub-folders. Label values come from `labels` or from `labels.json`. The contours of an
            organ carry its name or one that `contours.json` ({"Organ": ["name", ...]}) gives.

    In each, `unlabelled.json` ({"case": ["Organ", ...]}) may name organs that were not drawn on a case.

    Args:
        root: the data set's folder.
        layout: one of the above, or "auto".
        labels: which organs to use, in this order, with their values; None takes all, masks sorted by name, contours
            as `contours.json` lists them.

    Returns:
        The data set.

    Raises:
        UserError: not recognised, no cases, two files for one case, unknown organs or values, or unreadable JSON.
    """
    root = Path(root)
    if not os.path.isdir(root):
        raise UserError(root, found="no such folder", wanted="the folder of a data set", fix="check the path")
    layout, (cases, table, orphans) = find_cases(root, layout)
    chosen = _choose(root, cases, table, labels)
    unlabelled = read_unlabelled(root, {case.name for case in cases}, {*table, *chosen, *_organs(cases)})
    others = tuple(sorted(set(table.values()) - set(chosen.values())))
    ready = [
        dataclasses.replace(
            case,
            masks={organ: case.masks[organ] for organ in chosen if organ in case.masks},
            contours={organ: case.contours.get(organ, (organ,)) for organ in chosen} if case.structures else {},
            unlabelled=tuple(organ for organ in chosen if organ in unlabelled.get(case.name, ())),
            others=others if case.label else (),
        )
        for case in cases
    ]
    return Dataset(root, layout, chosen, tuple(sorted(ready, key=lambda case: case.name)), tuple(orphans))


def read_unlabelled(root: Path, names: Collection[str], organs: Collection[str]) -> dict[str, list[str]]:
    """Reads which organs nobody drew on which cases.

    Args:
        root: the folder of `unlabelled.json`, which may be missing.
        names: the cases there are.
        organs: the organs there are.

    Returns:
        Case name to organs.

    Raises:
        UserError: another form, an unknown case or an unknown organ.
    """
    path = root / "unlabelled.json"
    if not os.path.lexists(path):
        return {}
    content = read_json(path)
    if not isinstance(content, dict) or not all(map(_is_names, content.values())):
        raise UserError(path, found="another form", wanted='{"case": ["Organ", ...]}', fix="write it so")
    for case, undrawn in content.items():
        if case not in names:
            raise UserError(f"{path}: {case}", found="no such case", wanted="names of cases", fix="check the spelling")
        for organ in undrawn:
            if organ not in organs:
                wanted = ", ".join(sorted(organs))
                raise UserError(f"{path}: {case}", found=f"organ {organ}", wanted=wanted, fix="check the spelling")
    return content


def read_label(case: Case, labels: Mapping[str, int], geometry: Geometry) -> Volume:
    """Reads what was drawn on a case as one map of channel numbers.

    Args:
        case: with a label map, masks or a structure set.
        labels: the data set's organs; the k-th one becomes channel k + 1.
        geometry: the image's grid, on which masks have to lie and contours are filled.

    Returns:
        uint8 channel numbers, 0 background: a label map on its own grid, masks and contours on the image's. Where they
        overlap, the later organ of `labels` wins.

    Raises:
        UserError: the case's fault, no label, an unreadable file, an unknown or broken value, a mask on another grid,
            or what `rtstruct.read_structures` raises.
    """
    if case.fault is not None:
        raise case.fault
    if case.structures is not None:
        names = {organ: case.contours.get(organ, (organ,)) for organ in labels}
        array = read_structures(case.structures, names, geometry, image=case.image, unlabelled=case.unlabelled)
        return Volume(array, geometry)
    if case.label is not None:
        volume = read_volume(case.label)
        return Volume(channel_numbers(case.label, volume.array, labels, case.others), volume.geometry)
    if not case.masks:
        raise UserError(case.image, found="no label for this image", wanted="a label map or masks", fix="add them")
    result = np.zeros(geometry.shape, np.uint8)
    for channel, organ in enumerate(labels, start=1):
        if path := case.masks.get(organ):
            mask = read_volume(path)
            if differences := mismatches(mask.geometry, geometry):
                raise UserError(
                    path,
                    found=f"{differences[0].kind} {differences[0].found}",
                    wanted=f"the image's {differences[0].wanted}",
                    fix="run ars-jax check with --repair",
                )
            result[mask_voxels(path, mask.array)] = channel
    return Volume(result, geometry)


def _organs(cases: Iterable[Case]) -> list[str]:
    """Organs that masks (sorted) or contours (in the file's order) are there for."""
    masks = sorted({organ for case in cases for organ in case.masks})
    return list(dict.fromkeys([*masks, *(organ for case in cases for organ in case.contours)]))


def _choose(root: Path, cases: list[Case], table: dict[str, int], labels: Mapping[str, int] | None) -> dict[str, int]:
    """The organs to use: those asked for, which have to exist, or all."""
    organs = _organs(cases)
    if labels is None:
        if table:
            return table
        if not organs or any(case.label for case in cases):
            raise _nameless(root, cases)
        return {organ: value for value, organ in enumerate(organs, start=1)}
    chosen = checked_labels("labels", labels)
    hidden = any(case.label or case.structures for case in cases)  # only known when they are read
    if table or (organs and not hidden):
        known = table or dict.fromkeys(organs)
        for organ, value in chosen.items():
            if organ not in known:
                raise UserError(f"labels: {organ}", found="no such organ", wanted=", ".join(known), fix="name these")
            if table and known[organ] != value:
                raise UserError(f"labels: {organ}", found=value, wanted=known[organ], fix="use the data set's value")
    return chosen


def _nameless(root: Path, cases: list[Case]) -> UserError:
    """Why the organs of label maps, of structure sets or of nothing are not known."""
    if any(case.label for case in cases):
        wanted = 'labels in the configuration, or labels.json with {"Organ": value}'
        return UserError(root, found="label maps without organ names", wanted=wanted, fix="name the organs")
    if not any(case.labelled for case in cases):
        found, fix = f"{len(cases)} images and no label at all", "add them; with labels given, images are checked alone"
        return UserError(root, found=found, wanted="label maps, masks or structure sets", fix=fix)
    found = f"structure sets without a list of the organs to use; {_contours_of_one(cases)}"
    wanted = 'labels in the configuration, or contours.json with {"Organ": ["name", ...]}'
    return UserError(root, found=found, wanted=wanted, fix="name the organs")


def _contours_of_one(cases: list[Case]) -> str:
    """The names of the contours in the first structure set that can be read; raises why none can."""
    faults: list[UserError] = []
    for case in cases:
        try:
            if case.fault is not None:
                raise case.fault
            if case.structures is not None:
                return f"{case.structures.name} has {', '.join(contour_names(case.structures))}"
        except UserError as fault:
            faults.append(fault)
    raise faults[0]


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
