"""Data sets as folders: which image belongs to which labels and what the labels mean."""

import dataclasses
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ars_jax.data.labels import BTCV_LABELS, channel_numbers, checked_labels, mask_voxels
from ars_jax.data.volumes import READABLE, Geometry, Volume, mismatches, read_volume
from ars_jax.errors import UserError
from ars_jax.files import read_json


@dataclass(frozen=True)
class Case:
    """One image and what was drawn on it.

    Args:
        name: the case's name in its data set.
        image: a file, or a folder of one DICOM series.
        label: the label map, or
        masks: one mask per organ (organ name to file), in the order of the data set's labels.
        unlabelled: organs that were not drawn on this image, as the data set's `unlabelled.json` says.
        others: values of the label map that the data set knows but that were not chosen; they are background.
    """

    name: str
    image: Path
    label: Path | None = None
    masks: Mapping[str, Path] = field(default_factory=dict)
    unlabelled: tuple[str, ...] = ()
    others: tuple[int, ...] = ()

    @property
    def labelled(self) -> bool:
        """Whether there is a label map or at least one mask."""
        return self.label is not None or bool(self.masks)


@dataclass(frozen=True)
class Dataset:
    """All cases of a folder.

    Args:
        root: the folder.
        layout: "msd", "pddca", "folders" or "btcv".
        labels: organ names with their values on disk, without background. The k-th name is channel k + 1; of masks the
            values mean nothing.
        cases: sorted by name, also those without a label.
        orphans: label files without an image, and images that `dataset.json` lists but that are not there.
    """

    root: Path
    layout: str
    labels: Mapping[str, int]
    cases: tuple[Case, ...]
    orphans: tuple[Path, ...] = ()


