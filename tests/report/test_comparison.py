"""The tables of an experiment hold what its rows say, and say the same in Markdown, CSV and LaTeX."""

import csv
import json
import re
import shutil
import statistics
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from ars_jax.errors import UserError
from ars_jax.metrics.table import Row
from ars_jax.report.comparison import comparison, write_comparison
from ars_jax.report.results import Results, read_results
from ars_jax.report.seeds import Setting, over_seeds, scores_of
from ars_jax.report.sheets import HIGHER, LOWER, MINUS, NONE, Cell, Sheet, latex
from tests.report.fake_experiments import CASES, FakeArm, make_experiment
from tests.report.fake_runs import ORGANS
from tests.report.made_up_scores import ABSENT, INVENTED, made_up
from tests.report.test_sheets import nasty_sheet

SETTING = Setting("Heads, made up", "e", "heads", "test", "best", "monai", 2.0, 4, (0, 1), None)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return read_results(make_experiment(tmp_path_factory.mktemp("paper") / "e", epochs=5))


@pytest.fixture(scope="module")
def written(results: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tables")
    write_comparison(results, out)
    return out


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def sheets_of(*scores) -> dict[str, Sheet]:
    setting = replace(SETTING, seeds=tuple(sorted({seed for entry in scores for seed in entry.rows})))
    return {sheet.key: sheet for sheet in comparison(scores, setting)}


def change_rows(results: Results, arm: str, seed: int, change: Callable[[Row], Row | None]) -> Results:
    """The same results with other rows in one run."""
    place = next(index for index, entry in enumerate(results.arms) if entry.name == arm)
    trials = list(results.arms[place].trials)
    index = next(index for index, trial in enumerate(trials) if trial.seed == seed)
    evaluation = trials[index].run.evaluation
    assert evaluation is not None
    rows = tuple(row for row in map(change, evaluation.rows) if row is not None)
    trials[index] = replace(trials[index], run=replace(trials[index].run, evaluation=replace(evaluation, rows=rows)))
    arms = list(results.arms)
    arms[place] = replace(arms[place], trials=tuple(trials))
    return replace(results, arms=tuple(arms))


def change_about(results: Results, about: dict[str, str], **fields) -> Results:
    """The same results with the last run of the last arm scored in another way."""
    *others, last = results.arms[-1].trials
    assert last.run.evaluation is not None
    told = {**last.run.evaluation.about, **about}
    trial = replace(last, run=replace(last.run, evaluation=replace(last.run.evaluation, about=told, **fields)))
    return replace(results, arms=(*results.arms[:-1], replace(results.arms[-1], trials=(*others, trial))))


def test_organ_dsc_is_the_mean_and_spread_over_seeds_of_the_mean_over_cases(results: Results, written: Path) -> None:
    table = read_csv(written / "organs.csv")
    assert [line["organ"] for line in table] == [*ORGANS, "mean over organs"]
    for arm in results.arms:
        means = [organ_means(trial.run.folder) for trial in arm.trials]
        for line in table[:-1]:
            check(line, arm.name, [mean[line["organ"]] for mean in means])
        check(table[-1], arm.name, [statistics.mean(mean.values()) for mean in means])


def organ_means(run: Path) -> dict[str, float]:
    rows = json.loads((run / "evaluation" / "table.json").read_text())["rows"]
    return {organ: statistics.mean(row["dsc"] for row in rows if row["organ"] == organ) for organ in ORGANS}


def check(line: dict[str, str], arm: str, values: Sequence[float]) -> None:
    assert float(line[f"{arm} mean"]) == pytest.approx(statistics.mean(values), rel=1e-5)
    assert float(line[f"{arm} sd"]) == pytest.approx(statistics.stdev(values), rel=1e-5)


def test_measures_are_the_mean_over_organs_and_seeds(results: Results, written: Path) -> None:
    for line, arm in zip(read_csv(written / "measures.csv"), results.arms, strict=True):
        assert (line["arm"], line["seeds"], line["references"]) == (arm.name, "3", str(3 * len(CASES) * len(ORGANS)))
        for key in ("dsc", "recall", "precision", "surface_dice", "hd95_mm", "asd_mm"):
            seeds = []
            for trial in arm.trials:
                rows = json.loads((trial.run.folder / "evaluation" / "table.json").read_text())["rows"]
                by_organ = [[row[key] for row in rows if row["organ"] == organ] for organ in ORGANS]
                seeds.append(statistics.mean(map(statistics.mean, by_organ)))
            check({"x mean": line[f"{key} mean"], "x sd": line[f"{key} sd"]}, "x", seeds)


@pytest.mark.parametrize("key", ["organs", "measures", "pairs", "tests"])
def test_markdown_and_latex_show_the_rounded_numbers_of_the_csv_file(written: Path, key: str) -> None:
    shown = {ending: (written / f"{key}.{ending}").read_text(encoding="utf-8") for ending in ("md", "tex")}
    for line in read_csv(written / f"{key}.csv"):
        for name, value in line.items():
            if name.endswith(("mean", "sd", "median")) and value:
                digits = 2 if "_mm" in name else 1 if "percent" in name else 3
                for text in shown.values():
                    assert f"{abs(float(value)):.{digits}f}" in text, name


@pytest.mark.parametrize("key", ["organs", "measures", "pairs", "tests"])
def test_every_file_says_what_was_scored_and_none_says_nan(written: Path, key: str) -> None:
    for line in read_csv(written / f"{key}.csv"):
        told = [line[fact] for fact in ("data", "scored", "checkpoint", "convention", "tolerance_mm")]
        assert told == ["unseen set", "unseen", "best", "paper-boundary", "2"]
    for ending in ("md", "tex", "csv"):
        text = (written / f"{key}.{ending}").read_text(encoding="utf-8")
        assert "unseen set" in text
        assert "somewhere" not in text, "a path of some machine does not belong in a paper"
        assert not re.search(r"\b([Nn]a[Nn]|inf|None)\b", text)
        if ending != "csv":
            assert "4 unseen cases; 3 seeds (0, 1, 2); best checkpoint" in text
            assert "convention paper-boundary; surface Dice at 2 mm." in text
            assert "Made-up heads" in text
    assert f"\\label{{tab:e-{key}}}" in (written / f"{key}.tex").read_text(encoding="utf-8")


def test_best_of_each_row_is_bold() -> None:
    scores = [made_up(name, {0: {"Liver": [liver], "Spleen": [0.7]}}) for name, liver in (("A", 0.5), ("B", 0.6))]
    rows = sheets_of(*scores)["organs"].parts[0].rows
    assert [[cell.bold for cell in row[1:3]] for row in rows] == [[False, True], [True, True], [False, True]]


def test_misses_are_weighed_by_how_much_was_scored() -> None:
    """One miss in two cases and three in six are alike; none at all is better, and only then the distance counts."""
    half = made_up("half", {0: {"Liver": [0.0, 0.8]}})
    alike = made_up("alike", {seed: {"Liver": [0.0, 0.9]} for seed in range(3)})
    none = made_up("none", {0: {"Liver": [0.5, 0.5]}})
    hd95 = 2 + 4
    assert [row[hd95].bold for row in sheets_of(half, alike)["measures"].parts[0].rows] == [False, True]
    rows = sheets_of(half, alike, none)["measures"].parts[0].rows
    assert [row[hd95].bold for row in rows] == [False, False, True]
    assert [row[-2].text for row in rows] == ["1 of 2", "3 of 6", "0 of 2"]


def test_false_alarms_are_counted_where_the_reference_has_no_organ() -> None:
    some = made_up("some", {0: {"Liver": [0.5, 0.5, 0.5], "Spleen": [0.5, INVENTED, ABSENT]}})
    sheets = sheets_of(some)
    assert sheets["measures"].parts[0].rows[0][-1].text == "1 of 2"
    assert [row[-1].values[0] for row in sheets["organs"].parts[0].rows] == [3, 1, None]
    none = sheets_of(made_up("none", {0: {"Liver": [0.5]}}))
    assert none["measures"].parts[0].rows[0][-1] == Cell(NONE, (0, 0))


def test_each_measure_says_which_direction_is_better(written: Path) -> None:
    head = (written / "measures.md").read_text(encoding="utf-8").split("\n| Arm")[1].split("\n")[0]
    for title in ("DSC", "Recall", "Precision", "Surface Dice"):
        assert f"| {title} {HIGHER} |" in head
    for title in ("HD95 mm", "ASD mm", "Misses", "False alarms"):
        assert f"| {title} {LOWER} |" in head


def test_folds_of_a_seed_are_pooled(tmp_path: Path) -> None:
    results = read_results(make_experiment(tmp_path / "e", seeds=(0, 1), folds=2, epochs=5))
    for arm, scores in zip(results.arms, scores_of(results), strict=True):
        for seed, rows in scores.rows.items():
            assert sorted(row.case for row in rows) == sorted(case for case in CASES for _ in ORGANS)
            trials = [trial for trial in arm.trials if trial.seed == seed]
            parts = [organ_means(trial.run.folder)["Parotid_L"] for trial in trials]
            line = over_seeds(replace(scores, rows={seed: rows}))[0]["Parotid_L"]
            assert line.dsc.mean == pytest.approx(statistics.mean(parts))
    out = tmp_path / "tables"
    write_comparison(results, out)
    text = (out / "tests.md").read_text(encoding="utf-8")
    assert "4 unseen cases; 2 folds, pooled; 2 seeds" in text
    assert "Folds are pooled" in text


def test_a_seed_without_all_folds_is_left_out_and_said(tmp_path: Path) -> None:
    results = read_results(make_experiment(tmp_path / "e", seeds=(0, 1), folds=2, epochs=5))
    last = results.arms[-1]
    results = replace(results, arms=(*results.arms[:-1], replace(last, trials=last.trials[:-1])))
    write_comparison(results, tmp_path / "tables")
    text = (tmp_path / "tables" / "organs.md").read_text(encoding="utf-8")
    assert "| B+ARS (1 of 2 seeds) |" in text
    assert "Missing: B+ARS for seed 1 (fold 1)." in text
    pair = [line for line in read_csv(tmp_path / "tables" / "tests.csv") if line["comparison"] == "B+ARS minus B"]
    assert {line["seeds"] for line in pair} == {"1"}
    results = replace(results, arms=tuple(replace(arm, trials=arm.trials[:3]) for arm in results.arms))
    write_comparison(results, tmp_path / "tables")
    text = (tmp_path / "tables" / "organs.md").read_text(encoding="utf-8")
    assert "1 seed (0)" in text
    assert "Missing: all arms for seed 1 (fold 1)." in text, "a seed that no arm has whole is said, too"


def test_an_arm_without_any_run_has_dashes_and_no_test(tmp_path: Path) -> None:
    unfinished = [("B+RS", seed) for seed in (0, 1)]
    results = read_results(make_experiment(tmp_path / "e", seeds=(0, 1), unfinished=unfinished, epochs=5))
    write_comparison(results, tmp_path / "tables")
    text = (tmp_path / "tables" / "measures.md").read_text(encoding="utf-8")
    assert f"| B+RS | 0 {f'| {NONE} ' * 9}|" in text
    assert "Missing: B+RS for seed 0, 1." in text
    comparisons = {line["comparison"] for line in read_csv(tmp_path / "tables" / "tests.csv")}
    assert comparisons == {"B+ARS minus B"}


def test_one_seed_has_no_spread_and_says_so(tmp_path: Path) -> None:
    results = read_results(make_experiment(tmp_path / "e", seeds=(7,), epochs=5))
    write_comparison(results, tmp_path / "tables")
    summary = (tmp_path / "tables" / "summary.md").read_text(encoding="utf-8")
    assert "±" not in summary
    assert "1 seed (7)" in summary
    assert "nothing here speaks of training again" in summary


def test_one_arm_alone_is_not_tested(tmp_path: Path) -> None:
    results = read_results(make_experiment(tmp_path / "e", [FakeArm("B", "baseline", 2.0)], seeds=(0,), epochs=5))
    names = {path.name for path in write_comparison(results, tmp_path / "tables")}
    assert names == {"summary.md", *(f"{key}.{end}" for key in ("organs", "measures") for end in ("md", "csv", "tex"))}


def test_tables_that_no_longer_apply_go(results: Results, tmp_path: Path) -> None:
    write_comparison(results, tmp_path)
    (tmp_path / "notes.md").touch()
    written = write_comparison(replace(results, arms=results.arms[:1]), tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in written} | {"notes.md"}
    assert not (tmp_path / "pairs.md").exists()


def test_folds_that_nobody_has_finished_are_said(tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "e", seeds=(0, 1), folds=2, epochs=5)
    for table in folder.glob("runs/*-fold1/evaluation/table.json"):
        table.unlink()
    with pytest.raises(UserError, match="no seed whose runs are all scored"):
        write_comparison(read_results(folder), tmp_path / "tables")
    assert not (tmp_path / "tables").exists()


def test_a_run_that_diverged_is_not_called_missing(results: Results, tmp_path: Path) -> None:
    last = results.arms[-1]
    lost = replace(last, trials=last.trials[:2], diverged=((2, None),))
    write_comparison(replace(results, arms=(*results.arms[:-1], lost)), tmp_path)
    text = (tmp_path / "organs.md").read_text(encoding="utf-8")
    assert "Diverged, hence without a result: B+ARS for seed 2." in text
    assert "Missing" not in text


def test_a_single_planned_fold_is_one_fold(tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "e", [FakeArm("B", "baseline", 2.0)], seeds=(0,), folds=1, epochs=5)
    write_comparison(read_results(folder), tmp_path / "tables")
    assert "; 1 fold; 1 seed (0);" in (tmp_path / "tables" / "organs.md").read_text(encoding="utf-8")


def test_the_reference_arm_is_named(written: Path) -> None:
    for key in ("pairs", "tests"):
        text = (written / f"{key}.md").read_text(encoding="utf-8")
        assert "The reference arm is B, the baseline; adaptive arms are compared with regional ones, too." in text
    others = [made_up(name, {0: {"Liver": [0.5]}}, objective) for name, objective in (("D", "dice"), ("C", "ce"))]
    assert "The reference arm is D, the first arm, since none is the baseline." in sheets_of(*others)["pairs"].note


def test_the_interval_over_seeds_stands_beside_the_differences(results: Results, written: Path) -> None:
    for line in read_csv(written / "pairs.csv"):
        low, high = float(line["interval_low"]), float(line["interval_high"])
        assert low < float(line["difference mean"]) < high
        assert line["differs"] == ("yes" if low * high > 0 else "unclear")
    one = [made_up(name, {0: {"Liver": [0.5]}}) for name in "AB"]
    assert sheets_of(*one)["pairs"].parts[0].rows[0][2] == Cell(NONE, (None, None, None))


def test_too_large_and_too_small_volumes_can_be_told_apart() -> None:
    """Over organs and then seeds; a missed organ and one that nobody drew are left out."""

    def sized(seed: int, volumes: dict[str, list[tuple[float, float, str]]]):
        return {
            seed: tuple(
                replace(row, organ=organ, status=status, volume_prediction_ml=ours, volume_reference_ml=theirs)
                for organ, pairs in volumes.items()
                for (ours, theirs, status), row in zip(pairs, template, strict=False)
            )
        }

    base = made_up("A", {0: {"Liver": [0.5, 0.5, 0.5]}})
    template = base.rows[0]
    first = sized(0, {"Liver": [(15, 10, "ok"), (9, 10, "ok"), (0, 10, "miss")], "Spleen": [(5, 10, "ok")]})
    second = sized(1, {"Liver": [(10, 10, "ok")], "Spleen": [(3, 0, "false alarm"), (0, 0, "absent")]})
    _, overall = over_seeds(replace(base, rows=first | second))
    assert overall is not None
    found = overall.volume_difference_percent
    assert found.mean == pytest.approx(((20 - 50) / 2 + 0) / 2)
    assert found.sd == pytest.approx(statistics.stdev([-15, 0]))
    row = sheets_of(replace(base, rows=first | second))["measures"].parts[0].rows[0]
    assert row[-3].text == f"{MINUS}7.5" and row[-3].spread == "10.6"


def test_pairs_are_the_last_rows_of_the_tests(written: Path) -> None:
    pairs, tests = read_csv(written / "pairs.csv"), read_csv(written / "tests.csv")
    assert [line["comparison"] for line in pairs] == ["B+RS minus B", "B+ARS minus B", "B+ARS minus B+RS"]
    assert pairs == [{k: v for k, v in line.items() if k != "organ"} for line in tests if "mean" in line["organ"]]


def test_tests_that_cannot_be_significant_say_so(written: Path) -> None:
    text = (written / "tests.md").read_text(encoding="utf-8")
    assert "no corrected p can fall below 0.5" in text, "four cases and four tests: 4 x 2 / 2^4"
    many = [
        made_up(name, {0: {"Liver": [0.5 + 0.01 * k * sign for k in range(9)]}}) for name, sign in (("A", 1), ("B", 0))
    ]
    assert "can fall below" not in sheets_of(*many)["tests"].note


def test_p_below_the_level_is_bold() -> None:
    better = made_up("A", {0: {"Liver": [0.5 + 0.01 * k for k in range(1, 10)], "Spleen": [0.4, 0.6] * 4 + [0.5]}})
    other = made_up("B", {0: {"Liver": [0.5] * 9, "Spleen": [0.5] * 9}})
    rows = sheets_of(other, better)["tests"].parts[0].rows
    assert [row[-1].bold for row in rows] == [True, False, False]
    assert rows[1][4].text == "9, 1 equal"


def test_p_that_is_below_the_level_only_before_the_correction_is_not_bold() -> None:
    spleen = [0.49, 0.48, *(0.5 + 0.01 * k for k in range(3, 10))]
    one = made_up("A", {0: {"Liver": [0.2, 0.8] * 4 + [0.5], "Spleen": spleen}})
    other = made_up("B", {0: {"Liver": [0.5] * 9, "Spleen": [0.5] * 9}})
    name, *_, p, corrected = sheets_of(other, one)["tests"].parts[0].rows[1]
    assert (name.text, p.text, corrected.text, corrected.bold) == ("Spleen", "0.020", "0.059", False)
    assert corrected.values == (pytest.approx(3 * 10 / 512),)


def test_validation_cases_that_chose_the_checkpoint_are_called_so(results: Results, tmp_path: Path) -> None:
    for cases, checkpoint, said in (
        ("validation", "best", True),
        ("validation", "newest", False),
        ("test", "best", False),
    ):
        arms = tuple(
            replace(arm, trials=tuple(_told(trial, cases, checkpoint) for trial in arm.trials)) for arm in results.arms
        )
        write_comparison(replace(results, arms=arms), tmp_path)
        text = (tmp_path / "organs.md").read_text(encoding="utf-8")
        assert f"4 {cases} cases" in text
        assert ("chosen by the DSC of these very cases" in text) == said


def _told(trial, cases: str, checkpoint: str):
    about = {**trial.run.evaluation.about, "cases": cases, "checkpoint": checkpoint}
    return replace(trial, run=replace(trial.run, evaluation=replace(trial.run.evaluation, about=about)))


def test_unlike_cases_are_said(results: Results, tmp_path: Path) -> None:
    changed = change_rows(results, "B+RS", 1, lambda row: None if row.case == "north" else row)
    write_comparison(changed, tmp_path)
    assert "Not all runs scored the same cases" in (tmp_path / "organs.md").read_text(encoding="utf-8")
    lines = [line for line in read_csv(tmp_path / "tests.csv") if line["comparison"] == "B+RS minus B"]
    assert {line["cases"] for line in lines} == {"3"}


@pytest.mark.parametrize(
    ("about", "fields", "what"),
    [
        ({"cases": "test"}, {}, "cases"),
        ({"checkpoint": "newest"}, {}, "checkpoint"),
        ({"data": "/elsewhere/other"}, {}, "data"),
        ({"data": "/elsewhere/unseen set"}, {}, "data"),
        ({}, {"convention": "monai"}, "convention"),
    ],
)
def test_runs_that_were_scored_differently_are_refused(
    results: Results, tmp_path: Path, about: dict[str, str], fields: dict[str, str], what: str
) -> None:
    with pytest.raises(
        UserError, match=f"evaluations: {what}: found .*arm0-seed0.* in runs/arm2-seed2; wanted .* alike"
    ):
        write_comparison(change_about(results, about, **fields), tmp_path / "tables")
    assert not (tmp_path / "tables").exists()


def test_unlike_tolerances_are_refused(results: Results, tmp_path: Path) -> None:
    changed = change_rows(results, "B", 0, lambda row: replace(row, tolerance_mm=3.0))
    with pytest.raises(UserError, match="tolerance_mm: found"):
        write_comparison(changed, tmp_path / "tables")


def test_an_experiment_without_a_scored_run_is_refused(tmp_path: Path) -> None:
    folder = make_experiment(tmp_path / "e", [FakeArm("B", "baseline", 2.0)], seeds=(0,), unfinished=[("B", 0)])
    with pytest.raises(UserError, match="no seed whose runs are all scored"):
        write_comparison(read_results(folder), tmp_path / "tables")
    assert not (tmp_path / "tables").exists()


def test_a_place_that_cannot_be_written_is_one_line(results: Results, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match="wanted a place that can be written"):
        write_comparison(results, tmp_path / "file")


def test_the_summary_has_every_table_and_shows_the_figures_that_are_there(results: Results, tmp_path: Path) -> None:
    figures = tmp_path / "figures"
    figures.mkdir()
    for name in (
        "overlays_a b.png",
        "validation_curves_2.png",
        "validation_curves.png",
        "notes.png",
        "range_curve.pdf",
    ):
        (figures / name).touch()
    write_comparison(results, tmp_path / "tables")
    summary = (tmp_path / "tables" / "summary.md").read_text(encoding="utf-8")
    for key in ("organs", "measures", "pairs", "tests"):
        tables = re.findall(r"(?:^\|.*\n)+", (tmp_path / "tables" / f"{key}.md").read_text("utf-8"), re.MULTILINE)
        assert len(tables) == (3 if key == "tests" else 1)
        assert all(table in summary for table in tables)
        assert f"]({key}.tex)" in summary
    links = re.findall(r"!\[([^]]*)\]\(([^)]*)\)", summary)
    assert links == [
        ("Validation DSC by epoch", "../figures/validation_curves.png"),
        ("Validation DSC by epoch 2", "../figures/validation_curves_2.png"),
        ("Overlays of a b", "../figures/overlays_a%20b.png"),
    ]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex here")
def test_latex_compiles(written: Path, tmp_path: Path) -> None:
    (tmp_path / "nasty.tex").write_text(latex(nasty_sheet()), encoding="utf-8")
    for key in ("organs", "measures", "pairs", "tests"):
        shutil.copy(written / f"{key}.tex", tmp_path)
    inputs = "".join(f"\\input{{{key}}}" for key in ("organs", "measures", "tests", "nasty"))
    packages = "\\documentclass{article}\\usepackage{booktabs,graphicx}"
    (tmp_path / "paper.tex").write_text(f"{packages}\\begin{{document}}{inputs}\\end{{document}}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Overfull" not in done.stdout
