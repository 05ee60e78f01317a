"""The gradient check as a command: defaults that fit the case, a table that is read, faults that are named."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from ars_jax.cli import main
from ars_jax.errors import UserError
from ars_jax.files import check_place
from ars_jax.gradients import crosscheck, pytorch
from ars_jax.gradients.crosscheck import Comparison
from ars_jax.laboratory import gradcheck
from ars_jax.laboratory.cases import Case
from ars_jax.laboratory.gradcheck import (
    check_gradients,
    describe,
    fitting_regions,
    remarks,
    render,
    write_comparisons,
)
from tests.losses.cases import SPACE, random_case

pytestmark = pytest.mark.usefixtures("quick")
LOGITS, LABELS = random_case(0, SPACE)
CASE = Case(LOGITS, LABELS, ("A", "B"), source="these arrays")
NAMES = ("dice", "adaptive_region_specific", "monai_dice")
ROW = Comparison("dice", "closed_form", "float64", 2.5, 2.5, 0.0, 1.0, 3e-15, 1e-9, True)


@pytest.fixture(scope="module")
def rows() -> list[Comparison]:
    return check_gradients(CASE, names=NAMES, regions=2)


def lines(rows: list[Comparison], width: int = 80) -> list[str]:
    console = Console(width=width, record=True, file=None, quiet=False, force_terminal=False)
    with console.capture() as captured:
        console.print(render(rows, describe(CASE, (2, 2, 2), "float64")))
    return [line.rstrip() for line in captured.get().splitlines()]


def test_the_table_fits_a_screen_and_names_every_comparison(rows: list[Comparison]) -> None:
    shown = lines(rows)
    assert shown[0].strip() == "these arrays: logits 2x8x6x4x3, regions 2x2x2, float64"
    (dice,) = (line for line in shown if line.startswith("dice"))
    assert dice.split()[1:4] == [f"{rows[0].value:.6g}", "closed", "form"]
    text = "\n".join(shown)
    for part in ("(through)", "(stop)", "monai_dice", "closed form 1e-09", "differences 1e-07"):
        assert part in text
    assert len([line for line in shown if line.endswith(" ok")]) == sum(row.passed is True for row in rows)


def test_a_row_beyond_its_tolerance_and_one_without_numbers_are_seen() -> None:
    beyond = dataclasses.replace(ROW, gradient_error=0.5, passed=False)
    broken = dataclasses.replace(
        ROW, loss="tversky", value=None, cosine=None, gradient_error=None, passed=False, reason="not finite"
    )
    missing = dataclasses.replace(ROW, loss="monai_dice", against="pytorch", passed=None, reason="not installed")
    rows = [beyond, broken, missing]
    shown = lines(rows)
    assert [line.split()[-1] for line in shown if line.startswith(("dice", "tversky"))] == ["beyond", "beyond"]
    assert "5.0e-01" in "".join(shown)
    assert not any(line.startswith("monai_dice") for line in shown)
    assert list(remarks(rows)) == [
        "failed with closed form (not finite): tversky",
        "not compared with PyTorch (not installed): monai_dice",
        "2 comparisons, 2 beyond tolerance",
    ]
    assert list(remarks([ROW])) == ["1 comparisons, all within tolerance"]


def test_json_holds_every_row(rows: list[Comparison], tmp_path: Path) -> None:
    write_comparisons(tmp_path / "rows.json", rows, {"case": CASE.source})
    content = json.loads((tmp_path / "rows.json").read_text())
    assert content["about"] == {"case": "these arrays"}
    assert [Comparison(**row) for row in content["comparisons"]] == rows


def test_the_paper_s_grid_is_cut_to_the_volume() -> None:
    assert fitting_regions(CASE, None) == SPACE
    assert fitting_regions(dataclasses.replace(CASE, logits=np.zeros((1, 48, 20, 9, 2))), None) == (16, 16, 9)
    assert fitting_regions(CASE, 3) == (3, 3, 3)
    assert fitting_regions(CASE, [4, 2, 1]) == (4, 2, 1)


def test_every_loss_is_checked_once_unless_some_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(crosscheck, "_subject", lambda label, *_: asked.append(label))
    monkeypatch.setattr(crosscheck, "_compared", lambda *_, **__: ROW)
    check_gradients(CASE)
    assert len(asked) == len(set(asked)) == len(crosscheck.LOSSES + crosscheck.PRESETS) + 1
    asked.clear()
    check_gradients(CASE, names=["dice", "tversky", "dice"])
    assert asked == ["dice", "tversky"]


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "a misspelt loss": ({"names": ["dice", "tverski"]}, "loss 'tverski': found no such loss; .*did you mean tversky"),
    "another word": ({"names": ["xyzw"]}, "loss 'xyzw': found no such loss; .*choose some of these"),
    "no loss": ({"names": []}, "losses: found nothing"),
    "too many regions": ({"regions": 7}, "regions: found 7; wanted regions that divide 8x6x4 voxels"),
    "too few axes": ({"regions": [2, 2]}, r"regions: found \[2, 2\]"),
    "no regions": ({"regions": 0}, "regions: found 0"),
    "a tolerance below 0": ({"tolerance": -1.0}, r"tolerance: found -1\.0"),
    "no tolerance": ({"tolerance": float("nan")}, "tolerance: found nan"),
    "an unknown option": (
        {"names": ["dice"], "options": {"gamma": 2}},
        r"options: found {'gamma': 2}: options \(=gamma\) must be of absent_classes, ",
    ),
    "an option's value": (
        {"names": ["dice"], "options": {"absent_classes": "x"}},
        "options: found .*absent_classes .*must be one of",
    ),
    "a seed below 0": ({"seed": -1}, "seed: found -1"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_named(fault: str) -> None:
    options, pattern = FAULTS[fault]
    with pytest.raises(UserError, match=pattern):
        check_gradients(CASE, **options)


def test_nothing_to_compare_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where neither closed form nor PyTorch is there and the prediction is certain, silence would look like success."""
    monkeypatch.setattr(pytorch, "available", lambda: False)
    certain = dataclasses.replace(CASE, logits=(LABELS[..., None] == np.arange(3)).astype(np.float32) * 1e4)
    with pytest.raises(UserError, match=r"these arrays: found .*presets have none; .*the loss is too flat"):
        check_gradients(certain, names=["monai_dice"])


def test_the_command_hands_on_options_and_tries_the_file_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays, out = tmp_path / "case.npz", tmp_path / "rows.json"
    np.savez(arrays, logits=LOGITS, labels=LABELS)
    words = ["gradcheck", "--arrays", str(arrays), "--losses=dice", "--json"]
    options = {"squared": False, "reduction": "class_mean"}
    assert main([*words, str(out), "--options", json.dumps(options)]) == 0
    content = json.loads(out.read_text())
    assert content["about"]["options"] == options
    (expected, *_) = check_gradients(CASE, names=["dice"], options=options)
    assert content["comparisons"][0]["value"] == pytest.approx(expected.value)
    monkeypatch.setattr(
        gradcheck, "check_gradients", lambda *_, **__: pytest.fail("checked before the place was tried")
    )
    for place in (tmp_path, arrays / "rows.json"):
        assert main([*words, str(place)]) == 2
        assert "found" in capsys.readouterr().err


def test_trying_a_place_leaves_what_is_there(tmp_path: Path) -> None:
    kept = tmp_path / "rows.json"
    kept.write_text("old")
    check_place(kept)
    check_place(tmp_path / "new.json")
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]
    assert kept.read_text() == "old"
