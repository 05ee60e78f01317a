"""What a newcomer copies from the README runs as it stands."""

import re
import textwrap
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from ars_jax import losses

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def blocks(page: Path = README) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_the_python_examples_run_one_after_the_other() -> None:
    pytest.importorskip("equinox", reason="an example uses Equinox")
    names: dict[str, Any] = {}
    for block in blocks():
        exec(compile(block, str(README), "exec"), names)
    assert names["log"]["total"] > 0
    assert all(jax.numpy.isfinite(leaf).all() for leaf in jax.tree.leaves(names["gradient"]))


def test_the_examples_of_the_losses_page_run_one_after_the_other() -> None:
    pytest.importorskip("torch", reason="an example uses PyTorch")
    names: dict[str, Any] = {}
    for block in blocks(ROOT / "ars_jax" / "losses" / "README.md"):
        exec(compile(block, "losses/README.md", "exec"), names)
    assert names["total"] > 0 and names["value"] > 0
    assert all(row.passed is not False for row in names["rows"])
    assert float(names["tensor"].grad.abs().sum()) > 0
    assert names["maps"].alpha.shape == (1, 2, 2, 2, 3)


def test_the_loss_that_the_page_adds_works_as_written() -> None:
    """The worked example of a new loss: its equation is 1 - intersection over union."""
    page = (ROOT / "ars_jax" / "losses" / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^   ```python\n(.*?)^   ```", page, re.DOTALL | re.MULTILINE)
    names: dict[str, Any] = {}
    header = (
        "import jax\nfrom ars_jax.losses import OverlapStatistics\nfrom ars_jax.losses._documented import documented\n"
    )
    exec(header + textwrap.dedent(block), names)
    labels = np.arange(64).reshape(1, 4, 4, 4) % 2
    statistics = losses.overlap_statistics(np.zeros((1, 4, 4, 4, 2), np.float32), labels).total()
    assert names["iou_loss"](statistics).tolist() == [[pytest.approx(2 / 3), pytest.approx(2 / 3)]]
    assert "smoothing, in voxels" in names["iou_loss"].__doc__


@pytest.mark.parametrize("page", ["README.md", "ars_jax/losses/README.md"])
def test_no_page_has_a_placeholder(page: str) -> None:
    assert not re.findall(r"^\s*[A-Z]{4,}\s*$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
