"""Which cases train, which choose the network, and which are kept to judge it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ars_jax.data.cases import Case, Dataset
from ars_jax.errors import UserError
from ars_jax.files import read_json

ROLES = ("train", "validation", "test")


class CaseSplit(NamedTuple):
    """Disjoint groups of cases.

    Attributes:
        training: what the network learns from.
        validation: what the best checkpoint is chosen by.
        test: what neither of the two has seen; empty where nothing was kept.
    """

    training: tuple[Case, ...]
    validation: tuple[Case, ...]
    test: tuple[Case, ...] = ()


def split_cases(
    dataset: Dataset,
    *,
    split: Path | None = None,
    sizes: tuple[int, int, int] | None = None,
    folds: int | None = None,
    fold: int = 0,
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> CaseSplit:
    """Divides the labelled cases by a file, by sizes, by folds or by a fraction: the first of these that is given.

    Args:
        dataset: the data set; its cases without a label are left out.
        split: a JSON file {"train": [names], "validation": [names]} and maybe "test", relative to the data set's
            folder. Cases in no list are left out.
        sizes: how many cases to draw for training, validation and test. The test cases of a seed stay the same when
            only the other two numbers change. Cases beyond the sum are left out.
        folds: the shuffled cases are cut into this many parts, whose sizes differ by at most one.
        fold: the part, from 0, that validates; the other parts train.
        validation_fraction: the part kept for validation, above 0 and below 1; at least one case.
        seed: decides who is drawn.

    Returns:
        The groups, each in the file's order or sorted by name.

    Raises:
        UserError: unknown or unlabelled names, a name given twice, no case for training or validation, or fewer cases
            than are asked for.
    """
    cases = {case.name: case for case in dataset.cases if case.labelled}
    if split is not None:
        parts = _read_split(dataset.root / split, dataset)
    else:
        if len(cases) < 2:
            wanted = "at least 2: one for training, one for validation"
            raise UserError(dataset.root, found=f"{len(cases)} labelled cases", wanted=wanted, fix="add cases")
        order = np.random.default_rng(seed).permutation(sorted(cases)).tolist()
        if sizes is not None:
            parts = _drawn(dataset.root, order, sizes)
        elif folds is not None:
            parts = _folded(dataset.root, order, folds, fold)
        else:
            parts = _divided(order, validation_fraction)
        parts = [sorted(part) for part in parts]
    return CaseSplit(*(tuple(cases[name] for name in part) for part in parts))


def _drawn(root: Path, order: list[str], sizes: tuple[int, int, int]) -> list[list[str]]:
    if sum(sizes) > len(order):
        found, wanted = f"{len(order)} labelled cases", f"{' + '.join(map(str, sizes))} = {sum(sizes)}"
        raise UserError(root, found=found, wanted=wanted, fix="lower data.split_sizes, or add cases")
    training, validation, test = sizes
    rest = order[test:]
    return [rest[validation : validation + training], rest[:validation], order[:test]]


def _folded(root: Path, order: list[str], folds: int, fold: int) -> list[list[str]]:
    if folds > len(order):
        found, wanted = f"{len(order)} labelled cases", f"at least one for each of {folds} folds"
        raise UserError(root, found=found, wanted=wanted, fix="lower data.folds, or add cases")
    parts = [part.tolist() for part in np.array_split(order, folds)]
    validation = parts.pop(fold)
    return [[name for part in parts for name in part], validation]


def _divided(order: list[str], fraction: float) -> list[list[str]]:
    if not 0 < fraction < 1:
        wanted = "above 0 and below 1"
        raise UserError("validation_fraction", found=fraction, wanted=wanted, fix="choose for example 0.2")
    kept = min(max(1, round(fraction * len(order))), len(order) - 1)
    return [order[kept:], order[:kept]]


def _read_split(path: Path, dataset: Dataset) -> list[list[str]]:
    """Reads a split file, whose names have to be those of labelled cases."""
    content = read_json(path)
    if not _is_split(content):
        wanted = '{"train": [names], "validation": [names]}, and maybe "test"'
        raise UserError(path, found="another form", wanted=wanted, fix="write it so")
    parts = [content[role] for role in ROLES if role in content]
    _check_names(path, [name for part in parts for name in part], dataset.cases)
    for role, names in content.items():
        if not names:
            raise UserError(f"{path}: {role}", found="no labelled case", wanted="at least one", fix="name some")
    return parts


def _check_names(path: Path, names: Sequence[str], cases: Sequence[Case]) -> None:
    labelled = {case.name: case.labelled for case in cases}
    for place, name in enumerate(names):
        if name not in labelled:
            raise UserError(path, found=f"case {name}", wanted="names of cases", fix="check the spelling")
        if name in names[:place]:
            raise UserError(path, found=f"case {name} twice", wanted="each case once", fix="take one out")
    if bare := [name for name in names if not labelled[name]]:
        found, fix = f"cases without a label: {', '.join(bare)}", "add their labels or take them off the list"
        raise UserError(path, found=found, wanted="labelled cases", fix=fix)


def _is_split(content: Any) -> bool:
    if not isinstance(content, dict) or not set(ROLES[:2]) <= set(content) <= set(ROLES):
        return False
    parts = content.values()
    return all(isinstance(part, list) and all(isinstance(name, str) for name in part) for part in parts)