def find_dataset(root: Path, *, layout: str = "auto", labels: Mapping[str, int] | None = None) -> Dataset:
    """Finds the cases of a data set; only names and JSON files are read, no volumes.

    Layouts:
        msd: `dataset.json`, `imagesTr/`, `labelsTr/` (Medical Segmentation Decathlon; also nnU-Net's form).
        folders: `images/` and `labels/` with equal names; a label is a map or a folder of masks named by organ. The
            label values come from `labels` or from `labels.json` ({"Organ": value}).
        btcv: `img/imgNNNN.nii.gz` and `label/labelNNNN.nii.gz`, with the values of `BTCV_LABELS`.
        pddca: `<case>/img.nrrd` and `<case>/structures/<Organ>.nrrd`.

    In each, `unlabelled.json` ({"case": ["Organ", ...]}) may name organs that were not drawn on a case.

    Args:
        root: the data set's folder.
        layout: one of the above, or "auto".
        labels: which organs to use, in this order, with their values; None takes all, masks sorted by name.

    Returns:
        The data set.

    Raises:
        UserError: not recognised, no cases, two files for one case, unknown organs or values, or unreadable JSON.
    """
    root = Path(root)
    if not os.path.isdir(root):
        raise UserError(root, found="no such folder", wanted="the folder of a data set", fix="check the path")
    layout = _recognise(root, layout)
    cases, table, orphans = _FINDERS[layout](root)
    if not cases:
        raise UserError(root, found="no image", wanted=f"{layout}: {_LOOKS[layout]}", fix="check the folder")
    chosen = _choose(root, cases, table, labels)
    unlabelled = read_unlabelled(root, {case.name for case in cases}, {*table, *chosen, *_organs(cases)})
    others = tuple(sorted(set(table.values()) - set(chosen.values())))
    ready = [
        dataclasses.replace(
            case,
            masks={organ: case.masks[organ] for organ in chosen if organ in case.masks},
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
        case: with a label map or masks.
        labels: the data set's organs; the k-th one becomes channel k + 1.
        geometry: the image's grid, on which masks have to lie.

    Returns:
        uint8 channel numbers, 0 background: a label map on its own grid, masks on the image's. Where masks overlap, the
        later organ of `labels` wins.

    Raises:
        UserError: no label, an unreadable file, an unknown or broken value, or a mask on another grid.
    """
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


def _recognise(root: Path, layout: str) -> str:
    if layout in _FINDERS:
        if not _SIGNS[layout](root):
            raise UserError(root, found="something else", wanted=f"{layout}: {_LOOKS[layout]}", fix="check the layout")
        return layout
    if layout != "auto":
        raise UserError("layout", found=layout, wanted=f"auto, {', '.join(_FINDERS)}", fix="choose one of these")
    for name, sign in _SIGNS.items():
        if sign(root):
            return name
    looked = "; ".join(f"{name}: {look}" for name, look in _LOOKS.items())
    raise UserError(root, found="no known layout", wanted=looked, fix="check the path or arrange the files so")


_Found = tuple[list[Case], dict[str, int], list[Path]]


def _find_msd(root: Path) -> _Found:
    description = read_json(root / "dataset.json")
    table = _msd_labels(root / "dataset.json", description)
    images, labels = _volumes(root / "imagesTr"), _volumes(root / "labelsTr")
    if "channel_names" in description or (labels and all(f"{name}_0000" in images for name in labels)):
        for name, path in images.items():
            if not name.endswith("_0000"):
                fix = "keep one channel per case" if name[-5:-4] == "_" else "name it CASE_0000"
                raise UserError(path, found="not a first channel", wanted="one channel, named CASE_0000", fix=fix)
        images = {name.removesuffix("_0000"): path for name, path in images.items()}
    return _paired(images, labels), table, _orphans(images, labels) + _listed_but_missing(root, description)


def _listed_but_missing(root: Path, description: Mapping[str, Any]) -> list[Path]:
    entries = description.get("training")
    names = [entry.get("image") for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    paths = [root / name for name in names if isinstance(name, str)]
    return [path for path in paths if not os.path.exists(path)]


def _msd_labels(path: Path, description: Any) -> dict[str, int]:
    labels = description.get("labels") if isinstance(description, dict) else None
    if not isinstance(labels, dict):
        wanted = '"labels": {"0": "background", "1": "Organ"} or {"background": 0, "Organ": 1}'
        raise UserError(path, found="no labels", wanted=wanted, fix="add them")
    if "ignore" in labels:
        raise UserError(path, found='label "ignore"', wanted="organs only", fix="redraw these voxels, drop the entry")
    pairs = [(value, key) if isinstance(value, str) else (key, value) for key, value in labels.items()]
    table = {name: int(value) if isinstance(value, str) and value.isdigit() else value for name, value in pairs}
    return checked_labels(path, {name: value for name, value in table.items() if value != 0})


def _find_folders(root: Path) -> _Found:
    images, labels = _volumes(root / "images", folders=True), _volumes(root / "labels", folders=True)
    path = root / "labels.json"
    table = checked_labels(path, read_json(path)) if os.path.lexists(path) else {}
    return _paired(images, labels), table, _orphans(images, labels)


def _find_btcv(root: Path) -> _Found:
    images = {name: path for name, path in _volumes(root / "img").items() if name.startswith("img")}
    labels = {f"img{name.removeprefix('label')}": path for name, path in _volumes(root / "label").items()}
    return _paired(images, labels), dict(BTCV_LABELS), _orphans(images, labels)


def _find_pddca(root: Path) -> _Found:
    cases, orphans = [], []
    for folder in filter(os.path.isdir, _entries(root)):
        masks = _volumes(folder / "structures")
        if image := _volumes(folder, folders=True).get("img"):
            cases.append(Case(folder.name, image, masks=masks))
        elif masks:
            orphans.append(folder / "structures")
    return cases, {}, orphans


def _has_pddca_cases(root: Path) -> bool:
    return any("img" in _volumes(folder, folders=True) for folder in filter(os.path.isdir, _entries(root)))


_FINDERS: dict[str, Callable[[Path], _Found]] = {
    "msd": _find_msd,
    "folders": _find_folders,
    "btcv": _find_btcv,
    "pddca": _find_pddca,
}
_SIGNS: dict[str, Callable[[Path], bool]] = {
    "msd": lambda root: os.path.isfile(root / "dataset.json") and os.path.isdir(root / "imagesTr"),
    "folders": lambda root: os.path.isdir(root / "images"),
    "btcv": lambda root: os.path.isdir(root / "img"),
    "pddca": _has_pddca_cases,
}
_LOOKS = {
    "msd": "dataset.json with imagesTr/ and labelsTr/",
    "folders": "images/ and labels/",
    "btcv": "img/ and label/",
    "pddca": "CASE/img.nrrd and CASE/structures/ORGAN.nrrd",
}


def _entries(folder: Path) -> list[Path]:
    """The folder's visible entries, sorted; none if there is no such folder."""
    if not os.path.isdir(folder):
        return []
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise UserError(folder, found=error.strerror, wanted="a readable folder", fix="check your rights") from error


def _volumes(folder: Path, *, folders: bool = False) -> dict[str, Path]:
    """The volumes in a folder by name without ending; sub-folders too if asked for."""
    found: dict[str, Path] = {}
    for entry in _entries(folder):
        ending = next((end for end in READABLE if entry.name.lower().endswith(end)), None)
        if os.path.isdir(entry):
            ending = "" if folders else None
        if ending is None:
            continue
        name = entry.name[: len(entry.name) - len(ending)]
        if name in found:
            raise UserError(entry, found=f"also {found[name].name}", wanted="one file per case", fix="remove one")
        found[name] = entry
    return found


def _paired(images: Mapping[str, Path], labels: Mapping[str, Path]) -> list[Case]:
    def case(name: str, image: Path) -> Case:
        label = labels.get(name)
        if label is not None and os.path.isdir(label):
            return Case(name, image, masks=_volumes(label))
        return Case(name, image, label)

    return [case(name, image) for name, image in images.items()]


def _orphans(images: Mapping[str, Path], labels: Mapping[str, Path]) -> list[Path]:
    return [path for name, path in labels.items() if name not in images]


def _organs(cases: Iterable[Case]) -> list[str]:
    return sorted({organ for case in cases for organ in case.masks})


def _choose(root: Path, cases: list[Case], table: dict[str, int], labels: Mapping[str, int] | None) -> dict[str, int]:
    """The organs to use: those asked for, which have to exist, or all."""
    organs = _organs(cases)
    maps = any(case.label for case in cases)
    if labels is None:
        if table:
            return table
        if maps or not organs:
            wanted = 'labels in the configuration, or labels.json with {"Organ": value}'
            raise UserError(root, found="label maps without organ names", wanted=wanted, fix="name the organs")
        return {organ: value for value, organ in enumerate(organs, start=1)}
    chosen = checked_labels("labels", labels)
    if table or not maps:
        known = table or dict.fromkeys(organs)
        for organ, value in chosen.items():
            if organ not in known:
                raise UserError(f"labels: {organ}", found="no such organ", wanted=", ".join(known), fix="name these")
            if table and known[organ] != value:
                raise UserError(f"labels: {organ}", found=value, wanted=known[organ], fix="use the data set's value")
    return chosen


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
