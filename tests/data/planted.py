"""A sound data set of made-up heads, and copies of it with one fault each."""

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ars_jax.data.faults import CANNOT_TELL, IMAGE_HEADER, LABEL_HEADER, REPAIR
from ars_jax.data.geometry import Geometry
from ars_jax.data.phantom import PHANTOM_LABELS, phantom_case
from ars_jax.data.volumes import Volume, read_volume, write_volume
from tests.data.small_sets import flipped

CASES = tuple(f"case_{number}" for number in range(8))
VICTIM, OTHER = "case_2", "case_7"
_SHAPE = (42, 44, 44)  # one grid for all, so that a label of another case fits
_SPACING = (4.0, 3.9, 3.9)

Plant = Callable[[Path], object]


def write_sound(root: Path) -> Path:
    """Eight heads in the folders layout, all of one size, each at a place of its own."""
    for number, name in enumerate(CASES):
        image, label = phantom_case((3, number), _SHAPE, _SPACING)
        write_volume(image_path(root, name), image)
        write_volume(label_path(root, name), label)
    (root / "labels.json").write_text(json.dumps(PHANTOM_LABELS))
    return root


def image_path(root: Path, case: str = VICTIM) -> Path:
    return root / "images" / f"{case}.nii.gz"


def label_path(root: Path, case: str = VICTIM) -> Path:
    return root / "labels" / f"{case}.nii.gz"


def planted(sound: Path, root: Path, plant: Plant) -> Path:
    shutil.copytree(sound, root)
    plant(root)
    return root


def masks_of(sound: Path, root: Path) -> Path:
    """The same set in the PDDCA layout, one mask per organ."""
    for name in CASES:
        write_volume(root / name / "img.nrrd", read_volume(image_path(sound, name)))
        label = read_volume(label_path(sound, name))
        for organ, value in PHANTOM_LABELS.items():
            mask = Volume((label.array == value).astype(np.uint8), label.geometry)
            write_volume(root / name / "structures" / f"{organ}.nrrd", mask)
    return root


def both(root: Path) -> tuple[Path, Path]:
    return image_path(root), label_path(root)


def identity(*paths: Path) -> None:
    """The header that programs write where they know no place."""
    for path in paths:
        array = read_volume(path).array
        no_place = Geometry(array.shape, (1.0, 1.0, 1.0), (0.0, 0.0, 0.0), (1.0, 0, 0, 0, -1.0, 0, 0, 0, -1.0))
        write_volume(path, Volume(array, no_place))


def mirrored(axes: tuple[int, ...], *paths: Path) -> None:
    """The voxels as they are, under a header whose axes run backwards through the same box."""
    for path in paths:
        volume = read_volume(path)
        old = volume.geometry
        origin, direction = list(old.origin), np.reshape(old.direction, (3, 3)).copy()
        for axis in axes:
            origin[axis] += (old.shape[axis] - 1) * old.spacing[axis] * direction[axis, axis]
            direction[axis, axis] *= -1
        turned = dataclasses.replace(old, origin=tuple(origin), direction=tuple(direction.ravel()))
        write_volume(path, Volume(volume.array, turned))


def stored_turned(axis: int, *paths: Path) -> None:
    """The same points, stored with an axis the other way round."""
    for path in paths:
        write_volume(path, flipped(read_volume(path), axis))


def exchanged(root: Path) -> None:
    """Image and label as if the patient lay on the side: two axes of the voxels exchanged, the header kept."""
    for path in both(root):
        volume = read_volume(path)
        array = np.ascontiguousarray(np.rot90(volume.array, axes=(1, 2)))
        write_volume(path, Volume(array, dataclasses.replace(volume.geometry, shape=array.shape)))


def redrawn(change: Callable[[np.ndarray], None]) -> Plant:
    def plant(root: Path) -> None:
        label = read_volume(label_path(root))
        change(label.array)
        write_volume(label_path(root), label)

    return plant


