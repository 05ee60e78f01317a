"""Where the files of a case lie: one finder per layout, which reads names and JSON files and no volumes."""

import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ars_jax.data.cases import Case
from ars_jax.data.dicom import find_export, has_series
from ars_jax.data.labels import BTCV_LABELS, LITS_LABELS, checked_labels
from ars_jax.data.volumes import READABLE
from ars_jax.errors import UserError
from ars_jax.files import read_json

Found = tuple[list[Case], dict[str, int], list[Path]]
"""Cases, organ names with their values (empty if the folder does not say), and files without a partner."""

_LITS_NAME = re.compile(r"(volume|segmentation)-(\d+)\.nii(\.gz)?", re.IGNORECASE)
_PDDCA_IMAGES = {"img": (*READABLE, ""), "ct": READABLE}  # img may also be a folder with a DICOM series
_PDDCA_MASKS = ("structures", "segmentations")


def find_cases(root: Path, layout: str) -> tuple[str, Found]:
    """Finds the cases of a data set.

    Args:
        root: an existing folder.
        layout: one of `LAYOUTS`, or "auto".

    Returns:
        The layout's name, and what was found.

    Raises:
        UserError: not recognised, no cases, two files for one case, or unreadable JSON.
    """
    layout = _recognise(root, layout)
    found = LAYOUTS[layout].find(root)
    if not found[0]:
        raise UserError(root, found="no image", wanted=f"{layout}: {LAYOUTS[layout].look}", fix="check the folder")
    return layout, found


def _recognise(root: Path, layout: str) -> str:
    if known := LAYOUTS.get(layout):
        if not known.sign(root):
            raise UserError(root, found="something else", wanted=f"{layout}: {known.look}", fix="check the layout")
        return layout
    if layout != "auto":
        raise UserError("layout", found=layout, wanted=f"auto, {', '.join(LAYOUTS)}", fix="choose one of these")
    for name, known in LAYOUTS.items():
        if known.sign(root):
            return name
    looked = "; ".join(f"{name}: {known.look}" for name, known in LAYOUTS.items())
    raise UserError(root, found="no known layout", wanted=looked, fix="check the path or arrange the files so")


def _find_msd(root: Path) -> Found:
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


def _find_folders(root: Path) -> Found:
    images, labels = _volumes(root / "images", folders=True), _volumes(root / "labels", folders=True)
    return _paired(images, labels), _table(root / "labels.json"), _orphans(images, labels)


def _find_btcv(root: Path) -> Found:
    images = {name: path for name, path in _volumes(root / "img").items() if name.startswith("img")}
    labels = {f"img{name.removeprefix('label')}": path for name, path in _volumes(root / "label").items()}
    return _paired(images, labels), dict(BTCV_LABELS), _orphans(images, labels)


def _find_lits(root: Path) -> Found:
    found: dict[str, dict[str, Path]] = {"volume": {}, "segmentation": {}}
    faults: dict[str, UserError] = {}
    for path, kind, number in _lits_files(root):
        first = found[kind].setdefault(number, path)
        if first != path:
            faults[f"volume-{number}"] = _second(path, first)
    images = {f"volume-{number}": path for number, path in found["volume"].items()}
    labels = {f"volume-{number}": path for number, path in found["segmentation"].items()}
    cases = [_with_fault(case, faults.get(case.name)) for case in _paired(images, labels)]
    return cases, dict(LITS_LABELS), _orphans(images, labels)


def _lits_files(root: Path) -> Iterator[tuple[Path, str, str]]:
    """The files of the challenge with their kind and number, in whatever folders it was unpacked to."""
    for place, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(files):
            if match := _LITS_NAME.fullmatch(name):
                yield Path(place, name), match[1].lower(), match[2]


def _find_pddca(root: Path) -> Found:
    cases: dict[str, Case] = {}
    orphans = []
    for folder in _pddca_folders(root):
        masks = next((found for name in _PDDCA_MASKS if (found := _volumes(folder / name))), {})
        images = _pddca_images(folder)
        if not images:
            orphans += [next(iter(masks.values())).parent] if masks else []
        elif folder.name in cases:
            raise UserError(folder, found=f"also {cases[folder.name].image.parent}", wanted="one", fix="remove one")
        else:
            fault = _second(images[1], images[0]) if len(images) > 1 else None
            cases[folder.name] = _with_fault(Case(folder.name, images[0], masks=masks), fault)
    return list(cases.values()), {}, orphans


