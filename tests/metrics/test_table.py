"""Rows, their averages and their files: nothing is dropped silently and every table names its convention."""

import csv
import io
import json
import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from rich.console import Console

from ars_jax.errors import UserError
from ars_jax.metrics.screen import render
from ars_jax.metrics.surface import CONVENTIONS, Convention, surface_metrics
from ars_jax.metrics.table import Row, evaluate_case, read_json, summarise, write_csv, write_json

ORGANS = ("Cord", "Parotid_L", "Chiasm", "Lens", "Lip")
SPACING = (2.0, 1.0, 1.5)


def label_maps():
    """Cord and left parotid overlap, the chiasm is missed, the lens is a false alarm, the lip is in neither."""
    prediction, reference = np.zeros((8, 9, 10), np.uint8), np.zeros((8, 9, 10), np.uint8)
    prediction[1:5, 2:4, 2:4], reference[1:6, 2:4, 2:4] = 1, 1
    prediction[3:6, 5:8, 5:8], reference[3:6, 5:8, 4:7] = 2, 2
    reference[7, 0:2, 0] = 3
    prediction[0, 8, 8:10] = 4
    return prediction, reference


def rows(convention: Convention = "paper-boundary"):
    prediction, reference = label_maps()
    first = evaluate_case("a", prediction, reference, SPACING, ORGANS, convention=convention)
    return first + evaluate_case("b", reference, reference, SPACING, ORGANS, convention=convention)


def by_organ(table):
    return {row.organ: row for row in table}


def test_status_of_every_case():
    found = by_organ(rows()[:5])
    assert [found[organ].status for organ in ORGANS] == ["ok", "ok", "miss", "false alarm", "absent"]


def test_values_are_those_of_the_single_organ_on_the_whole_grid():
    prediction, reference = label_maps()
    for k, row in enumerate(rows()[:2], start=1):
        alone = surface_metrics(prediction == k, reference == k, SPACING)
        assert alone is not None
        assert (row.hd95_mm, row.asd_mm) == pytest.approx((alone.hd95_mm, alone.asd_mm))
    cord = rows()[0]
    assert (cord.dsc, cord.recall, cord.precision) == pytest.approx((32 / 36, 0.8, 1.0))
    assert (cord.volume_prediction_ml, cord.volume_reference_ml) == pytest.approx((0.048, 0.06))


def test_miss_is_zero_overlap_and_no_distance():
    miss = by_organ(rows()[:5])["Chiasm"]
    assert (miss.dsc, miss.recall, miss.surface_dice) == (0.0, 0.0, 0.0)
    assert (miss.precision, miss.hd95_mm, miss.asd_mm) == (None, None, None)
    assert miss.volume_prediction_ml == 0 and miss.volume_reference_ml == pytest.approx(0.006)


def test_unlabelled_organ_is_not_judged():
    prediction, reference = label_maps()
    flags = np.array([True, True, True, False, False, True])
    found = by_organ(evaluate_case("a", prediction, reference, SPACING, ORGANS, labelled=flags))
    assert found["Lens"].status == found["Chiasm"].status == "unlabelled"
    assert found["Lens"].dsc is None and found["Lens"].volume_reference_ml is None
    assert found["Cord"].status == "ok"
    line = next(line for line in summarise(list(found.values())).organs if line.organ == "Lens")
    assert (line.cases, line.misses, line.false_alarms, line.dsc.mean) == (0, 0, 0, None)


def test_empty_maps_give_absent_rows():
    empty = np.zeros((3, 4, 5), np.uint8)
    assert {row.status for row in evaluate_case("a", empty, empty, SPACING, ORGANS)} == {"absent"}


def test_summary_counts_misses_in_the_overlap_and_beside_the_distance():
    lines = {line.organ: line for line in summarise(rows()).organs}
    chiasm = lines["Chiasm"]
    assert (chiasm.cases, chiasm.misses) == (2, 1)
    assert chiasm.dsc.mean == pytest.approx(0.5) and chiasm.dsc.sd == pytest.approx(math.sqrt(0.5))
    assert chiasm.dsc.n == chiasm.recall.n == 2
    assert (chiasm.precision.n, chiasm.hd95_mm.n, chiasm.hd95_mm.mean, chiasm.hd95_mm.sd) == (1, 1, 0.0, None)
    assert (lines["Lens"].cases, lines["Lens"].false_alarms, lines["Lens"].dsc.mean) == (1, 1, 0.0)
    assert (lines["Lip"].cases, lines["Lip"].dsc.mean) == (0, None)


