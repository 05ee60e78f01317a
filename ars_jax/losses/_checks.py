"""Arguments that do not fit: one message form, and the names that other libraries use."""

import difflib
import functools
import inspect
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any, ParamSpec, TypeVar, get_args

P = ParamSpec("P")
R = TypeVar("R")

OTHER_NAMES = {
    "mask": "where",
    "loss_mask": "where",
    "ignore_index": "ignore_label",
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
        super().__init__(f"{name} (={found}) must be {wanted}")
        self.name, self.found, self.wanted = name, found, wanted


class ObjectiveWarning(UserWarning):
    """An objective whose terms are known to work against each other."""


def check_word(name: str, word: object, allowed: object) -> None:
    """Raises an ArgumentError for a word that is not among those of a Literal type."""
    if word not in get_args(allowed):
        raise ArgumentError(name, repr(word), f"one of {', '.join(map(repr, get_args(allowed)))}")


def check_number(name: str, value: object, holds: Callable[[Any], bool], wanted: str) -> None:
    """Raises an ArgumentError for a number outside of its range; a traced number has no value to check."""
    if isinstance(value, Real) and not holds(value):
        raise ArgumentError(name, value, wanted)


def check_positive(name: str, value: object) -> None:
    """Raises an ArgumentError for a number that is not above 0; a traced number has no value to check."""
    check_number(name, value, lambda number: number > 0, "above 0")


def suggest(name: str, known: Sequence[str]) -> str:
    """Returns the argument that an unknown name means, and an empty text where none is near."""
    if OTHER_NAMES.get(name) in known:
        return OTHER_NAMES[name]
    theirs = [other for other in known if OTHER_NAMES.get(other) == name]  # presets have the other library's names
    if not theirs and name in {*OTHER_NAMES, *OTHER_NAMES.values()}:
        return ""  # another argument that merely sounds alike is not meant
    words = {word: word for word in known}
    words |= {other: ours for other, ours in OTHER_NAMES.items() if ours in known and len(other) > 1}
    return next(iter(theirs or [words[close] for close in difflib.get_close_matches(name, words, 1)]), "")


def answers_other_names(function: Callable[P, R]) -> Callable[P, R]:
    """Makes a function answer an unknown argument with the name of the argument that is meant."""
    known = [name for name in inspect.signature(function).parameters if name != "self"]
    title = function.__qualname__.removesuffix(".__init__").removesuffix(".__call__")

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known:
                meant = suggest(name, known)
                hint = f"the argument is {meant!r}" if meant else f"its arguments are {', '.join(known)}"
                raise TypeError(f"{title}() has no argument {name!r}: {hint}")
        return function(*args, **kwargs)

    return checked
