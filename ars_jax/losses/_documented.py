"""Docstrings whose Args section comes from the one list of the parameters, that of `Objective`."""

import inspect
import re
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from ars_jax.losses._objective import Objective

P = ParamSpec("P")
R = TypeVar("R")

ARRAYS = {
    "logits": "`[b, *space, c]` with spatial axes (z, y, x) or (y, x), any float type.",
    "labels": "`[b, *space]` integers in [0, c), or `[b, *space, c]` one-hot or soft.",
    "where": "`[b, *space]`, false leaves a voxel out of every sum, whatever its logits are.",
    "statistics": "sums per region and class, fields `[b, *grid, c]`.",
    "squared_pred": "whether the denominator sums p^2 and g^2.",
    "batch": "whether the batch is summed up as one sample before the loss.",
    "smooth_nr": "added to the numerator, in voxels.",
    "smooth_dr": "added to the denominator, in voxels.",
    "do_bg": "whether class 0 has a loss; the cross-entropy has all classes.",
    "values": "a loss per region and class, `[b, *grid, c]`, or `[b, *grid, 1]` of all classes together.",
}
"""Arguments that are no parameters, and those of presets."""


def documented(function: Callable[P, R]) -> Callable[P, R]:
    """Adds the parameters to the Args section of a docstring, which may have entries of its own."""
    if function.__doc__ is None:  # python -OO
        return function
    text = inspect.cleandoc(function.__doc__)
    entries = {**_PARAMETERS, **ARRAYS, **_entries(text)}
    listed = [f"    {name}: {entries[name]}" for name in inspect.signature(function).parameters if name in entries]
    parts = re.split(r"\n\n(?=Args:|Returns:)", text)
    parts = [part for part in parts if not part.startswith("Args:")]
    parts.insert(1, "\n".join(["Args:", *listed]))
    function.__doc__ = "\n\n".join(parts)
    return function


def _entries(text: str) -> dict[str, str]:
    """Returns the text of each argument of a docstring."""
    section = re.search(r"\nArgs:\n(.*?)(?=\n\S|\Z)", text, re.DOTALL)
    return dict(re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", section[1] if section else "", re.MULTILINE))


_PARAMETERS = _entries(inspect.cleandoc(Objective.__doc__ or ""))
