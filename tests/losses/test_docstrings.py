"""Every example of a docstring runs as it stands, and every public loss has one."""

import doctest
import importlib
import importlib.util
import inspect
from types import ModuleType
from typing import Any

import pytest

from ars_jax import losses
from tests.losses.cases import public_losses

MODULES = (
    "losses._equations",
    "losses._functions",
    "losses._objective",
    "losses._regions",
    "losses._statistics",
    "losses._unlabelled",
    "losses.presets",
    "gradients.crosscheck",
    "gradients.maps",
    "gradients.pytorch",
)
SECTIONS = ("Args:", "Returns:", "Examples:", "References:")


def examples(module: ModuleType) -> list[doctest.DocTest]:
    return [test for test in doctest.DocTestFinder().find(module) if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_show(name: str) -> None:
    if name == "gradients.pytorch" and importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed")
    module = importlib.import_module(f"ars_jax.{name}")
    runner = doctest.DocTestRunner()
    for test in examples(module):
        runner.run(test)
    assert runner.failures == 0


@pytest.mark.parametrize("name", sorted(public_losses(losses)))
def test_a_loss_has_the_sections_of_its_docstring_in_their_order(name: str) -> None:
    text = inspect.getdoc(getattr(losses, name)) or ""
    places = [text.find(f"\n{section}\n") for section in SECTIONS]
    assert -1 not in places and places == sorted(places)
    assert len(text.splitlines()[0]) <= 120
    module: Any = importlib.import_module("ars_jax.losses._functions")
    assert f"ars_jax.losses._functions.{name}" in {test.name for test in examples(module)}