def test_overall_weighs_every_organ_the_same():
    some = [row for row in rows() if row.organ != "Lip"]
    some = [row for row in some if not (row.organ == "Cord" and row.case == "b")]
    summary = summarise(some)
    means = [line.dsc.mean for line in summary.organs if line.dsc.mean is not None]
    assert len(means) == 4
    assert summary.overall.dsc.mean == pytest.approx(sum(means) / 4)
    assert summary.overall.dsc.mean != pytest.approx(np.mean([row.dsc for row in some if row.dsc is not None]))
    assert (summary.overall.misses, summary.overall.false_alarms, summary.overall.cases) == (1, 1, 6)


def test_organ_without_a_value_is_left_out_of_that_mean():
    summary = summarise(rows())
    assert (summary.overall.dsc.n, summary.overall.hd95_mm.n) == (4, 3)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_empty_masks_are_told_alike_in_every_convention(convention):
    """The table of `ars_jax.metrics`: an overlap of 0 for what was missed or invented, never a distance."""
    found = by_organ(rows(convention)[:5])
    miss, alarm, absent = (found[organ] for organ in ("Chiasm", "Lens", "Lip"))
    assert [(row.dsc, row.surface_dice) for row in (miss, alarm, absent)] == [(0, 0), (0, 0), (None, None)]
    assert [(row.recall, row.precision) for row in (miss, alarm, absent)] == [(0, None), (None, 0), (None, None)]
    assert {(row.hd95_mm, row.asd_mm) for row in (miss, alarm, absent)} == {(None, None)}


def test_misses_and_false_alarms_count_in_the_mean_surface_dice():
    found = by_organ(rows()[:5])
    assert {row.tolerance_mm for row in found.values()} == {2.0}
    lines = {line.organ: line for line in summarise(rows()).organs}
    assert (lines["Chiasm"].surface_dice.mean, lines["Chiasm"].surface_dice.n) == (0.5, 2)


def test_table_written_before_surface_dice_still_reads(tmp_path):
    path = tmp_path / "table.json"
    new = ("surface_dice", "tolerance_mm")
    old = [{key: value for key, value in asdict(row).items() if key not in new} for row in rows()]
    path.write_text(json.dumps({"rows": old}))
    found = read_json(path)
    assert [replace(row, surface_dice=None, tolerance_mm=None) for row in rows()] == found
    summary = summarise(found)
    assert (summary.tolerance_mm, summary.overall.surface_dice.mean, summary.overall.surface_dice.n) == (None, None, 0)
    assert summary.overall.dsc == summarise(rows()).overall.dsc
    with pytest.raises(UserError, match=r"tolerances 2.0 mm, none"):
        summarise(rows() + found)


def test_volume_difference_is_signed_and_only_where_both_masks_exist():
    found = by_organ(rows()[:5])
    assert [found[organ].volume_difference_percent for organ in ORGANS] == [pytest.approx(-20), 0, None, None, None]
    summary = summarise(rows())
    lines = {line.organ: line.volume_difference_percent for line in summary.organs}
    assert (lines["Cord"].mean, lines["Cord"].sd) == pytest.approx((-10, math.sqrt(200)))
    assert (lines["Chiasm"].mean, lines["Chiasm"].n, lines["Lens"].n, lines["Lip"].n) == (0, 1, 0, 0)
    assert summary.overall.volume_difference_percent.mean == pytest.approx(-10 / 3)
    larger = replace(rows()[0], volume_prediction_ml=0.09)
    assert larger.volume_difference_percent == pytest.approx(50)


@pytest.mark.parametrize("tolerance", [-1.0, math.nan, math.inf])
def test_tolerance_that_is_no_distance_is_named(tolerance):
    empty = np.zeros((3, 4, 5), np.uint8)
    with pytest.raises(UserError, match="tolerance_mm"):
        evaluate_case("a", empty, empty, SPACING, ORGANS, tolerance_mm=tolerance)


