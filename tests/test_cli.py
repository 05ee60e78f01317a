"""The command line: instant help, a whole pass from training to report, and every fault in one line."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

import ars_jax
from ars_jax import report
from ars_jax.cli import main
from ars_jax.data.geometry import mismatches
from ars_jax.data.volumes import Volume, read_geometry, read_volume, write_volume
from ars_jax.metrics.table import read_json
from tests.data.synthetic import LABELS, grid
from tests.objectives import ARS
from tests.small_runs import SmallRun, files_of, quick_compilation, trained_run, write_data_set

COMMANDS = (
    "demo",
    "phantom",
    "check",
    "plan",
    "train",
    "experiment",
    "predict",
    "evaluate",
    "report",
    "gradcheck",
    "gradients",
)
HELP = """
import sys
from ars_jax.cli import main
for words in ([], ["--help"], *([command, "--help"] for command in {commands})):
    try:
        main(words)
    except SystemExit as end:
        print("status", end.code)
print("loaded", *(name for name in ("jax", "flax", "optax", "orbax", "grain", "matplotlib") if name in sys.modules))
"""


@pytest.fixture(scope="module", autouse=True)
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with quick_compilation(tmp_path_factory.getbasetemp()):
        yield tmp_path_factory.getbasetemp()


@pytest.fixture(scope="module")
def run(base: Path) -> SmallRun:
    """Trained by `ars-jax train`; no test changes its files but by evaluating."""
    return trained_run(base)


def shown(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed, without the screen's line ends."""
    return " ".join(capsys.readouterr().out.split())