def swap_sides(array: np.ndarray) -> None:
    for organ in ("Parotid", "Submandibular", "OpticNerve"):
        left, right = (array == PHANTOM_LABELS[f"{organ}_{side}"] for side in "LR")
        array[left], array[right] = PHANTOM_LABELS[f"{organ}_R"], PHANTOM_LABELS[f"{organ}_L"]


def set_99(array: np.ndarray) -> None:
    array[5:7, 5, 5] = 99


def erase_larynx(array: np.ndarray) -> None:
    array[array == PHANTOM_LABELS["Larynx"]] = 0


def cut_larynx(array: np.ndarray) -> None:
    """Leaves the lowest tenth of it."""
    z, y, x = np.nonzero(array == PHANTOM_LABELS["Larynx"])
    upper = slice(len(z) // 10, None)
    array[z[upper], y[upper], x[upper]] = 0


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def label_of_case(root: Path, donor: str, receiver: str = VICTIM) -> None:
    """The donor's label under the receiver's header."""
    grid = read_volume(label_path(root, receiver)).geometry
    write_volume(label_path(root, receiver), Volume(read_volume(label_path(root, donor)).array, grid))


def label_of_nobody(root: Path) -> None:
    """The label of a head that is not in the set, under the victim's header."""
    grid = read_volume(label_path(root)).geometry
    write_volume(label_path(root), Volume(phantom_case((3, 23), _SHAPE, _SPACING)[1].array, grid))


def swapped_labels(root: Path) -> None:
    kept = read_volume(label_path(root))
    label_of_case(root, OTHER)
    grid = read_volume(label_path(root, OTHER)).geometry
    write_volume(label_path(root, OTHER), Volume(kept.array, grid))


def not_a_number(root: Path) -> None:
    image = read_volume(image_path(root))
    array = image.array.astype(np.float32)
    array[3, 3, :2] = np.nan
    write_volume(image_path(root), Volume(array, image.geometry))


def constant(root: Path) -> None:
    image = read_volume(image_path(root))
    write_volume(image_path(root), Volume(np.zeros_like(image.array), image.geometry))


ME, NOBODY = VICTIM, ""
LEFT_RIGHT = (ME, "left and right", "error", "")
TURNED = (ME, "arrangement", "warning", "")
UNLIKE = (ME, "intensities", "warning", "")
TWICE = {(ME, "same label", "error", ""), (OTHER, "same label", "error", "")}


def off_grid(fix: str, *kinds: str) -> set[tuple[str, str, str, str]]:
    return {(ME, kind, "error", fix) for kind in kinds or ("origin", "direction")}


def one_error(kind: str) -> set[tuple[str, str, str, str]]:
    return {(ME, kind, "error", "")}


PLANTS: dict[str, tuple[Plant, set[tuple[str, str, str, str]]]] = {
    "image with identity affine": (lambda root: identity(image_path(root)), off_grid(IMAGE_HEADER, "identity affine")),
    "label with identity affine": (lambda root: identity(label_path(root)), off_grid(LABEL_HEADER, "identity affine")),
    # NIfTI's identity is RAS: image and label of these heads come to stand half turned.
    "both with identity affine": (
        lambda root: identity(*both(root)),
        {(ME, "identity affine", "warning", ""), LEFT_RIGHT},
    ),
    # The made-up heads look alike enough upside down; real ones do not.
    "label's header flipped, up and down": (
        lambda root: mirrored((0,), label_path(root)),
        off_grid(CANNOT_TELL) | {TURNED},
    ),
    "label's header flipped, front and back": (lambda root: mirrored((1,), label_path(root)), off_grid(LABEL_HEADER)),
    "label's header flipped, sideways": (lambda root: mirrored((2,), label_path(root)), off_grid(LABEL_HEADER)),
    "label stored upside down": (lambda root: stored_turned(0, label_path(root)), off_grid(CANNOT_TELL)),
    "label stored front to back": (lambda root: stored_turned(1, label_path(root)), off_grid(REPAIR)),
    "label stored from the other side": (lambda root: stored_turned(2, label_path(root)), off_grid(REPAIR)),
    "image's header turned half round": (lambda root: mirrored((1, 2), image_path(root)), off_grid(CANNOT_TELL)),
    "both flipped, up and down": (lambda root: mirrored((0,), *both(root)), {TURNED}),
    "both flipped, front and back": (lambda root: mirrored((1,), *both(root)), {TURNED}),
    "both flipped, sideways": (lambda root: mirrored((2,), *both(root)), {LEFT_RIGHT}),
    "both turned half round": (lambda root: mirrored((1, 2), *both(root)), {LEFT_RIGHT, TURNED}),
    "both on the side": (exchanged, {LEFT_RIGHT, TURNED}),
    "left and right swapped": (redrawn(swap_sides), {LEFT_RIGHT}),
    "label value 99": (redrawn(set_99), one_error("unknown label value")),
    "missing organ": (redrawn(erase_larynx), {(ME, "empty label", "warning", "")}),
    "organ cut off": (redrawn(cut_larynx), {(ME, "volume", "warning", "")}),
    "truncated image": (lambda root: truncate(image_path(root)), one_error("unreadable file")),
    "truncated label": (lambda root: truncate(label_path(root)), one_error("unreadable file")),
    "empty file": (lambda root: label_path(root).write_bytes(b""), one_error("unreadable file")),
    "image without label": (lambda root: os.remove(label_path(root)), {(ME, "image without label", "warning", "")}),
    "label without image": (lambda root: os.remove(image_path(root)), {(NOBODY, "missing pair", "error", "")}),
    "label of another case": (lambda root: label_of_case(root, OTHER), {UNLIKE, *TWICE}),
    "label of a case elsewhere": (label_of_nobody, {UNLIKE}),
    "two labels exchanged": (swapped_labels, {UNLIKE, (OTHER, "intensities", "warning", "")}),
    "label with its own header of another case": (
        lambda root: shutil.copyfile(label_path(root, OTHER), label_path(root)),
        off_grid(LABEL_HEADER, "origin") | TWICE | {UNLIKE},
    ),
    "one image twice": (
        lambda root: shutil.copyfile(image_path(root, OTHER), image_path(root)),
        off_grid(LABEL_HEADER, "origin") | {(OTHER, "same image", "warning", ""), UNLIKE},
    ),
    "an image that is not a number": (not_a_number, one_error("NaN")),
    "an image of one value": (constant, one_error("one value")),
}
"""What is planted, and the case, kind and severity of all that is found, with the fix of a wrong grid."""


def masks(root: Path, case: str = VICTIM) -> list[Path]:
    return sorted((root / case / "structures").iterdir())


def masks_of_case(root: Path, donor: str) -> None:
    for path in masks(root):
        grid = read_volume(path).geometry
        write_volume(path, Volume(read_volume(root / donor / "structures" / path.name).array, grid))


def mask_with_99(root: Path) -> None:
    mask = read_volume(masks(root)[0])
    set_99(mask.array)
    write_volume(masks(root)[0], mask)


MASK_PLANTS: dict[str, tuple[Plant, set[tuple[str, str, str, str]]]] = {
    "truncated mask": (lambda root: truncate(masks(root)[0]), one_error("unreadable file")),
    "headers flipped sideways": (lambda root: mirrored((2,), *masks(root)), off_grid(LABEL_HEADER)),
    "masks stored from the other side": (lambda root: stored_turned(2, *masks(root)), off_grid(REPAIR)),
    "masks of another case": (lambda root: masks_of_case(root, OTHER), {UNLIKE, *TWICE}),
    "mask value 99": (mask_with_99, one_error("unknown label value")),
    "mask with identity affine": (lambda root: identity(masks(root)[0]), off_grid(LABEL_HEADER, "identity affine")),
    "image with identity affine": (
        lambda root: identity(root / VICTIM / "img.nrrd"),
        off_grid(IMAGE_HEADER, "identity affine"),
    ),
    "image and a mask with identity affine": (
        lambda root: identity(root / VICTIM / "img.nrrd", masks(root)[0]),
        off_grid(CANNOT_TELL, "spacing", "origin", "direction") | {(ME, "identity affine", "warning", "")},
    ),
}
"""The same of sets with one mask per organ."""