def test_mixed_conventions_and_no_rows_are_refused():
    with pytest.raises(UserError, match="monai"):
        summarise(rows() + rows("monai"))
    with pytest.raises(UserError, match="no row"):
        summarise([])


def test_json_is_strict_and_reads_back(tmp_path):
    path = tmp_path / "deep" / "table.json"
    write_json(path, rows())

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    content = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert content["convention"] == "paper-boundary"
    assert content["rows"][2]["hd95_mm"] is None
    assert content["summary"]["overall"]["dsc"]["mean"] == summarise(rows()).overall.dsc.mean
    assert content["summary"]["organs"][0]["volume_difference_percent"]["mean"] == pytest.approx(-10)
    assert content["units"]["volume_difference_percent"] == "%"
    assert read_json(path) == rows()
    assert [p.name for p in path.parent.iterdir()] == ["table.json"]


def test_a_number_that_json_cannot_hold_leaves_the_old_file(tmp_path):
    path = tmp_path / "table.json"
    write_json(path, rows())
    before = path.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(path, [replace(rows()[0], dsc=math.nan)])
    assert path.read_text(encoding="utf-8") == before
    assert [p.name for p in tmp_path.iterdir()] == ["table.json"]


def test_csv_holds_every_row_and_the_convention(tmp_path):
    path = tmp_path / "table.csv"
    write_csv(path, rows("medpy"))
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert len(found) == len(rows())
    assert {line["convention"] for line in found} == {"medpy"}
    assert found[2]["status"] == "miss" and found[2]["hd95_mm"] == ""
    assert {key: float(found[0][key]) for key in ("dsc", "asd_mm")} == pytest.approx(
        {key: asdict(rows("medpy")[0])[key] for key in ("dsc", "asd_mm")}
    )
    assert [p.name for p in tmp_path.iterdir()] == ["table.csv"]


@pytest.mark.parametrize(
    "text",
    [None, "{", "[]", '{"rows": [{"case": "a"}]}', '{"rows": 3}'],
    ids=["missing", "not json", "a list", "short row", "no rows"],
)
def test_file_that_is_no_table_is_named(tmp_path, text):
    path = tmp_path / "table.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=r"table\.json"):
        read_json(path)


@pytest.mark.parametrize(("key", "value"), [("status", "fine"), ("convention", "mine")])
def test_unknown_words_in_a_table_are_named(tmp_path, key, value):
    path = tmp_path / "table.json"
    path.write_text(json.dumps({"rows": [asdict(rows()[0]) | {key: value}]}))
    with pytest.raises(UserError, match=value):
        read_json(path)


@pytest.mark.parametrize("width", [80, 140])
def test_screen_table_names_convention_units_and_misses(width):
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(render(summarise(rows("medpy")), "2 cases"))
    text = console.export_text()
    words = text.split()
    assert "convention medpy, surface Dice at 2 mm" in " ".join(words)
    for wanted in ("HD95", "ASD", "mm", "misses", "alarms", "Chiasm", "Parotid_L", "0.944", "±0.079", "-10.0", "±14.1"):
        assert wanted in words, wanted
    assert "1 / 0" in text and "0 / 1" in text
    assert "…" not in text


def test_label_maps_that_cannot_be_compared_are_named():
    prediction, reference = label_maps()
    with pytest.raises(UserError, match=r"case7: prediction.*shape"):
        evaluate_case("case7", prediction[:-1], reference, SPACING, ORGANS)
    with pytest.raises(UserError, match=r"case7: reference.*label 9"):
        evaluate_case("case7", prediction, np.where(reference == 1, np.uint8(9), reference), SPACING, ORGANS)
    with pytest.raises(UserError, match="labelled"):
        evaluate_case("case7", prediction, reference, SPACING, ORGANS, labelled=[True])
    with pytest.raises(UserError, match="convention"):
        evaluate_case("case7", prediction, reference, SPACING, ORGANS, convention="mine")  # pyright: ignore[reportArgumentType]


def test_rows_are_values():
    assert isinstance(rows()[0], Row)
    assert rows() == rows()