def test_help_is_shown_without_loading_what_it_does_not_need() -> None:
    code = HELP.format(commands=COMMANDS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[-1] == "loaded"
    assert [line for line in lines if line.startswith("status")] == ["status 0"] * (2 + len(COMMANDS))
    bare, *rest = done.stdout.split("status 0")
    assert bare.strip() == rest[0].strip()
    for command, text in zip(COMMANDS, rest[1:], strict=False):
        assert command in bare
        assert "usage:" in text
    assert "--loss.adaptive_gradient" in done.stdout
    assert "--experiment.seeds" in done.stdout
    assert "smoothing, in voxels" in done.stdout, "the keys are not explained"


def test_training_tells_device_progress_and_what_comes_next(run: SmallRun) -> None:
    text = " ".join(run.shown.split())
    assert f"{ARS} on 8 x cpu (cpu, float32): 231,215 parameters, canvas 16 x 16 x 16, 9 training and 1" in text
    assert "epoch 2: validation DSC" in text
    assert "epoch 4: validation DSC" in text
    assert "mean over organs" in text
    assert f"run in {run.folder}; next: ars-jax evaluate {run.folder}" in run.shown


def test_a_whole_pass_from_evaluation_to_report(run: SmallRun, tmp_path: Path, capsys) -> None:
    """The run is scored, shown and used on images; the label maps score the same as the run did."""
    assert main(["evaluate", str(run.folder)]) == 0
    text = shown(capsys)
    assert "best checkpoint, 1 validation cases" in text
    assert "misses" in text
    rows = read_json(run.folder / "evaluation" / "table.json")
    assert [row.organ for row in rows] == list(LABELS)
    about = json.loads((run.folder / "evaluation" / "table.json").read_text(encoding="utf-8"))["about"]
    assert about == {"data": str(run.data), "cases": "validation", "checkpoint": "best"}

    assert main(["report", str(run.folder), "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert shown(capsys) == f"report in {tmp_path / 'report' / 'index.html'}"
    for organ in LABELS:
        assert organ in page
    assert rows[0].case in page

    image = run.data / "images" / f"{rows[0].case}.nii.gz"
    assert main(["predict", str(run.folder), str(image), "--out", str(tmp_path / "labels")]) == 0
    assert shown(capsys) == f"1 label maps in {tmp_path / 'labels'}"
    predicted = tmp_path / "labels" / image.name
    assert not mismatches(read_geometry(predicted), read_geometry(image))
    assert json.loads((tmp_path / "labels" / "labels.json").read_text(encoding="utf-8")) == {"Ball_L": 1, "Ball_R": 2}

    references = run.folder / "evaluation" / "references"
    words = ["--predictions", tmp_path / "labels", "--references", references, "--out", tmp_path / "scores"]
    assert main(["evaluate", *map(str, words)]) == 0
    assert read_json(tmp_path / "scores" / "table.json") == rows


def test_a_run_is_scored_on_another_data_set(run: SmallRun, tmp_path: Path, capsys) -> None:
    """The newest checkpoint, by another convention, into a folder of its own; trained cases are left out."""
    words = [
        run.folder,
        "--data",
        run.data,
        "--checkpoint",
        "newest",
        "--convention",
        "monai",
        "--tolerance_mm",
        3.5,
        "--out",
        tmp_path / "out",
    ]
    assert main(["evaluate", *map(str, words)]) == 0
    text = shown(capsys)
    assert "newest checkpoint, 1 unseen cases" in text
    assert "left out 9 cases that the run was trained on" in text
    rows = read_json(tmp_path / "out" / "table.json")
    assert {(row.convention, row.tolerance_mm) for row in rows} == {("monai", 3.5)}
    assert len({row.case for row in rows}) == 1


def test_phantoms_are_without_fault(tmp_path: Path, capsys) -> None:
    assert main(["phantom", "--out", str(tmp_path / "set"), "--cases", "2", "--seed", "5"]) == 0
    assert shown(capsys) == f"wrote {tmp_path / 'set'}"
    assert main(["check", str(tmp_path / "set")]) == 0
    text = shown(capsys)
    assert f"{tmp_path / 'set'} (msd): 2 cases; Brainstem, SpinalCord" in text
    assert text.endswith("0 errors, 0 warnings")


def test_gradients_of_given_arrays_are_checked(tmp_path: Path, capsys) -> None:
    """Status 1 where a tolerance is passed, which is told in table, file and text."""
    arrays, rows = tmp_path / "case.npz", tmp_path / "new" / "rows.json"
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (6, 4))
    np.savez(arrays, logits=rng.normal(size=(6, 4, 3)).astype(np.float32), labels=labels)
    words = ["gradcheck", "--arrays", str(arrays), "--losses", "dice, region_specific", "--regions", "[3,2]"]
    assert main(words) == 0
    text = shown(capsys)
    assert "logits 1x6x4x3, regions 3x2, float64" in text
    assert text.endswith("comparisons, all within tolerance")
    assert main([*words, "--tolerance", "1e-30", "--dtype=float32", "--json", str(rows)]) == 1
    text = shown(capsys)
    assert "beyond tolerance" in text
    assert f"comparisons in {rows}" in text
    content = json.loads(rows.read_text(encoding="utf-8"))
    assert content["about"]["regions"] == [3, 2]
    assert {row["loss"] for row in content["comparisons"]} == {"dice", "region_specific"}
    assert not all(row["passed"] for row in content["comparisons"])


def on_other_grid(path: Path) -> None:
    """Stores a label map with two axes backwards, same voxels at the same points."""
    label = read_volume(path)
    z, y, x = label.geometry.shape
    old = label.geometry
    origin = (old.origin[0], old.origin[1] + (y - 1) * old.spacing[1], old.origin[2] + (x - 1) * old.spacing[2])
    flipped = grid((z, y, x), direction=np.diag([1.0, -1.0, -1.0]))
    geometry = type(old)(old.shape, old.spacing, origin, flipped.direction)
    write_volume(path, Volume(label.array[:, ::-1, ::-1], geometry))


def test_check_and_repair(tmp_path: Path, capsys) -> None:
    """A label stored the other way round is an error; the repaired copy has none and lies where it lay."""
    data = write_data_set(tmp_path / "data", cases=3)
    before = read_volume(data / "labels" / "case_1.nii.gz")
    on_other_grid(data / "labels" / "case_1.nii.gz")
    assert main(["check", str(data)]) == 1
    text = capsys.readouterr().out
    (line,) = (line for line in text.splitlines() if "direction" in line)
    assert line.startswith(f"error: {data / 'labels' / 'case_1.nii.gz'}: direction: found ")
    assert "ars-jax check --repair DIR" in line
    assert main(["check", str(data), "--repair", str(tmp_path / "mended")]) == 0
    assert f"--data.layout folders --data.root {tmp_path / 'mended'}" in capsys.readouterr().out
    assert main(["check", str(tmp_path / "mended"), "--json", str(tmp_path / "measures.json")]) == 0
    text = capsys.readouterr().out
    assert "3 cases; Ball_L, Ball_R; 0 errors" in text
    assert "3 of 3" in text
    assert max(len(line) for line in text.splitlines() if str(tmp_path) not in line) <= 100
    measures = json.loads((tmp_path / "measures.json").read_text(encoding="utf-8"))
    assert measures["faults"] == []
    assert [case["case"] for case in measures["cases"]] == ["case_0", "case_1", "case_2"]
    after = read_volume(tmp_path / "mended" / "labels" / "case_1.nii.gz")
    assert not mismatches(after.geometry, before.geometry)
    np.testing.assert_array_equal(after.array, before.array)


def test_check_fails_where_the_repair_leaves_something_out(tmp_path: Path, capsys) -> None:
    data = write_data_set(tmp_path / "data", cases=2)
    broken_value(data)
    assert main(["check", str(data), "--repair", str(tmp_path / "mended")]) == 1
    text = shown(capsys)
    assert "unknown label value: found label value 77 in 1 voxels" in text
    assert "left out: error:" in text
    assert sorted(path.name for path in (tmp_path / "mended" / "images").iterdir()) == ["case_0.nii.gz"]


def test_names_in_brackets_are_names(run: SmallRun, tmp_path: Path, capsys) -> None:
    """And no markup, which would be left out or fail; paths are not cut at the screen's edge."""
    folder = tmp_path / "a long name of a folder so that it does not fit the width of a screen" / "[red] b[" / "b]"
    shutil.copytree(run.folder, folder / "run", ignore=shutil.ignore_patterns("cache", "evaluation"))
    data = write_data_set(folder / "data", cases=1)
    for part in ("images", "labels"):
        path = data / part / "case_0.nii.gz"
        path.rename(path.with_name("case [bold].nii.gz"))
    image, out = data / "images" / "case [bold].nii.gz", folder / "out"
    for words, wanted in (
        (["check", data], f"{data} (folders): 1 cases"),
        (["phantom", "--out", folder / "set", "--cases", "1"], f"wrote {folder / 'set'}"),
        (["predict", folder / "run", image, "--out", out], f"1 label maps in {out}"),
        (["evaluate", "--predictions", out, "--references", data / "labels", "--out", folder / "scores"], "tables in"),
        (["report", folder / "run", "--out", folder / "page"], f"report in {folder / 'page' / 'index.html'}"),
    ):
        if words[0] == "evaluate":
            (data / "labels" / "labels.json").write_text(json.dumps(LABELS))
        assert main([str(word) for word in words]) == 0
        assert any(line.startswith(wanted) for line in capsys.readouterr().out.splitlines()), wanted


def test_an_interruption_ends_in_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(report, "write_report", interrupted)
    assert main(["report", "run", "--out", str(tmp_path)]) == 130
    assert capsys.readouterr().err == "ars-jax: interrupted\n"


def broken_value(data: Path) -> None:
    path = data / "labels" / "case_1.nii.gz"
    label = read_volume(path)
    label.array[0, 0, 0] = 77
    write_volume(path, label)


def cut_short(data: Path) -> None:
    path = data / "images" / "case_1.nii.gz"
    path.write_bytes(path.read_bytes()[:-50])


FAULTY = {
    "value": broken_value,
    "grid": lambda data: on_other_grid(data / "labels" / "case_1.nii.gz"),
    "cut": cut_short,
    "unnamed": lambda data: (data / "labels.json").unlink(),
    "bare": lambda data: shutil.rmtree(data / "labels"),
}


@pytest.fixture(scope="module")
def places(run: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A folder of faulty data sets, broken runs and other things that commands may be pointed at."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "empty").mkdir()
    (folder / "file").write_text("text")
    for name, change in FAULTY.items():
        change(write_data_set(folder / name, cases=2))
    for name, part in (("no plan", "plan.json"), ("no checkpoint", "checkpoints"), ("no split", "split.json")):
        shutil.copytree(run.folder, folder / name, ignore=shutil.ignore_patterns(part, "cache", "evaluation"))
    shutil.copytree(run.folder, folder / "no yaml", ignore=shutil.ignore_patterns("cache", "evaluation"))
    (folder / "no yaml" / "config.yaml").write_text("data: [")
    shutil.copytree(run.folder, folder / "damaged", ignore=shutil.ignore_patterns("cache", "evaluation"))
    for path in (folder / "damaged" / "checkpoints").rglob("d/*"):
        path.write_bytes(b"")
    image = run.data / "images" / "case_0.nii.gz"
    return {"tmp": folder, "run": run.folder, "data": run.data, "config": run.config, "image": image}


TRAIN = "train|--config|{config}|--run.dir|{tmp}/new|--data.cache|{tmp}/cache"
FAULTS = {
    "no such command": ("trian", "'trian'"),
    "nothing to train on": ("train", "data.root, run.dir: found nothing"),
    "no such configuration": ("train|--config|{tmp}/none.yaml", "{tmp}/none.yaml: found no such file"),
    "text for a configuration": ("train|--config|{tmp}/file", "{tmp}/file: found text"),
    "unknown key": (f"{TRAIN}|--loss.regionz=2", "--loss.regionz: found .*did you mean loss.regions"),
    "wrong type": (f"{TRAIN}|--train.epochs=many", "train.epochs: found many; wanted int"),
    "wrong choice": (f"{TRAIN}|--loss.reduction=max", "loss.reduction: found max; wanted .*'class_mean'"),
    "out of range": (f"{TRAIN}|--train.epochs=0", "train.epochs: found 0; wanted at least 1"),
    "a word too many": (f"{TRAIN}|more", "more: found unrecognized arguments"),
    "no data": (f"{TRAIN}|--data.root|{{tmp}}/none", "{tmp}/none: found no such folder"),
    "an empty folder": (f"{TRAIN}|--data.root|{{tmp}}/empty", "{tmp}/empty: found no known layout"),
    "a file for data": (f"{TRAIN}|--data.root|{{tmp}}/file", "{tmp}/file: found no such folder"),
    "another layout": (f"{TRAIN}|--data.layout=msd", "found something else; wanted msd"),
    "no labels": (f"{TRAIN}|--data.root|{{tmp}}/bare", "{tmp}/bare: found"),
    "labels without names": (f"{TRAIN}|--data.root|{{tmp}}/unnamed", "{tmp}/unnamed: found label maps without organ"),
    "unknown organ": (f"{TRAIN}|--data.labels={{{{X: 1}}}}", "labels: X: found no such organ"),
    "no split": (f"{TRAIN}|--data.split=none.json", "none.json: found no such file"),
    "two ways of splitting": (
        f"{TRAIN}|--data.folds=2|--data.split_sizes=[2,1,1]",
        "data.split, data.split_sizes, data.folds: found (None, (2, 1, 1), 2); wanted at most one",
    ),
    "a fold too many": (f"{TRAIN}|--data.folds=3|--data.fold=3", "data.fold: found 3; wanted 0 to 2"),
    "more folds than cases": (f"{TRAIN}|--data.folds=11", "{data}: found 10 labelled cases; wanted at least one for"),
    "more to draw than cases": (
        f"{TRAIN}|--data.split_sizes=[8,1,2]",
        "found 10 labelled cases; wanted 8 + 1 + 2 = 11",
    ),
    "unpaired flip": (f"{TRAIN}|--data.pairs=[]", "data.pairs: found a flip along x, Ball_L and Ball_R unpaired"),
    "a canvas that does not fit": (f"{TRAIN}|--prepare.canvas=[10,16,16]", "canvas: found .* wanted multiples of 16"),
    "an unknown label value": (f"{TRAIN}|--data.root|{{tmp}}/value", "case_1.nii.gz: found label value 77"),
    "a label on another grid": (f"{TRAIN}|--data.root|{{tmp}}/grid", "case case_1: found label with .*--repair"),
    "an image cut short": (f"{TRAIN}|--data.root|{{tmp}}/cut", "case_1.nii.gz: found an incomplete or damaged file"),
    "a run there": ("train|--config|{config}", "{run}: found a run; wanted a new folder"),
    "a file for a run": ("train|--config|{config}|--run.dir|{tmp}/file", "{tmp}/file.*found"),
    "nothing to check": ("check", "root: found nothing"),
    "no data to check": ("check|{tmp}/none", "{tmp}/none: found no such folder"),
    "headers without a copy": ("check|{data}|--repair_headers", "--repair_headers: found no --repair"),
    "a folder for measures": ("check|{data}|--json|{tmp}", "{tmp}: found a folder"),
    "repair into the data": ("check|{data}|--repair|{data}", "{data}: found something there already"),
    "nothing to predict": ("predict|{run}|--out|{tmp}/out", "images: found nothing"),
    "no run": ("predict|{tmp}/none|{image}|--out|{tmp}/out", "{tmp}/none: found no such folder"),
    "another folder for a run": ("predict|{tmp}/empty|{image}|--out|{tmp}/out", "{tmp}/empty: found no config.yaml"),
    "a run with a broken configuration": (
        "predict|{tmp}/no yaml|{image}|--out|{tmp}/out",
        "{tmp}/no yaml/config.yaml: found while parsing",
    ),
    "a run without plan": ("predict|{tmp}/no plan|{image}|--out|{tmp}/out", "plan.json: found No such file"),
    "a run without checkpoint": (
        "predict|{tmp}/no checkpoint|{image}|--out|{tmp}/out",
        "{tmp}/no checkpoint.*: found no checkpoint",
    ),
    "a damaged checkpoint": ("predict|{tmp}/damaged|{image}|--out|{tmp}/out", "damaged/checkpoints/8: found"),
    "no image": ("predict|{run}|{tmp}/none.nii|--out|{tmp}/out", "{tmp}/none.nii: found no such file"),
    "no series": ("predict|{run}|{tmp}/empty|--out|{tmp}/out", "{tmp}/empty: found a folder without DICOM series"),
    "another ending": ("predict|{run}|{config}|--out|{tmp}/out", "config.yaml: found ending '.yaml'"),
    "an image twice": ("predict|{run}|{image}|{image}|--out|{tmp}/out", "{image}: found another image named images"),
    "a file for the outputs": ("predict|{run}|{image}|--out|{tmp}/file", "{tmp}/file.*found"),
    "neither run nor folders": ("evaluate", "ars-jax evaluate: found no RUN"),
    "run and folders": ("evaluate|{run}|--predictions|{tmp}/empty", "ars-jax evaluate: found RUN together"),
    "references missing": ("evaluate|--predictions|{tmp}/empty", "ars-jax evaluate: found no RUN, and not both"),
    "no label maps": ("evaluate|--predictions|{tmp}/empty|--references|{tmp}/empty", "{tmp}/empty: found no label map"),
    "no folder to score": ("evaluate|--predictions|{tmp}/none|--references|{tmp}/empty", "{tmp}/none: found no folder"),
    "a run without split": ("evaluate|{tmp}/no split", "split.json: found no such file"),
    "a data set that was seen": (
        "evaluate|{run}|--data|{tmp}/value|--out|{tmp}/out",
        "labelled cases, of which the run was trained on or chosen by all",
    ),
    "no cases to test": ("evaluate|{run}|--cases|test|--out|{tmp}/out", "split.json: found no test cases"),
    "cases of another data set": (
        "evaluate|{run}|--cases|validation|--data|{data}|--out|{tmp}/out",
        "ars-jax evaluate: found --cases validation of another data set",
    ),
    "cases of folders": (
        "evaluate|--predictions|{tmp}/empty|--references|{tmp}/empty|--cases|test",
        "ars-jax evaluate: found no RUN",
    ),
    "unknown convention": ("evaluate|{run}|--convention|mine", "convention: found mine; wanted .*'paper-boundary'"),
    "tolerance below 0": ("evaluate|{run}|--tolerance_mm|-1|--out|{tmp}/out", "tolerance_mm: found -1.0"),
    "a file for the tables": ("evaluate|{run}|--out|{tmp}/file", "{tmp}/file.*found"),
    "no run to show": ("report|{tmp}/none|--out|{tmp}/out", "{tmp}/none: found no such folder"),
    "a run twice": ("report|{run}|{run}|--out|{tmp}/out", "{run}: found the same run twice"),
    "a file for the page": ("report|{run}|--out|{tmp}/file", "{tmp}/file.*found"),
    "no phantoms": ("phantom|--out|{tmp}/out|--cases=0", "found 0 cases"),
    "a seed below 0": ("phantom|--out|{tmp}/out|--seed=-1", "seed -1"),
    "a file for phantoms": ("phantom|--out|{tmp}/file|--cases=1", "{tmp}/file.*found"),
    "no arrays": ("gradcheck|--arrays|{tmp}/none.npz", "{tmp}/none.npz: found no such file"),
    "text for arrays": ("gradcheck|--arrays|{tmp}/file", "{tmp}/file: found another kind of file"),
    "a misspelt loss": ("gradcheck|--losses|dise", "loss 'dise': found no such loss; .*did you mean dice?"),
    "a grid beyond the phantom": (
        "gradcheck|--regions|[8,8,99]",
        "regions: found [8, 8, 99]; wanted regions .*48x48x48",
    ),
    "another type of numbers": ("gradcheck|--dtype|float16", "dtype: found float16; wanted"),
    "nowhere to show gradients": ("gradients", "out: found nothing"),
    "a file for the figures": ("gradients|--out|{tmp}/file", "{tmp}/file: found a file; wanted a folder"),
    "a run and arrays": ("gradients|--out|{tmp}/out|--run|{run}|--arrays|{tmp}/file", "found both --run and --arrays"),
    "a case of no run": ("gradients|--out|{tmp}/out|--case|case_0", "found --case without --run"),
    "an image of no run": ("gradients|--out|{tmp}/out|--image|{image}", "found --image without --run"),
    "an image without labels": ("gradients|--out|{tmp}/out|--run|{run}|--image|{image}", "one of --image and --labels"),
    "a case and an image": (
        "gradients|--out|{tmp}/out|--run|{run}|--case|case_0|--image|{image}|--labels|{image}",
        "found --case together with --image",
    ),
    "an unknown case": ("gradients|--out|{tmp}/out|--run|{run}|--case|none", "case: found none; wanted a validation"),
    "no masks": (
        "gradients|--out|{tmp}/out|--run|{run}|--image|{image}|--labels|{tmp}/empty",
        "{tmp}/empty: found no mask of the run's organs",
    ),
    "no reference": (
        "gradients|--out|{tmp}/out|--run|{run}|--image|{image}|--labels|{tmp}/none.nii",
        "{tmp}/none.nii: found no such file",
    ),
    "an image for a reference": (
        "gradients|--out|{tmp}/out|--run|{run}|--image|{image}|--labels|{image}",
        "case_0.nii.gz: found label value",
    ),
    "no run for gradients": ("gradients|--out|{tmp}/out|--run|{tmp}/none", "{tmp}/none: found no such folder"),
    "no arrays for gradients": ("gradients|--out|{tmp}/out|--arrays|{tmp}/none.npz", "{tmp}/none.npz: found no such"),
    "no such organ": ("gradients|--out|{tmp}/out|--organ|Liver", "organ: found Liver; wanted one of Brainstem"),
    "penalties below 0": ("gradients|--out|{tmp}/out|--min_penalty|-1", "min_penalty: found -1.0; wanted at least 0"),
    "too many regions": ("gradients|--out|{tmp}/out|--regions|99", "regions: found 99"),
    "a phantom below 0": ("gradients|--out|{tmp}/out|--seed|-1", "seed: found -1"),
    "maps below 0": (f"{TRAIN}|--train.maps_every=-1", "train.maps_every: found -1; wanted at least 0"),
    "a demo with an unknown option": (
        'demo|--out|{tmp}/out|--options|["--los.regions=1"]',
        "did you mean loss.regions",
    ),
    "a demo with a value out of range": (
        'demo|--out|{tmp}/out|--options|["--train.epochs=0"]',
        "train.epochs: found 0",
    ),
}


def content(places: Mapping[str, Path]) -> dict[str, bytes]:
    """Every file but prepared cases, which are whole and may stay."""
    files = {path: text for place in ("tmp", "run") for path, text in files_of(places[place]).items()}
    return {path: text for path, text in files.items() if not path.startswith("cache/")}


@pytest.mark.parametrize(("words", "pattern"), FAULTS.values(), ids=FAULTS)
def test_faults_are_told_in_one_line_and_leave_no_file(words: str, pattern: str, places, capsys) -> None:
    """Status 2, one line of what was found where, no traceback, nothing written or changed."""
    before = content(places)
    assert main([word.format(**places) for word in words.split("|")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("ars-jax: ")
    for part in pattern.format(**places).split(".*"):
        assert part in line
        line = line.split(part, 1)[1]
    assert content(places) == before


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["ars-jax", "--version"], [sys.executable, "-m", "ars_jax", "--version"]):
        if words[0] == "ars-jax":
            with pytest.raises(SystemExit) as ended:
                main(words[1:])
            assert ended.value.code == 0
            shown = capsys.readouterr().out
        else:
            shown = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        assert shown.split() == ["ars-jax", ars_jax.__version__]


@pytest.mark.filterwarnings("default:.*a sum over regions:UserWarning")
def test_a_sum_beside_a_mean_is_warned_of_in_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["train", "--data.root", str(tmp_path / "none"), "--run.dir", str(tmp_path / "run"), "--loss.reduction=sum"]
    assert main(words) == 2
    warning, fault = capsys.readouterr().err.strip().splitlines()
    assert warning.startswith("ars-jax: warning: adaptive_region_specific: a sum over regions")
    assert fault.startswith("ars-jax: train.batch_size: found 1")
