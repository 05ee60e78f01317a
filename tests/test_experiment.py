"""An experiment: every run once, whatever interrupts it, and then what compares them."""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from ars_jax import experiment
from ars_jax.cli import main
from ars_jax.config import Config, to_yaml, with_absolute_paths
from ars_jax.errors import DivergedError, UserError
from ars_jax.evaluate import write_tables
from ars_jax.files import write_json
from ars_jax.locks import locked
from ars_jax.matrix import ExperimentConfig, plan_trials
from ars_jax.metrics.table import evaluate_case
from ars_jax.options import read_config
from ars_jax.score import Scores
from tests.objectives import ARS
from tests.small_runs import OPTIONS, files_of, lines_of, quick_compilation, write_config, write_data_set

TWO = ExperimentConfig(title="Two balls", objectives=("baseline", ARS), seeds=(0, 1))


@pytest.fixture(scope="module", autouse=True)
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with quick_compilation(tmp_path_factory.getbasetemp()):
        yield tmp_path_factory.getbasetemp()


@pytest.fixture(scope="module")
def data(base: Path) -> Path:
    return write_data_set(base / "experiment" / "data")


@pytest.fixture
def config(data: Path, tmp_path: Path) -> Config:
    return read_config(write_config(tmp_path / "config.yaml", data, tmp_path / "out"))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Stands in for training and scoring: leaves what says that a run was trained, and tells which."""
    done: list[str] = []

    def train(config: Config, *, resume: bool, console: Console, held: bool) -> None:
        assert held
        done.append(f"{config.loss.name} {config.train.seed}" + (" resumed" if resume else ""))
        config.run.dir.mkdir(parents=True, exist_ok=True)
        (config.run.dir / "metrics.jsonl").write_text('{"kind": "end", "step": 8}\n')

    monkeypatch.setattr(experiment, "train", train)
    monkeypatch.setattr(experiment, "_score", lambda *_: None)
    monkeypatch.setattr(experiment, "_compare", lambda folder: None)
    return done


def test_one_command_trains_scores_and_compares(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And once more skips what is done; on real trainings."""
    path = write_config(tmp_path / "two.yaml", data, tmp_path / "out", train={"epochs": 1, "validate_every": 1})
    chosen = {"objectives": [ARS], "seeds": [0], "regions": [1, 2]}
    path.write_text(path.read_text() + yaml.safe_dump({"experiment": {"title": TWO.title, **chosen}}))
    assert main(["experiment", "--config", str(path)]) == 0
    out = tmp_path / "out"
    for folder in ("runs/B+ARS_DC_1/seed0", "runs/B+ARS_DC_2/seed0"):
        assert [line["kind"] for line in lines_of(out / folder)].count("end") == 1
        about = json.loads((out / folder / "evaluation" / "table.json").read_text())["about"]
        assert (about["cases"], about["checkpoint"]) == ("validation", "newest")
    with (out / "tables" / "organs.csv").open(encoding="utf-8") as file:
        text = " ".join(",".join(row) for row in csv.reader(file))
    assert all(word in text for word in ("Ball_L", "Ball_R", "B+ARS"))
    assert "Two balls" in (out / "tables" / "summary.md").read_text(encoding="utf-8")
    assert (out / "figures" / "validation_curves.png").is_file()
    assert (out / "figures" / "division_curve.png").is_file(), "the settings of the arms are lost"
    before = {name: content for name, content in files_of(out / "runs").items()}
    capsys.readouterr()
    assert main(["experiment", "--config", str(path)]) == 0
    assert files_of(out / "runs") == before


def test_runs_differ_in_objective_and_seed_alone(config: Config, trained: list[str]) -> None:
    assert experiment.run_experiment(config, TWO) == []
    assert trained == [
        "baseline 0",
        "baseline+adaptive_region_specific 0",
        "baseline 1",
        "baseline+adaptive_region_specific 1",
    ]


