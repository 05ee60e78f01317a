"""How cases are prepared (`Plan`, kept as plan.json) and what comes out (`Sample`)."""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import numpy as np

from ars_jax.errors import UserError
from ars_jax.files import write_json

MOST_VOXELS = 2**30
"""Of a volume: 4 GiB in float32, beyond which sides are mistakes."""

_LONGEST_NAME = 100
_MOST_UNITS = 1e9  # of an image; float32 keeps no differences far above


@dataclass(frozen=True)
class Plan:
    """What is done to every case before the network sees it; training and prediction read the same plan.json.

    Args:
        labels: organ names; channel 0 is background, organ k is channel k + 1.
        pairs: names of left and right organs that a flip along x exchanges.
        crop: "body" keeps the largest connected part above `crop_threshold`, "nonzero" the box of the voxels that are
            not 0, "none" everything.
        crop_threshold: image units (HU for CT); read by crop "body" only.
        crop_margin_mm: kept around the crop on every side, as far as the image goes.
        spacing: mm z, y, x to resample to (met up to rounding to whole voxels); None keeps the image's own.
        shape: voxels z, y, x to resample the cropped box to, as the paper does; exclusive with `spacing`.
        intensity: "window" maps `window` to [-1, 1] and clips; "zscore" takes mean and standard deviation of the
            prepared box and clips to [-5, 5].
        window: lowest and highest value in image units; read by intensity "window" only.
        multiple: every side that the network sees is a multiple of this (16 for a V-Net with four halvings).
        canvas: voxels z, y, x of training samples; None until the training cases are known (`complete_plan`).
        whole: voxels z, y, x to which smaller volumes are padded at prediction, so that one compilation serves them
            all; None until the training cases are known.
        patch: voxels z, y, x of the sliding window at prediction; None predicts the whole volume at once.

    Raises:
        UserError: a value out of its range, or two values that contradict each other.
    """

    labels: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...] = ()
    crop: Literal["none", "body", "nonzero"] = "none"
    crop_threshold: float = -400.0
    crop_margin_mm: float = 5.0
    spacing: tuple[float, float, float] | None = None
    shape: tuple[int, int, int] | None = None
    intensity: Literal["window", "zscore"] = "zscore"
    window: tuple[float, float] | None = None
    multiple: int = 16
    canvas: tuple[int, int, int] | None = None
    whole: tuple[int, int, int] | None = None
    patch: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        _check_names(self)
        _check_choices(self)
        _check_sides(self)


@dataclass(frozen=True)
class Sample:
    """One prepared case.

    Args:
        name: the case's name.
        image: float32 [z, y, x], normalised.
        label: uint8 [z, y, x] channel numbers, 0 background.
        labelled: bool [c]; False where the case says that class c was not drawn, so that its loss must be left out.
    """

    name: str
    image: np.ndarray
    label: np.ndarray
    labelled: np.ndarray


def write_plan(path: str | Path, plan: Plan) -> None:
    """Writes a plan as JSON, whole or not at all.

    Args:
        path: the file, usually named plan.json.
        plan: the plan.
    """
    write_json(Path(path), dataclasses.asdict(plan))


def read_plan(path: str | Path) -> Plan:
    """Reads a plan that `write_plan` wrote.

    Args:
        path: the file.

    Returns:
        The plan.

    Raises:
        UserError: no such file, not JSON, an unknown or missing key, a value of a wrong type or out of its range.
    """
    values = _read_object(Path(path))
    hints = get_type_hints(Plan)
    if unknown := sorted(set(values) - set(hints)):
        raise _plan_error(path, f"unknown key {', '.join(unknown)}", f"keys {', '.join(hints)}")
    if missing := [key for key in hints if key not in values]:
        raise _plan_error(path, f"no key {', '.join(missing)}", f"keys {', '.join(hints)}")
    converted = {}
    for key, hint in hints.items():
        try:
            converted[key] = _convert(values[key], hint)
        except TypeError:
            wanted = getattr(hint, "__name__", "") if isinstance(hint, type) else str(hint).replace("typing.", "")
            raise _plan_error(f"{path} {key}", json.dumps(values[key]), wanted) from None
    return Plan(**converted)


