"""An experiment: every run once, whatever interrupts it, and then what compares them."""

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from rich.console import Console

from ars_jax import experiment
from ars_jax.cli import main
from ars_jax.config import Config
from ars_jax.errors import DivergedError, UserError
from ars_jax.files import locked
from ars_jax.matrix import ExperimentConfig
from ars_jax.options import read_config
from ars_jax.report.results import Results
from tests.small_runs import OPTIONS, files_of, lines_of, quick_compilation, write_config, write_data_set

TWO = ExperimentConfig(title="Two balls", objectives=("baseline", "baseline+ars"), seeds=(0, 1))
FOLDERS = [f"runs/{arm}/seed{seed}" for seed in (0, 1) for arm in ("B", "B+ARS")]


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

    def train(config: Config, *, resume: bool, console: Console) -> None:
        done.append(f"{config.loss.objective} {config.train.seed}" + (" resumed" if resume else ""))
        config.run.dir.mkdir(parents=True, exist_ok=True)
        (config.run.dir / "metrics.jsonl").write_text('{"kind": "end", "step": 8}\n')

    monkeypatch.setattr(experiment, "train", train)
    monkeypatch.setattr(experiment, "_score", lambda *_: None)
    monkeypatch.setattr(experiment, "read_results", lambda folder: Results("", folder, ()))
    return done


def test_one_command_trains_scores_and_compares(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And once more skips what is done; two objectives and two seeds, on real trainings."""
    path = write_config(tmp_path / "two.yaml", data, tmp_path / "out", train={"epochs": 2, "validate_every": 1})
    chosen = {"objectives": list(TWO.objectives), "seeds": list(TWO.seeds)}
    path.write_text(path.read_text() + yaml.safe_dump({"experiment": {"title": TWO.title, **chosen}}))
    assert main(["experiment", "--config", str(path)]) == 0
    out = tmp_path / "out"
    for folder in FOLDERS:
        assert [line["kind"] for line in lines_of(out / folder)].count("end") == 1
        about = json.loads((out / folder / "evaluation" / "table.json").read_text())["about"]
        assert (about["cases"], about["checkpoint"]) == ("validation", "newest")
    with (out / "tables" / "organs.csv").open() as file:
        text = " ".join(",".join(row) for row in csv.reader(file))
    assert all(word in text for word in ("Ball_L", "Ball_R", "B+ARS"))
    assert "Two balls" in (out / "tables" / "summary.md").read_text()
    assert (out / "figures" / "validation_curves.png").is_file()
    before = {name: content for name, content in files_of(out / "runs").items()}
    capsys.readouterr()
    assert main(["experiment", "--config", str(path)]) == 0
    assert files_of(out / "runs") == before


def test_runs_differ_in_objective_and_seed_alone(config: Config, trained: list[str]) -> None:
    assert experiment.run_experiment(config, TWO) == []
    assert trained == ["baseline 0", "baseline+ars 0", "baseline 1", "baseline+ars 1"]


def test_what_is_done_is_not_done_again(config: Config, trained: list[str]) -> None:
    experiment.run_experiment(config, replace(TWO, seeds=(0,)))
    trained.clear()
    experiment.run_experiment(config, TWO)
    assert trained == ["baseline 1", "baseline+ars 1"]


def test_a_run_that_was_cut_short_is_resumed(
    config: Config, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = config.run.dir / "runs/B/seed0"
    monkeypatch.setattr(experiment, "has_checkpoint", lambda path: path.parent == cut)
    monkeypatch.setattr(experiment, "check_same_config", lambda _: None)
    experiment.run_experiment(config, replace(TWO, seeds=(0,)))
    assert trained == ["baseline 0 resumed", "baseline+ars 0"]


def test_a_run_that_diverged_is_told_and_the_others_go_on(
    config: Config, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = experiment.train

    def diverging(config: Config, **how: Any) -> None:
        if config.loss.objective == "baseline" and config.train.seed == 0:
            raise DivergedError("step 3", found="loss nan", wanted="a finite loss", fix="lower the rate")
        whole(config, **how)

    monkeypatch.setattr(experiment, "train", diverging)
    (missing,) = experiment.run_experiment(config, TWO)
    assert missing.startswith("B, seed 0: step 3: found loss nan")
    assert trained == ["baseline+ars 0", "baseline 1", "baseline+ars 1"]
    trained.clear()
    (again,) = experiment.run_experiment(config, TWO)
    assert again == "B, seed 0: its loss was not finite"
    assert trained == []


def test_a_run_that_another_process_is_at_is_left_to_it(config: Config, trained: list[str]) -> None:
    with locked(config.run.dir / "runs/B/seed1/.lock") as free:
        assert free
        assert experiment.run_experiment(config, TWO) == ["B, seed 1: another process is at it"]
    assert trained == ["baseline 0", "baseline+ars 0", "baseline+ars 1"]
    assert experiment.run_experiment(config, TWO) == []


def test_faults_of_data_stop_it_at_once(config: Config) -> None:
    nowhere = replace(config, data=replace(config.data, root=config.run.dir / "nowhere"))
    with pytest.raises(UserError, match="nowhere: found no such folder"):
        experiment.run_experiment(nowhere, TWO)


def test_a_run_of_another_configuration_is_refused_by_key(config: Config, data: Path) -> None:
    other = write_config(config.run.dir / "runs/B/seed0/config.yaml", data, config.run.dir)
    changed = yaml.safe_load(other.read_text())
    changed["model"] = OPTIONS["model"] | {"base_channels": 3}
    changed["loss"]["objective"] = "baseline"
    other.write_text(yaml.safe_dump(changed))
    (config.run.dir / "runs/B/seed0/checkpoints/8").mkdir(parents=True)
    with pytest.raises(UserError, match=r"model\.base_channels"):
        experiment.run_experiment(config, replace(TWO, seeds=(0,)))
