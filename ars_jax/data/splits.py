"""Which cases train and which are kept to judge the network."""

from pathlib import Path
from typing import Any

import numpy as np

from ars_jax.data.layouts import Case, Dataset
from ars_jax.errors import UserError
from ars_jax.files import read_json


def split_cases(
    dataset: Dataset, *, split: Path | None, validation_fraction: float, seed: int
) -> tuple[tuple[Case, ...], tuple[Case, ...]]:
    """Divides the labelled cases into training and validation.

    Args:
        dataset: the data set; its cases without a label are left out.
        split: a JSON file {"train": [names], "validation": [names]}, relative to the data set's folder. Cases in no
            list are left out.
        validation_fraction: without a file, the part kept for validation, above 0 and below 1; at least one case.
        seed: without a file, decides who is kept.

    Returns:
        Training cases and validation cases, in the file's order or sorted by name.

    Raises:
        UserError: unknown or unlabelled names, a name given twice, or no case in one of the two.
    """
    cases = {case.name: case for case in dataset.cases if case.labelled}
    if split is not None:
        path = dataset.root / split
        train, validation = _read_split(path, {case.name for case in dataset.cases})
        if unlabelled := [name for name in (*train, *validation) if name not in cases]:
            found, fix = f"cases without a label: {', '.join(unlabelled)}", "add their labels or take them off the list"
            raise UserError(path, found=found, wanted="labelled cases", fix=fix)
        for key, names in (("train", train), ("validation", validation)):
            if not names:
                raise UserError(f"{path}: {key}", found="no labelled case", wanted="at least one", fix="name some")
    else:
        if len(cases) < 2:
            wanted = "at least 2: one for training, one for validation"
            raise UserError(dataset.root, found=f"{len(cases)} labelled cases", wanted=wanted, fix="add cases")
        if not 0 < validation_fraction < 1:
            thing, wanted = "validation_fraction", "above 0 and below 1"
            raise UserError(thing, found=validation_fraction, wanted=wanted, fix="choose for example 0.2")
        order = np.random.default_rng(seed).permutation(sorted(cases)).tolist()
        kept = min(max(1, round(validation_fraction * len(cases))), len(cases) - 1)
        validation, train = sorted(order[:kept]), sorted(order[kept:])
    return tuple(cases[name] for name in train), tuple(cases[name] for name in validation)


def _read_split(path: Path, known: set[str]) -> tuple[list[str], list[str]]:
    content = read_json(path)
    keys = ("train", "validation")
    if not isinstance(content, dict) or set(content) != set(keys) or not all(map(_is_names, content.values())):
        raise UserError(
            path, found="another form", wanted='{"train": [names], "validation": [names]}', fix="write it so"
        )
    seen: set[str] = set()
    for name in (name for key in keys for name in content[key]):
        if name not in known:
            raise UserError(path, found=f"case {name}", wanted="names of cases", fix="check the spelling")
        if name in seen:
            raise UserError(path, found=f"case {name} twice", wanted="each case once", fix="take one out")
        seen.add(name)
    return content["train"], content["validation"]


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)
