"""The public face: every parameter is in one list, every loss in every table, every name resolves."""

import dataclasses
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import ars_jax
from ars_jax import losses
from ars_jax.gradients import closed_form, pytorch
from ars_jax.gradients.maps import region_maps
from ars_jax.losses import presets
from ars_jax.losses._evaluate import EQUATIONS
from ars_jax.losses._objective import REGIONAL_TERMS, VOLUME_TERMS
from tests.losses.cases import SPACE, WHOLE, public_losses, random_case, statistics

NAMES = sorted(public_losses(losses))
ARRAYS = {"logits", "labels", "where"}
FIELDS = {field.name: field for field in dataclasses.fields(losses.Objective)}
FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(losses, name) for name in (*NAMES, "overlap_statistics", "reduce_loss", "pyramid_loss")},
    **{f"presets.{name}": getattr(presets, name) for name in presets.NAMES},
    "region_maps": region_maps,
}
OWN_DEFAULTS: dict[tuple[str, str], Any] = {
    **{(name, "regions"): None for name in WHOLE},
    **{(name, "reduction"): "sum" for name in (*WHOLE, *REGIONAL_TERMS)},
    ("cross_entropy", "reduction"): "mean",
    ("adaptive_region_specific", "adaptive_gradient"): "through",
}
"""Where a function follows the paper and an objective does not."""


def parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Those of a function without its arrays."""
    return {name: each for name, each in inspect.signature(function).parameters.items() if name not in ARRAYS}


@pytest.mark.parametrize("name", [*NAMES, *(f"presets.{name}" for name in presets.NAMES)])
def test_logits_and_labels_come_first_and_all_else_is_an_explicit_keyword(name: str) -> None:
    given = inspect.signature(FUNCTIONS[name]).parameters
    assert list(given)[:2] == ["logits", "labels"]
    kinds = [each.kind for each in given.values()]
    assert kinds[:2] == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 2
    assert set(kinds[2:]) == {inspect.Parameter.KEYWORD_ONLY}


def test_every_parameter_of_a_loss_is_a_field_of_the_objective_and_the_other_way_round() -> None:
    by_loss = {name: set(parameters(getattr(losses, name))) for name in NAMES}
    assert {name: rest for name, own in by_loss.items() if (rest := own - FIELDS.keys())} == {}
    assert set().union(*by_loss.values()) == FIELDS.keys() - {"terms", "depth_shards", "cross_entropy_class_weights"}


def test_defaults_are_the_objectives_but_for_those_of_the_paper() -> None:
    objective = losses.Objective()
    found = {
        (name, key): each.default
        for name in NAMES
        for key, each in parameters(getattr(losses, name)).items()
        if each.default != getattr(objective, key)
    }
    assert found == OWN_DEFAULTS


def test_every_term_is_in_every_table() -> None:
    tables = {
        "EQUATIONS": set(EQUATIONS),
        "public functions": set(NAMES),
        "closed forms": set(closed_form.NAMES),
        "PyTorch": set(pytorch.WRITTEN_OUT),
    }
    terms = {*VOLUME_TERMS, *REGIONAL_TERMS}
    missing = {table: sorted(terms - names) for table, names in tables.items() if terms - names}
    assert not missing, f"terms of an objective that have no entry: {missing}"
    assert set(EQUATIONS) == terms
    assert set(NAMES) == {*terms, "baseline"}


@pytest.mark.parametrize("name", EQUATIONS)
def test_what_an_equation_takes_is_a_field_of_the_objective(name: str) -> None:
    (_, *rest) = inspect.signature(EQUATIONS[name]).parameters.values()
    assert {each.kind for each in rest} == {inspect.Parameter.KEYWORD_ONLY}
    assert {each.name for each in rest} <= FIELDS.keys()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_help_lists_every_argument_once(name: str) -> None:
    text = inspect.getdoc(FUNCTIONS[name]) or ""
    section = re.search(r"\nArgs:\n(.*?)\n\nReturns:", text, re.DOTALL)
    assert section is not None
    listed = re.findall(r"^    (\w+): \S", section[1], re.MULTILINE)
    assert listed == list(inspect.signature(FUNCTIONS[name]).parameters)


def test_the_names_of_the_package_are_public_and_resolve() -> None:
    names = dir(losses)
    assert len(names) == len(set(names))
    assert not [name for name in names if name.startswith("_")]
    assert [name for name in names if getattr(losses, name, None) is None] == []
    assert {"dice", "Objective", "RegionSize", "presets", "merge_unlabelled"} <= set(names)
    with pytest.raises(AttributeError, match="weighted_sum"):
        _ = losses.weighted_sum  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("regions", [None, 2, losses.RegionSize(3)], ids=str)
def test_statistics_are_shown_in_a_line_without_their_values(regions: Any) -> None:
    logits, labels = random_case(0, SPACE)
    shown = repr(statistics(logits, labels, regions=regions))
    assert shown.startswith("OverlapStatistics(") and "\n" not in shown and len(shown) < 250
    assert "array" not in shown and "Array" not in shown
    assert shown == repr(statistics(2 * logits, np.zeros_like(labels), regions=regions))
    assert "classes=3" in shown


def in_a_fresh_process(code: str) -> str:
    """What a program prints."""
    run = subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, capture_output=True, text=True)
    return run.stdout.strip()


@pytest.mark.parametrize(
    ("code", "heavy"),
    [
        ("import ars_jax; ars_jax.losses.dice", ["SimpleITK", "flax", "orbax", "grain", "jsonargparse"]),
        ("from ars_jax.losses import Objective, RegionSize; Objective(regions=RegionSize(8))", ["jax"]),
        ("import ars_jax; ars_jax.losses.Objective().weights; dir(ars_jax)", ["jax"]),
    ],
    ids=["a loss", "an objective", "an objective by the package"],
)
def test_the_losses_load_nothing_that_they_do_not_need(code: str, heavy: list[str]) -> None:
    loaded = in_a_fresh_process(f"import sys; {code}; print(*(name for name in {heavy} if name in sys.modules))")
    assert loaded == ""


def test_the_package_has_a_version_and_names_what_it_has() -> None:
    assert re.fullmatch(r"\d+(\.\d+)+([a-z]+\d+|\.dev\d+|\+\w+)*", ars_jax.__version__)
    for name in dir(ars_jax):
        assert getattr(ars_jax, name) is not None
    with pytest.raises(AttributeError, match="loses"):
        _ = ars_jax.loses
