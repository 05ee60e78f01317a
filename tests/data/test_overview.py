"""The summary of a data set: what it counts, what it names, and that it fits a page and a JSON file."""

import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from ars_jax.data.cases import Case, Dataset
from ars_jax.data.check import Examination, examine_dataset
from ars_jax.data.overview import Range, overview, render, write_examination
from tests.data.small_sets import LABELS, folder
from tests.data.test_compare import ORGANS, survey


def seven_cases() -> Examination:
    """Like cases, but the second has a small chin, the third no stem and the fourth its glands exchanged."""
    surveys = [survey(number) for number in range(7)]
    organs = [dict(one.organs) for one in surveys]
    organs[1]["Chin"] = replace(organs[1]["Chin"], volume_ml=2.0)
    del organs[2]["Stem"]
    organs[3]["Gland_L"], organs[3]["Gland_R"] = organs[3]["Gland_R"], organs[3]["Gland_L"]
    cases = tuple(Case(one.case, Path(one.case), Path("label")) for one in surveys)
    dataset = Dataset(Path("set"), "folders", dict(zip(ORGANS, range(1, 6), strict=True)), cases)
    return Examination(
        dataset, tuple(replace(one, organs=drawn) for one, drawn in zip(surveys, organs, strict=True)), ()
    )


def test_organs_are_counted_and_odd_cases_are_named():
    summary = overview(seven_cases())
    organs = {organ.organ: organ for organ in summary.organs}
    assert (summary.cases, summary.labelled) == (7, 7)
    assert (organs["Stem"].cases, organs["Stem"].missing) == (6, ("case_2",))
    assert organs["Chin"].outliers.keys() == {"case_1"}
    assert organs["Chin"].volume_ml is not None
    assert organs["Chin"].volume_ml.smallest == 2.0
    assert organs["Cord"].other_side is None
    for side, other in (("Gland_L", "Gland_R"), ("Gland_R", "Gland_L")):
        assert organs[side].other_side == other
        assert (organs[side].swapped, organs[side].compared) == (("case_3",), 7)
    assert summary.measures["spacing x [mm]"] == Range(1.5, 1.5, 1.5)


def test_volumes_without_a_true_size_are_counted_but_not_compared():
    given = seven_cases()
    organs = {**given.cases[1].organs, "Chin": replace(given.cases[1].organs["Chin"], placed=False)}
    cases = [replace(one, organs=organs) if one.case == "case_1" else one for one in given.cases]
    chin = next(organ for organ in overview(replace(given, cases=tuple(cases))).organs if organ.organ == "Chin")
    assert chin.cases == 7
    assert chin.outliers == {}
    assert chin.volume_ml is not None
    assert chin.volume_ml.smallest > 10


def test_an_organ_that_is_said_to_be_undrawn_is_not_missing():
    given = seven_cases()
    cases = [replace(case, unlabelled=("Stem",)) if case.name == "case_2" else case for case in given.dataset.cases]
    summary = overview(replace(given, dataset=replace(given.dataset, cases=tuple(cases))))
    assert summary.organs[0].missing == ()


@pytest.mark.parametrize("width", [80, 100])
def test_the_tables_fit_the_page_and_hold_the_numbers(width: int):
    console = Console(width=width, record=True, markup=False, highlight=False, file=io.StringIO())
    console.print(render(overview(seven_cases())))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    (chin,) = (line.split() for line in lines if line.strip().startswith("Chin"))
    assert chin[1:4] == ["7", "0", "2"]
    assert "case_1" in chin
    assert sum("6 of 7" in line for line in lines) == 2


def test_everything_is_written_also_of_a_set_with_faults(tmp_path: Path):
    examination = examine_dataset(folder(tmp_path / "set"))
    write_examination(tmp_path / "all.json", examination)
    content = json.loads((tmp_path / "all.json").read_text(encoding="utf-8"))
    assert content["labels"] == LABELS
    assert [case["case"] for case in content["cases"]] == ["bare", "sound", "turned", "wrong"]
    assert [fault["kind"] for fault in content["faults"]] == [fault.kind for fault in examination.faults]
    assert content["cases"][1]["organs"]["Heart"]["voxels"] == 12
    assert content["summary"]["organs"][0]["cases"] == 2