def test_what_is_done_is_not_done_again(config: Config, trained: list[str]) -> None:
    experiment.run_experiment(config, replace(TWO, seeds=(0,)))
    trained.clear()
    experiment.run_experiment(config, TWO)
    assert trained == ["baseline 1", "baseline+adaptive_region_specific 1"]


def test_a_run_that_was_cut_short_is_resumed(
    config: Config, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = config.run.dir / "runs/B/seed0"
    monkeypatch.setattr(experiment, "has_checkpoint", lambda path: path.parent == cut)
    monkeypatch.setattr(experiment, "check_same_config", lambda _: None)
    experiment.run_experiment(config, replace(TWO, seeds=(0,)))
    assert trained == ["baseline 0 resumed", "baseline+adaptive_region_specific 0"]


def test_a_run_that_diverged_is_told_and_the_others_go_on(
    config: Config, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = experiment.train

    def diverging(config: Config, **how: Any) -> None:
        if config.loss.name == "baseline" and config.train.seed == 0:
            (config.run.dir / "config.yaml").write_text(to_yaml(config))
            raise DivergedError("step 3", found="loss nan", wanted="a finite loss", fix="lower the rate")
        whole(config, **how)

    monkeypatch.setattr(experiment, "train", diverging)
    (missing,) = experiment.run_experiment(config, TWO)
    assert missing.startswith("B, seed 0: step 3: found loss nan")
    assert missing.endswith(f"delete {config.run.dir / 'runs/B/seed0'}")
    assert trained == ["baseline+adaptive_region_specific 0", "baseline 1", "baseline+adaptive_region_specific 1"]
    trained.clear()
    (again,) = experiment.run_experiment(config, TWO)
    assert again == missing
    assert trained == []


def test_a_run_that_another_process_is_at_is_left_to_it(config: Config, trained: list[str]) -> None:
    with locked(config.run.dir / "runs/B/seed1/.lock") as free:
        assert free
        assert experiment.run_experiment(config, TWO) == ["B, seed 1: another process is at it"]
    assert trained == ["baseline 0", "baseline+adaptive_region_specific 0", "baseline+adaptive_region_specific 1"]
    assert experiment.run_experiment(config, TWO) == []


def test_what_a_killed_run_left_half_written_is_deleted(config: Config, trained: list[str]) -> None:
    left = config.run.dir / "runs/B/seed1/.plan.json.1-01234567.tmp"
    left.parent.mkdir(parents=True)
    left.touch()
    experiment.run_experiment(config, TWO)
    assert not left.exists()
    assert len(trained) == 4


def test_more_seeds_and_objectives_join_those_that_are_there(config: Config, trained: list[str]) -> None:
    experiment.run_experiment(config, TWO)
    trained.clear()
    experiment.run_experiment(config, ExperimentConfig(objectives=("baseline", "dice"), seeds=(1, 2)))
    assert trained == ["dice 1", "baseline 2", "dice 2"]
    index = json.loads((config.run.dir / "experiment.json").read_text())
    found = {arm["name"]: [trial["seed"] for trial in arm["trials"]] for arm in index["arms"]}
    assert found == {"B": [0, 1, 2], "B+ARS": [0, 1], "D": [1, 2]}


def test_folds_do_not_join_runs_without_folds(config: Config, trained: list[str]) -> None:
    experiment.run_experiment(config, TWO)
    before = files_of(config.run.dir)
    folded = replace(config, data=replace(config.data, folds=2))
    with pytest.raises(UserError, match="with and without folds"):
        experiment.run_experiment(folded, TWO)
    assert files_of(config.run.dir) == before


@pytest.fixture
def scored(config: Config, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stands in for predicting: writes a table of what was asked for, and tells what that was."""
    calls: list[dict[str, Any]] = []

    def score_run(run: Path, _: Config, out: Path, *, cases: str, checkpoint: str, **how: Any) -> Scores:
        calls.append({"cases": cases, "checkpoint": checkpoint, **how})
        mask = np.ones((2, 2, 2), np.uint8)
        rows = evaluate_case("case", mask, mask, (1.0, 1.0, 1.0), ["Ball_L"], **how)
        write_tables(out, rows, {"data": str(config.data.root), "cases": cases, "checkpoint": checkpoint})
        return Scores(rows, config.data.root, cases, 1, 0)

    monkeypatch.setattr(experiment, "score_run", score_run)
    return calls


def score_with(config: Config, test: bool = False, **choices: Any) -> None:
    """Scores a run of the configuration, which has test cases or none."""
    chosen = ExperimentConfig(objectives=("baseline",), seeds=(0,), **choices)
    (trial,) = plan_trials(with_absolute_paths(config), chosen)
    split: dict[str, dict[str, str]] = {"train": {"a": "1"}, "validation": {"b": "2"}}
    write_json(trial.config.run.dir / "split.json", split | ({"test": {"c": "3"}} if test else {}))
    experiment._score(trial, chosen, Console(quiet=True))


def test_a_run_is_scored_once_and_again_when_something_else_is_asked_for(config: Config, scored) -> None:
    other: list[dict[str, Any]] = [{"convention": "monai"}, {"convention": "monai"}, {"tolerance_mm": 3.0}]
    for choices in ({}, {}, *other, {}, {}):
        score_with(config, **choices)
    assert [(call["convention"], call["tolerance_mm"]) for call in scored] == [
        ("paper-boundary", 2.0),
        ("monai", 2.0),
        ("paper-boundary", 3.0),
        ("paper-boundary", 2.0),
    ]
    score_with(config, checkpoint="best")
    assert scored[-1]["checkpoint"] == "best"


def test_scores_of_other_cases_or_data_are_not_taken_for_the_runs_own(config: Config, scored) -> None:
    """`ars-jax evaluate RUN` writes to the same place."""
    score_with(config)
    table = config.run.dir / "runs/B/seed0/evaluation/table.json"
    for key, value in (("cases", "test"), ("data", "/some/other")):
        content = json.loads(table.read_text())
        content["about"][key] = value
        table.write_text(json.dumps(content))
        score_with(config)
        assert json.loads(table.read_text())["about"][key] != value
    assert len(scored) == 3


def test_validation_cases_are_scored_by_parameters_that_they_did_not_choose(config: Config, scored) -> None:
    score_with(config)
    score_with(config, test=True)
    assert [(call["cases"], call["checkpoint"]) for call in scored] == [("validation", "newest"), ("test", "best")]


def test_what_would_stop_a_later_run_stops_the_first(config: Config, trained: list[str]) -> None:
    canvas = replace(config, prepare=replace(config.prepare, canvas=(16, 16, 16)))
    with pytest.raises(UserError, match=r"loss\.regions"):
        experiment.run_experiment(canvas, replace(TWO, regions=(2, 100)))
    assert trained == []
    assert not config.run.dir.exists()


def test_faults_of_data_stop_it_at_once(config: Config) -> None:
    nowhere = replace(config, data=replace(config.data, root=config.run.dir / "nowhere"))
    with pytest.raises(UserError, match="nowhere: found no such folder"):
        experiment.run_experiment(nowhere, TWO)
    assert not config.run.dir.exists()


def test_a_run_of_another_configuration_is_refused_by_key(config: Config, data: Path) -> None:
    other = write_config(config.run.dir / "runs/B/seed0/config.yaml", data, config.run.dir)
    changed = yaml.safe_load(other.read_text())
    changed["model"] = OPTIONS["model"] | {"base_channels": 3}
    changed["loss"]["terms"] = {"baseline": 1.0}
    other.write_text(yaml.safe_dump(changed))
    (config.run.dir / "runs/B/seed0/checkpoints/8").mkdir(parents=True)
    with pytest.raises(UserError, match=r"model\.base_channels"):
        experiment.run_experiment(config, replace(TWO, seeds=(0,)))
