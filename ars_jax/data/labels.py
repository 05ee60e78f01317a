"""What the values in label files mean: tables of organs, label maps as channel numbers, masks."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ars_jax.data.plan import is_name
from ars_jax.errors import UserError

BTCV_LABELS = {
    "Spleen": 1,
    "Kidney_R": 2,
    "Kidney_L": 3,
    "Gallbladder": 4,
    "Esophagus": 5,
    "Liver": 6,
    "Stomach": 7,
    "Aorta": 8,
    "InferiorVenaCava": 9,
    "PortalSplenicVein": 10,
    "Pancreas": 11,
    "AdrenalGland_R": 12,
    "AdrenalGland_L": 13,
}
"""The label values of the "Beyond the Cranial Vault" abdomen challenge."""

LITS_LABELS = {"Liver": 1, "Tumour": 2}
"""The label values of the liver tumour challenge; the liver's voxels are those without tumour."""

_UNKNOWN = 255
_MAX_ORGANS = 254
_MAX_VALUE = 65535


def checked_labels(thing: str | Path, labels: Any) -> dict[str, int]:
    """Checks a table of organs.

    Args:
        thing: the file or key, for messages.
        labels: organ names with their values.

    Returns:
        The table.

    Raises:
        UserError: not a table, empty, more than 254 organs, a name that cannot be shown, or a value that is not whole,
            not from 1 to 65535, or given twice.
    """
    if not isinstance(labels, Mapping) or not 0 < len(labels) <= _MAX_ORGANS:
        wanted = f'1 to {_MAX_ORGANS} organs as {{"Organ": value}}'
        raise UserError(thing, found="no table of organs", wanted=wanted, fix="list the organs with their values")
    seen: dict[int, str] = {}
    for organ, value in labels.items():
        if not is_name(organ):
            wanted = "the name of an organ, of at most 100 letters that can be shown"
            raise UserError(thing, found=repr(organ), wanted=wanted, fix="mend the name")
        if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MAX_VALUE:
            fix = "give each organ one number (background is 0 and not listed)"
            raise UserError(f"{thing}: {organ}", found=repr(value), wanted=f"1 to {_MAX_VALUE}", fix=fix)
        if value in seen:
            fix = "give each organ its own value"
            raise UserError(f"{thing}: {organ}", found=f"{value}, as {seen[value]}", wanted="another value", fix=fix)
        seen[value] = organ
    return dict(labels)


def channel_numbers(
    path: Path, array: np.ndarray, labels: Mapping[str, int], others: Collection[int] = ()
) -> np.ndarray:
    """Translates a label map's values into channel numbers.

    Args:
        path: the file, for messages.
        array: label values; floats have to be whole numbers.
        labels: organ names with their values; the k-th one becomes k + 1.
        others: further values that become background, as 0 does.

    Returns:
        uint8 array of the same shape.

    Raises:
        UserError: a value that is NaN, not whole, or in neither of the two.
    """
    if array.dtype.kind == "f":
        broken = (array != np.rint(array)) | np.isinf(array)  # NaN differs from itself
        if broken.any():
            found = f"label value {array[broken][0]:g}"
            raise UserError(path, found=found, wanted="whole numbers", fix="export the label as integers")
    known = {0, *others, *labels.values()}
    table = np.full(max(known) + 1, _UNKNOWN, np.uint8)
    table[[0, *others]] = 0
    table[list(labels.values())] = np.arange(1, len(labels) + 1)
    bad = (array < 0) | (array > max(known))
    if not bad.any():
        channels = table[array.astype(np.intp) if array.dtype.kind == "f" else array]
        bad = channels == _UNKNOWN
        if not bad.any():
            return channels
    values = ", ".join(f"{value:g}" for value in np.unique(array[bad])[:5])
    found = f"label value {values} in {np.count_nonzero(bad)} voxels"
    wanted = ", ".join(["0", *(f"{value} ({organ})" for organ, value in labels.items())])
    raise UserError(path, found=found, wanted=wanted, fix="name the value in the data set's labels or correct the file")


def mask_voxels(path: Path, array: np.ndarray) -> np.ndarray:
    """Returns where a mask is set.

    Args:
        path: the file, for messages.
        array: 0 outside and one positive value inside.

    Returns:
        bool array of the same shape.

    Raises:
        UserError: NaN, a negative value or several different values.
    """
    inside = array != 0
    values = array[inside]
    if values.size and not 0 < values.min() == values.max() < np.inf:
        found = f"values from {values.min():g} to {values.max():g}"
        raise UserError(path, found=found, wanted="0 and one other value", fix="export one mask per organ")
    return inside
