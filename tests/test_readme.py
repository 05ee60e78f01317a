"""What a newcomer copies from the README runs as it stands."""

import re
from pathlib import Path
from typing import Any

import jax
import pytest

README = Path(__file__).parents[1] / "README.md"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_python_examples_run_one_after_the_other() -> None:
    pytest.importorskip("equinox", reason="an example uses Equinox")
    names: dict[str, Any] = {}
    for block in blocks():
        exec(compile(block, str(README), "exec"), names)
    assert names["log"]["total"] > 0
    assert all(jax.numpy.isfinite(leaf).all() for leaf in jax.tree.leaves(names["gradient"]))