def _read_object(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _plan_error(path, error.strerror or error, "a plan") from error
    except (ValueError, RecursionError) as error:
        raise _plan_error(path, f"not JSON ({error})", "a plan") from error
    if not isinstance(values, dict):
        raise _plan_error(path, type(values).__name__, "a JSON object")
    return values


def _plan_error(thing: object, found: object, wanted: object) -> UserError:
    return UserError(thing, found=found, wanted=wanted, fix="use the plan.json that was written by training")


def _convert(value: Any, hint: Any) -> Any:
    """Takes a JSON value to a field's type; TypeError if it does not fit."""
    kind, args = get_origin(hint), get_args(hint)
    if kind in (Union, UnionType):
        (inner,) = (arg for arg in args if arg is not NoneType)
        return None if value is None else _convert(value, inner)
    if kind is Literal and value in args:
        return value
    if kind is tuple and isinstance(value, list):
        items = args[:1] * len(value) if args[-1] is Ellipsis else args
        if len(items) == len(value):
            return tuple(_convert(*pair) for pair in zip(value, items, strict=True))
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
        return float(value)  # no NaN, no infinity and no whole number beyond what a float takes
    if hint in (int, str) and type(value) is hint:
        return value
    raise TypeError


def is_name(text: object) -> bool:
    """Whether something may be an organ's name: 1 to 100 letters that tables and figures can show."""
    return isinstance(text, str) and 0 < len(text.strip()) <= len(text) <= _LONGEST_NAME and text.isprintable()


def _check_names(plan: Plan) -> None:
    for organ in plan.labels:
        if not is_name(organ):
            wanted = f"1 to {_LONGEST_NAME} letters that can be shown"
            raise UserError("labels", found=f"the organ {organ!r}", wanted=wanted, fix="mend the name")
    if not plan.labels or len(set(plan.labels)) != len(plan.labels) or len(plan.labels) > 254:
        raise UserError("labels", found=plan.labels, wanted="1 to 254 different organ names", fix="mend the names")
    paired = [name for pair in plan.pairs for name in pair]
    if len(set(paired)) != len(paired) or not set(paired) <= set(plan.labels):
        wanted = f"pairs of different organs out of {plan.labels}, each in one pair"
        raise UserError("pairs", found=plan.pairs, wanted=wanted, fix="mend the pairs")


def _check_choices(plan: Plan) -> None:
    for key, allowed in (("crop", ("none", "body", "nonzero")), ("intensity", ("window", "zscore"))):
        if getattr(plan, key) not in allowed:
            raise UserError(key, found=repr(getattr(plan, key)), wanted=" | ".join(allowed), fix="choose one of these")
    if plan.spacing is not None and plan.shape is not None:
        found = f"spacing {plan.spacing} and shape {plan.shape}"
        raise UserError("spacing, shape", found=found, wanted="at most one of them", fix="set one to null")
    low, high = plan.window or (0, 0)
    if plan.intensity == "window" and not -_MOST_UNITS <= low < high <= _MOST_UNITS:
        raise UserError("window", found=plan.window, wanted="lowest < highest value", fix="e.g. [-200, 400] for CT")


def _check_sides(plan: Plan) -> None:
    if not plan.crop_margin_mm >= 0:
        raise UserError("crop_margin_mm", found=plan.crop_margin_mm, wanted="0 or more", fix="give millimetres")
    if plan.multiple < 1:
        raise UserError("multiple", found=plan.multiple, wanted="1 or more", fix="16 suits a V-Net")
    for key in ("spacing", "shape", "canvas", "whole", "patch"):
        sides = getattr(plan, key)
        if sides is not None and not (len(sides) == 3 and all(side > 0 for side in sides)):
            raise UserError(key, found=sides, wanted="three positive numbers z, y, x", fix="mend the numbers")
        if sides is not None and key != "spacing" and math.prod(sides) > MOST_VOXELS:
            raise UserError(key, found=sides, wanted=f"at most {MOST_VOXELS} voxels", fix="give smaller sides")
    for key in ("canvas", "whole", "patch"):
        sides = getattr(plan, key) or ()
        if any(side % plan.multiple for side in sides):
            fix = f"for example {[-(-side // plan.multiple) * plan.multiple for side in sides]}"
            raise UserError(key, found=sides, wanted=f"multiples of {plan.multiple}", fix=fix)
