"""A corrected copy of a data set: labels brought to their image's grid, or wrong headers replaced where asked."""

import contextlib
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np

from ars_jax.data.cases import Case, Dataset
from ars_jax.data.check import Examination
from ars_jax.data.faults import IMAGE_HEADER, LABEL_HEADER, REPAIR, Fault
from ars_jax.data.geometry import Geometry, mismatches
from ars_jax.data.labels import channel_numbers, mask_voxels
from ars_jax.data.layouts import read_label
from ars_jax.data.volumes import WRITABLE, Volume, map_to, read_geometry, read_volume, write_volume
from ars_jax.errors import UserError
from ars_jax.files import check_place, read_json, write_json, written_atomically


def repair_dataset(
    examination: Examination,
    out: Path,
    *,
    headers: bool = False,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Fault]:
    """Writes a corrected copy of a data set in the "folders" layout; the source is never touched.

    Labels on another grid than their image are resampled onto it, by physical position and nearest neighbour. Label
    maps without fault are copied byte by byte, masks are combined into one label map (where they overlap, the later
    organ wins), and values that were not chosen become background. Images are copied byte by byte; DICOM series and
    images of several files become .nii.gz. Cases with an error that this does not mend are left out, also of
    `split.json`, which is copied where there is one.

    Args:
        examination: the data set and its faults.
        out: a folder that does not exist or is empty, outside of the data set. `labels.json` is written last.
        headers: whether files whose header the check found to be wrong take the header of their image or label.
        progress: called after every case, in order, with the number done, the number of all and the case's name.

    Returns:
        The errors of the cases that were left out.

    Raises:
        UserError: the folder is not empty, lies in the data set, or cannot be written.
    """
    dataset, out = examination.dataset, Path(out)
    check_target(dataset.root, out)
    mended = {REPAIR, LABEL_HEADER, IMAGE_HEADER} if headers else {REPAIR}
    errors = [fault for fault in examination.faults if fault.severity == "error" and fault.case]
    left = [fault for fault in errors if fault.fix not in mended]
    unlabelled: dict[str, tuple[str, ...]] = {}
    for done, case in enumerate(dataset.cases, start=1):
        if not any(fault.case == case.name for fault in left):
            fixes = {fault.file: fault.fix for fault in errors if fault.case == case.name}
            repair_case(case, dataset.labels, out, fixes)
            unlabelled |= {case.name: case.unlabelled} if case.unlabelled else {}
        if progress:
            progress(done, len(dataset.cases), case.name)
    _copy_split(dataset, [fault.case for fault in left], out)
    if unlabelled:
        write_json(out / "unlabelled.json", unlabelled)
    write_json(out / "labels.json", dict(dataset.labels))
    return left


def check_target(root: Path, out: Path) -> None:
    """Tests whether `repair_dataset` may write to a folder, which is made.

    Args:
        root: the data set's folder.
        out: the folder of the copy.

    Raises:
        UserError: the folder is not empty, lies in the data set, or cannot be written.
    """
    if os.path.lexists(out) and not (os.path.isdir(out) and not os.listdir(out)):
        raise UserError(out, found="something there already", wanted="a new or empty folder", fix="choose another")
    if out.resolve().is_relative_to(root.resolve()):
        raise UserError(out, found="a place in the data set", wanted="a folder outside of it", fix="choose another")
    check_place(out / "labels.json")


def repair_case(case: Case, labels: Mapping[str, int], out: Path, fixes: Mapping[str, str]) -> None:
    """Writes one case of `repair_dataset`: `out/images/<case>` and `out/labels/<case>`.

    Args:
        case: the case.
        labels: the data set's organs with their values, which the label map keeps.
        out: the folder of the copy.
        fixes: file to fix, of the faults that are to be mended.

    Raises:
        UserError: a file cannot be read or written.
    """
    geometry = _copy_image(case, out, fixes.get(str(case.image)) == IMAGE_HEADER)
    if not case.labelled:
        return
    wrong = {file for file, fix in fixes.items() if fix == LABEL_HEADER}
    if case.label is not None and not case.others and (ending := _ending(case.label)):
        if not mismatches(read_geometry(case.label), geometry):
            _copy(case.label, out / "labels" / f"{case.name}{ending}")
            return
    channels = _channels_on(case, labels, geometry, wrong)
    values = np.array([0, *labels.values()], np.min_scalar_type(max(labels.values())))
    write_volume(out / "labels" / f"{case.name}.nii.gz", Volume(values[channels], geometry))


def _copy_image(case: Case, out: Path, takes_header: bool) -> Geometry:
    """Copies the image, on its label's grid if its own header is wrong, and returns its grid."""
    if takes_header:
        # The check finds this fault only where all masks lie on one grid.
        label = case.label or next(iter(case.masks.values()))
        image = Volume(read_volume(case.image).array, read_geometry(label))
        write_volume(out / "images" / f"{case.name}.nii.gz", image)
        return image.geometry
    if ending := _ending(case.image):
        _copy(case.image, out / "images" / f"{case.name}{ending}")
        return read_geometry(case.image)
    image = read_volume(case.image)
    write_volume(out / "images" / f"{case.name}.nii.gz", image)
    return image.geometry


def _channels_on(case: Case, labels: Mapping[str, int], geometry: Geometry, wrong: Collection[str]) -> np.ndarray:
    """Channel numbers on the image's grid: by place, or by index where the header of the file is wrong."""

    def onto(path: Path, volume: Volume) -> np.ndarray:
        return volume.array if str(path) in wrong else map_to(volume, geometry).array

    if case.structures is not None:
        return read_label(case, labels, geometry).array
    if case.label is not None:
        label = read_volume(case.label)
        channels = channel_numbers(case.label, label.array, labels, case.others)
        return onto(case.label, Volume(channels, label.geometry))
    result = np.zeros(geometry.shape, np.uint8)
    for channel, organ in enumerate(labels, start=1):
        if path := case.masks.get(organ):
            mask = read_volume(path)
            inside = mask_voxels(path, mask.array).astype(np.uint8)
            result[onto(path, Volume(inside, mask.geometry)) > 0] = channel
    return result


def _copy_split(dataset: Dataset, left: list[str], out: Path) -> None:
    """Copies the split's file; byte by byte if it names no case that was left out, or has another form."""
    source = dataset.root / "split.json"
    if not source.is_file():
        return
    with contextlib.suppress(UserError):
        content = read_json(source)
        if isinstance(content, dict) and all(isinstance(part, list) for part in content.values()):
            kept = {role: [name for name in part if name not in left] for role, part in content.items()}
            if kept != content:
                write_json(out / "split.json", kept)
                return
    _copy(source, out / "split.json")


def _ending(path: Path) -> str:
    """The name's ending if the volume is one file, which can be copied."""
    if os.path.isdir(path):
        return ""
    return next((path.name[-len(end) :] for end in sorted(WRITABLE) if path.name.lower().endswith(end)), "")


def _copy(source: Path, target: Path) -> None:
    with written_atomically(target) as temporary:
        shutil.copyfile(source, temporary)