def _pddca_folders(root: Path) -> Iterator[Path]:
    """The cases' folders: those of the root, and of folders such as part1 that hold nothing but cases."""
    for folder in filter(os.path.isdir, _entries(root)):
        inner = [] if folder.is_symlink() else [entry for entry in _entries(folder) if os.path.isdir(entry)]
        if not _pddca_images(folder) and any(_pddca_images(entry) for entry in inner if not entry.is_symlink()):
            yield from inner
        else:
            yield folder


def _pddca_images(folder: Path) -> list[Path]:
    """The image of a case's folder; none if it is no such folder, several if it is not known which."""
    for name, endings in _PDDCA_IMAGES.items():
        if there := [path for path in (folder / f"{name}{end}" for end in endings) if os.path.exists(path)]:
            return there
    return []


def _find_dicom(root: Path) -> Found:
    cases, orphans = [], []
    names = _contour_names(root / "contours.json")
    for folder in filter(os.path.isdir, _entries(root)):
        export = find_export(folder)
        if export.image is None:
            orphans += [path for path in (export.label, export.structures) if path]
            continue
        contours = names if export.structures else {}
        cases.append(
            Case(
                folder.name,
                export.image,
                export.label,
                structures=export.structures,
                contours=contours,
                fault=export.fault,
            )
        )
    return cases, _table(root / "labels.json"), orphans


def _contour_names(path: Path) -> dict[str, tuple[str, ...]]:
    """The names that an organ's contours carry, by organ, if there is such a file."""
    content = read_json(path) if os.path.lexists(path) else {}
    if isinstance(content, dict):
        lists = {organ: [names] if isinstance(names, str) else names for organ, names in content.items()}
        if all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists.values()):
            return {organ: (organ, *names) for organ, names in lists.items()}
    raise UserError(path, found="another form", wanted='{"Organ": ["name", "other name"]}', fix="write it so")


def _table(path: Path) -> dict[str, int]:
    return checked_labels(path, read_json(path)) if os.path.lexists(path) else {}


class Layout(NamedTuple):
    """A way to arrange a data set.

    Attributes:
        look: what it looks like, for messages.
        sign: whether a folder looks like it.
        find: finds the cases of such a folder.
    """

    look: str
    sign: Callable[[Path], bool]
    find: Callable[[Path], Found]


LAYOUTS = {
    "msd": Layout(
        "dataset.json with imagesTr/ and labelsTr/",
        lambda root: os.path.isfile(root / "dataset.json") and os.path.isdir(root / "imagesTr"),
        _find_msd,
    ),
    "folders": Layout("images/ and labels/", lambda root: os.path.isdir(root / "images"), _find_folders),
    "btcv": Layout("img/ and label/", lambda root: os.path.isdir(root / "img"), _find_btcv),
    "lits": Layout(
        "volume-N.nii and segmentation-N.nii",
        lambda root: any(kind == "volume" for _, kind, _ in _lits_files(root)),
        _find_lits,
    ),
    "pddca": Layout(
        "CASE/img.nrrd and CASE/structures/ORGAN.nrrd, or CASE/ct.nii.gz and CASE/segmentations/ORGAN.nii.gz",
        lambda root: any(_pddca_images(folder) for folder in _pddca_folders(root)),
        _find_pddca,
    ),
    "dicom": Layout(
        "CASE/ with a DICOM series and a label map or an RTSTRUCT",
        lambda root: any(has_series(folder) for folder in _entries(root) if os.path.isdir(folder)),
        _find_dicom,
    ),
}
"""The layouts by name, in the order in which they are looked for."""


def _entries(folder: Path) -> list[Path]:
    """The folder's visible entries, sorted; none if there is no such folder."""
    if not os.path.isdir(folder):
        return []
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise UserError(folder, found=error.strerror, wanted="a readable folder", fix="check your rights") from error


def _second(path: Path, first: Path) -> UserError:
    return UserError(path, found=f"also {first}", wanted="one file per case", fix="remove one")


def _with_fault(case: Case, fault: UserError | None) -> Case:
    """A case whose label cannot be read for its fault, if it has one: see `Case.fault`."""
    if fault is None:
        return case
    return dataclasses.replace(case, label=None, masks={}, structures=Path(fault.thing), fault=fault)


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
