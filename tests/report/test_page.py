import importlib.util
import json
import math
import re
import statistics
from dataclasses import replace
from pathlib import Path

import pytest

from ars_jax.data.volumes import Volume, read_volume, write_volume
from ars_jax.errors import UserError
from ars_jax.metrics.table import Row, read_json
from ars_jax.report import write_report
from ars_jax.report.tables import TIMES
from tests.report.fake_runs import ORGANS, make_run, make_unevaluated, write_rows
from tests.report.pages import Page, numbers, read_page, svg_texts

CASES = ("north", "south", "west", "east")
NASTY = '<script>alert("$x_1$")</script> & co'


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("runs")
    return make_run(root / "baseline", cases=CASES), make_run(root / "ars", error_mm=0.9, cases=CASES)


@pytest.fixture(scope="module")
def both(runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Page:
    return read_page(write_report(runs, tmp_path_factory.mktemp("both")))


@pytest.fixture(scope="module")
def one(runs: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Page:
    return read_page(write_report(runs[:1], tmp_path_factory.mktemp("one")))


def rows_of(run: Path) -> list[Row]:
    return read_json(run / "evaluation" / "table.json")


def values(run: Path, organ: str, measure: str) -> list[float]:
    return [value for row in rows_of(run) if row.organ == organ and (value := getattr(row, measure)) is not None]


def test_one_run_shows_every_measure_of_every_organ(runs: tuple[Path, Path], one: Page) -> None:
    for organ in ORGANS:
        cells = one.tables["organs"][organ]
        for cell, measure in zip(
            cells, ("dsc", "recall", "precision", "surface_dice", "hd95_mm", "asd_mm"), strict=False
        ):
            mean, sd = numbers(cell.text)
            found = values(runs[0], organ, measure)
            assert mean == pytest.approx(statistics.mean(found), abs=0.0051)
            assert sd == pytest.approx(statistics.stdev(found), abs=0.0051)
        assert [cell.text for cell in cells[6:]] == ["4", "0", "0"]


def test_several_runs_have_a_column_each(runs: tuple[Path, Path], both: Page) -> None:
    for measure in ("dsc", "recall", "precision", "surface_dice", "hd95_mm", "asd_mm"):
        assert both.heads[f"organs-{measure}"][1:3] == ["baseline", "ars"]
        for organ in ORGANS:
            for run, cell in zip(runs, both.tables[f"organs-{measure}"][organ], strict=False):
                assert numbers(cell.text)[0] == pytest.approx(statistics.mean(values(run, organ, measure)), abs=0.0051)


def test_best_is_bold(both: Page) -> None:
    highest = dict.fromkeys(("organs-dsc", "organs-recall", "organs-surface_dice"), max)
    for key, better in (highest | {"organs-hd95_mm": min, "organs-asd_mm": min}).items():
        for cells in both.tables[key].values():
            means = [numbers(cell.text)[0] for cell in cells[:2]]
            bold = [numbers(cell.bold)[0] for cell in cells[:2] if cell.bold]
            assert set(bold) == {better(means)}


def test_every_case_is_listed_from_the_worst_on(runs: tuple[Path, Path], both: Page) -> None:
    for index, run in enumerate(runs):
        table = both.tables[f"cases-{index}-dsc"]
        means = [float(cells[-1].text) for cells in table.values()]
        assert set(table) == set(CASES)
        assert means == sorted(means)
        for row in rows_of(run):
            column = both.heads[f"cases-{index}-dsc"].index(row.organ)
            assert row.dsc is not None
            assert float(table[row.case][column - 1].text) == pytest.approx(row.dsc, abs=0.00051)


def test_heading_names_what_was_recorded(both: Page) -> None:
    facts = {name: [cell.text for cell in cells] for name, cells in both.tables["facts"].items()}
    assert facts["Data set"] == ["heads, 3 organs"] * 2
    assert facts["Objective"] == [
        "baseline",
        f"baseline+0.5 adaptive_region_specific, regions {TIMES.join(['16'] * 3)}, reduction class_mean, "
        "min penalty 0.3, penalty range 0.4",
    ]
    network = facts["Network"][0].replace("\N{NARROW NO-BREAK SPACE}", "")
    assert network == "variant figure, base channels 8, kernel size 5, 1234567 parameters"
    assert facts["Optimisation"] == ["Adam, learning rate 0.001, batch size 2, seed 7"] * 2
    assert facts["Device"] == ["2 x cpu"] * 2
    assert facts["Training"][0].endswith("12 min 25 s".replace(" ", "\N{NO-BREAK SPACE}"))
    assert facts["Software"] == ["jax 0.10.2, numpy 2.4.6"] * 2
    assert "paper-boundary" in both.text


def test_worst_median_and_best_of_the_first_run_are_shown(runs: tuple[Path, Path], both: Page) -> None:
    means = {case: statistics.mean(r.dsc or 0 for r in rows_of(runs[0]) if r.case == case) for case in CASES}
    ranked = sorted(CASES, key=lambda case: means[case])
    shown = [heading for heading in both.headings if " case: " in heading]
    for heading, title, case in zip(shown, ("Worst", "Median", "Best"), (ranked[0], ranked[1], ranked[3]), strict=True):
        assert heading.startswith(f"{title} case: {case} ")
        assert numbers(heading)[0] == pytest.approx(means[case], abs=0.00051)


def test_page_needs_nothing_from_outside(both: Page, runs: tuple[Path, Path], tmp_path: Path) -> None:
    text = write_report(runs, tmp_path).read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    assert not {"script", "link", "iframe", "object"} & set(both.elements)
    assert len(both.pictures) == 5
    for picture in svg_texts(both):
        linked = re.findall(r"""(?:href|src)=["']([^"']*)""", picture)
        assert all(link.startswith(("#", "data:image/png;base64,")) for link in linked)


def test_same_runs_give_the_same_bytes(runs: tuple[Path, Path], tmp_path: Path) -> None:
    first, second = (write_report(runs, tmp_path / name) for name in ("a", "b"))
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["index.html"]


def test_names_are_text_and_never_markup(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run <b>$y^2$", cases=(NASTY,), epochs=5)
    page = read_page(write_report([run], tmp_path / "out"))
    assert "script" not in page.elements
    assert NASTY in page.tables["cases-0-dsc"]
    assert page.headings[0] == "run <b>$y^2$"
    assert any("run &lt;b&gt;$y^2$" in picture for picture in svg_texts(page))


def test_run_without_evaluation_has_curves_and_names_the_command(tmp_path: Path, runs: tuple[Path, Path]) -> None:
    run = make_unevaluated(tmp_path / "young")
    alone = read_page(write_report([run], tmp_path / "alone"))
    assert f"ars-jax evaluate {run}" in alone.text
    assert len(alone.pictures) == 2
    assert set(alone.tables) == {"facts"}
    beside = read_page(write_report([run, runs[1]], tmp_path / "beside"))
    assert beside.tables["organs-dsc"][ORGANS[0]][0].text == "\N{EM DASH}"
    assert len(beside.pictures) == 5


def test_run_that_was_interrupted_before_its_first_step_says_so(tmp_path: Path) -> None:
    run = make_unevaluated(tmp_path / "newborn", epochs=0)
    page = read_page(write_report([run], tmp_path / "out"))
    assert "No training step" in page.text
    assert "No validation" in page.text
    assert not page.pictures


def test_misses_are_shown_and_win_no_distance(tmp_path: Path) -> None:
    first, second = (make_run(tmp_path / name, cases=("a", "b"), epochs=5) for name in ("careless", "careful"))
    rows = rows_of(second)
    lost = [
        replace(row, status="miss", dsc=0.0, recall=0.0, precision=None, hd95_mm=None, asd_mm=None)
        if (row.case, row.organ) == ("b", ORGANS[0])
        else replace(row, hd95_mm=0.01)
        for row in rows
    ]
    write_rows(first, lost)
    table = read_page(write_report([first, second], tmp_path / "out")).tables
    careless, careful = table["organs-hd95_mm"][ORGANS[0]]
    assert "1 miss" in careless.text
    assert numbers(careless.text)[0] < numbers(careful.text)[0]
    assert careful.bold and not careless.bold
    assert table["organs-hd95_mm"][ORGANS[1]][0].bold == "0.01"
    assert "miss" in table["cases-0-dsc"]["b"][0].text


def test_distances_of_different_conventions_are_not_compared(tmp_path: Path) -> None:
    first, second = (make_run(tmp_path / name, cases=("a",), epochs=5) for name in ("ours", "theirs"))
    write_rows(second, [replace(row, convention="monai") for row in rows_of(second)])
    page = read_page(write_report([first, second], tmp_path / "out"))
    assert "monai and paper-boundary" in page.text
    assert not any(cell.bold for cells in page.tables["organs-hd95_mm"].values() for cell in cells)


def test_case_whose_image_has_gone_is_named_and_the_rest_stays(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", cases=("a",), epochs=5)
    (run / "evaluation" / "0-image.nii.gz").unlink()
    page = read_page(write_report([run], tmp_path / "out"))
    assert "This case cannot be shown" in page.text
    assert "0-image.nii.gz" in page.text
    assert len(page.pictures) == 2
    assert page.tables["organs"]


def test_labels_on_another_grid_than_the_image_are_not_drawn(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", cases=("a",), epochs=5)
    entries = json.loads((run / "evaluation" / "cases.json").read_text(encoding="utf-8"))
    other = make_run(tmp_path / "other", cases=("a",), epochs=5) / "evaluation" / "flipped.nii.gz"
    volume = read_volume(entries[0]["prediction"])
    write_volume(other, Volume(volume.array, replace(volume.geometry, origin=(0.0, 9.0, 0.0))))
    entries[0]["prediction"] = str(other)
    (run / "evaluation" / "cases.json").write_text(json.dumps(entries))
    assert "origin" in read_page(write_report([run], tmp_path / "out")).text


@pytest.mark.parametrize("library", ["matplotlib", "jinja2"])
def test_missing_library_is_one_line(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == library else real(name))
    with pytest.raises(UserError, match=rf"no {library}.*pip install matplotlib jinja2"):
        write_report([tmp_path], tmp_path / "out")


def test_place_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    run = make_unevaluated(tmp_path / "run", epochs=0)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="can be written"):
        write_report([run], tmp_path / "file")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "in the way"


def test_numbers_that_are_not_finite_leave_a_gap(tmp_path: Path) -> None:
    run = make_unevaluated(tmp_path / "run", epochs=5)
    with (run / "metrics.jsonl").open("a") as file:
        file.write(
            json.dumps({"kind": "train", "step": 60, "epoch": 6, "loss": math.nan, "parts": {"dice": None}}) + "\n"
        )
        file.write(json.dumps({"kind": "validation", "step": 60, "epoch": 6, "dsc": {}, "mean_dsc": math.nan}) + "\n")
    page = read_page(write_report([run], tmp_path / "out"))
    assert len(page.pictures) == 2
    assert "nan" not in page.tables["facts"]["Best validation"][0].text


def test_page_says_what_was_scored(both: Page) -> None:
    for cell in both.tables["facts"]["Scored on"]:
        assert re.fullmatch(r"\d+ unseen cases of unseen set, best checkpoint", cell.text)
