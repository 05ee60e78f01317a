"""Arguments that do not fit: one message form, and the names that other libraries use."""

import difflib
import functools
import inspect
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, get_args

import numpy as np

P = ParamSpec("P")
R = TypeVar("R")

OTHER_NAMES = {
    "mask": "where",
    "loss_mask": "where",
    "ignore_index": "ignore_label",
    "ignore_label": "where",
    "smooth": "eps",
    "smooth_nr": "eps",
    "smooth_dr": "eps",
    "epsilon": "eps",
    "alpha": "fp_weight",
    "beta": "fn_weight",
    "a": "min_penalty",
    "A": "min_penalty",
    "b": "penalty_range",
    "B": "penalty_range",
    "squared_pred": "squared",
    "batch": "batch_dice",
    "whole_batch": "batch_dice",
    "do_bg": "include_background",
    "weight": "class_weights",
    "absent": "absent_classes",
    "grid": "regions",
    "region_size": "regions",
    "region_map": "regions",
    "num_region_per_axis": "regions",
    "lambda_ce": "cross_entropy_weight",
    "weight_ce": "cross_entropy_weight",
    "objective": "terms",
    "weights": "terms",
    "region_weight": "terms",
    "lambda_dice": "terms",
    "weight_dice": "terms",
}
"""Arguments of MONAI, nnU-Net, the public PyTorch modules and version 0.1, and what they are called here."""


class ArgumentError(ValueError):
    """An argument whose value does not fit.

    Attributes:
        name: of the argument.
        found: its value.
        wanted: what fits.
    """

    def __init__(self, name: str, found: object, wanted: str) -> None:
        if getattr(found, "ndim", 0):
            found = f"array of {found.dtype} {found.shape}"  # type: ignore[attr-defined]
        super().__init__(f"{name} (={found}) must be {wanted}")
        self.name, self.found, self.wanted = name, found, wanted


class ObjectiveWarning(UserWarning):
    """An objective whose terms are out of proportion."""


def check_word(name: str, word: object, allowed: object) -> None:
    """Raises an ArgumentError for a word that is not among those of a Literal type."""
    if not any(word == each and type(word) is type(each) for each in get_args(allowed)):
        raise ArgumentError(name, repr(word), f"one of {', '.join(map(repr, get_args(allowed)))}")


def check_number(name: str, value: object, holds: Callable[[Any], bool], wanted: str) -> None:
    """Raises an ArgumentError for a number outside of its range; None and a traced number have no value to check."""
    try:
        fits = value is None or (not isinstance(value, str | bool) and holds(float(value)))  # type: ignore[arg-type]
    except TypeError:  # a traced number
        return
    if not fits:
        raise ArgumentError(name, value if isinstance(value, int | float) else repr(value), wanted)


def check_positive(name: str, value: object) -> None:
    """Raises an ArgumentError for a number that is not above 0; a traced number has no value to check."""
    check_number(name, value, lambda number: 0 < number < math.inf, "above 0 and finite")


def check_integer(name: str, value: object, *, least: int | None = None) -> None:
    """Raises an ArgumentError for a value that is no integer, or below the least one."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
        fits = not isinstance(value, bool) and (least is None or number >= least)
    except TypeError:
        fits = False
    if not fits:
        raise ArgumentError(
            name,
            value if isinstance(value, int) else repr(value),
            "an integer" + ("" if least is None else f" of at least {least}"),
        )


def check_weights(name: str, values: object) -> None:
    """Raises an ArgumentError for weights below 0 or not finite; traced ones have no values to check."""
    try:
        numbers = np.asarray(values, np.float64)
    except TypeError:
        return
    except ValueError:
        numbers = np.full(1, np.nan)
    if values is not None and not ((numbers >= 0) & np.isfinite(numbers)).all():
        raise ArgumentError(name, values, "numbers of at least 0")


def suggest(name: str, known: Sequence[str]) -> str:
    """Returns the argument that an unknown name means, and an empty text where none is near."""
    for meant in (OTHER_NAMES.get(name, ""), OTHER_NAMES.get(OTHER_NAMES.get(name, ""), "")):
        if meant in known:
            return meant
    theirs = [other for other in known if OTHER_NAMES.get(other) == name]  # presets have the other library's names
    if theirs or name in {*OTHER_NAMES, *OTHER_NAMES.values()}:
        return next(iter(theirs), "")  # another argument that merely sounds alike is not meant
    words = {other: ours for other, ours in OTHER_NAMES.items() if ours in known and len(other) > 3}
    words |= {word: word for word in known}
    return next((words[close] for close in difflib.get_close_matches(name, words, 1, 0.74)), "")


def names_arguments(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a function raise a TypeError for an unknown argument that names the one that is meant."""
    known = [name for name in inspect.signature(function).parameters if name != "self"]
    title = function.__qualname__.removesuffix(".__init__").replace(".__call__", "(...)")

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known:
                meant = suggest(name, known)
                hint = f"the argument is {meant!r}" if meant else f"its arguments are {', '.join(known)}"
                raise TypeError(f"{title}() has no argument {name!r}: {hint}")
        return function(*args, **kwargs)

    return checked
