"""Trainings by two real processes with two virtual devices each, against one process with four."""

import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from ars_jax.options import read_config
from ars_jax.predict import load_network
from tests.small_runs import lines_of, write_config, write_data_set

ROOT = Path(__file__).parents[2]
STEPS = 6
BEGUN, STOPPED, KILLED = 1, 2, 5
"""Steps after which one process hands over to two, these to two others, and of these one is killed."""
LIMIT_S = 300
NEVER = ("SIGTERM", -1, ROOT)

Ended = tuple[int, str]
"""The exit status of a process and all that it showed."""
Told = tuple[str, int, Path]
"""The signal that a process gets, the number of the batch before which it gets it, from 0, and what has to be there."""


def start(*words: object, devices: int = 2, told: Told = NEVER) -> tuple[subprocess.Popen[bytes], Any]:
    shown = tempfile.TemporaryFile()
    command = [sys.executable, "-m", "tests.one_process", *map(str, (devices, *told, *words))]
    return subprocess.Popen(command, cwd=ROOT, stdout=shown, stderr=subprocess.STDOUT), shown


def ended(started: Sequence[tuple[subprocess.Popen[bytes], Any]]) -> list[Ended]:
    """Waits for processes that were started; none outlives the test."""
    results = []
    try:
        for process, _ in started:
            process.wait(LIMIT_S)
    finally:
        for process, shown in started:
            process.kill()
            status = process.wait()
            shown.seek(0)
            results.append((status, shown.read().decode(errors="replace")))
            shown.close()
            sys.stdout.write(f"--- exit status {status}\n{results[-1][1]}\n")
    return results


def start_pair(*words: object, told: Told = NEVER) -> list[tuple[subprocess.Popen[bytes], Any]]:
    """Starts the same command in two processes, of which only the second gets a signal."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    words = (*words, "--coordinator", f"localhost:{port}", "--processes", 2, "--join_timeout", LIMIT_S)
    return [start(*words, "--process", number, told=told if number else NEVER) for number in range(2)]


@dataclass(frozen=True)
class Runs:
    """One training by one process, and one that goes from process to processes, until it ends.

    One process begins the other one, two go on, two others divide volumes and parameters until one of them is killed,
    and one process brings it to its end.
    """

    config: Path
    alone: Path
    relay: Path
    ends: list[Ended]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """The variant with smooth activations and small steps: rounding would else grow beyond what is compared."""
    base = tmp_path_factory.mktemp("processes")
    sections: dict[str, Any] = {
        "data": {"validation_fraction": 0.3, "cache": str(base / "cache")},
        "prepare": {"canvas": [32, 16, 16]},
        "model": {"variant": "monai"},
        "optim": {"learning_rate": 1e-4},
        "train": {"epochs": 3, "batch_size": 4, "validate_every": 1},
    }
    config = write_config(base / "config.yaml", write_data_set(base / "data"), base / "alone", **sections)
    words = ("train", "--config", config, "--compiled", base / "compiled", "--resume")
    relay, divided = (*words, "--run.dir", base / "relay"), ("--mesh.space", 2, "--mesh.parameters", "sharded")
    saved = base / "relay" / "checkpoints" / str(KILLED - 1)
    ends = ended([start(*words, devices=4)])
    ends += ended([start(*relay, devices=4, told=("SIGTERM", BEGUN - 1, base))])
    ends += ended(start_pair(*relay, told=("SIGTERM", STOPPED - 1, base)))
    ends += ended(start_pair(*relay, *divided, told=("SIGKILL", KILLED, saved)))
    ends += ended([start(*relay, devices=4)])
    return Runs(config, base / "alone", base / "relay", ends)


def of_kind(run: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in lines_of(run) if line["kind"] == kind]


def by_step(run: Path, kind: str) -> dict[int, dict[str, Any]]:
    """The lines of a kind; of steps that were done twice the later ones."""
    return {line["step"]: line for line in of_kind(run, kind)}


def legs(run: Path) -> list[list[dict[str, Any]]]:
    """The lines of a run from each start to the next one."""
    parts: list[list[dict[str, Any]]] = []
    for line in lines_of(run):
        parts += [[]] if line["kind"] == "start" else []
        parts[-1].append(line)
    return parts


def assert_same_losses(found: Sequence[dict[str, Any]], expected: dict[int, dict[str, Any]]) -> None:
    np.testing.assert_allclose(
        [line["loss"] for line in found], [expected[line["step"]]["loss"] for line in found], rtol=1e-5
    )


def test_two_processes_train_to_the_losses_of_one(runs: Runs) -> None:
    """Of two devices each, to those of four devices; and each resumes what the other left."""
    expected, found = by_step(runs.alone, "train"), by_step(runs.relay, "train")
    assert sorted(found) == sorted(expected) == list(range(1, STEPS + 1))
    assert_same_losses(list(found.values()), expected)
    network = load_network(runs.relay, read_config(runs.config), "newest")
    other = load_network(runs.alone, read_config(runs.config), "newest")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), network.params, other.params)


def test_two_processes_that_divide_volumes_and_parameters_train_to_the_losses_of_one(runs: Runs) -> None:
    """What they saved is what one process goes on from: all of its checkpoints are whole."""
    divided, last = legs(runs.relay)[2:]
    steps = [line for line in divided if line["kind"] == "train"]
    assert steps and steps[-1]["step"] >= KILLED - 1
    assert_same_losses(steps, by_step(runs.alone, "train"))
    assert divided[0]["step"] < last[0]["step"] == KILLED - 1
    assert "damaged" not in runs.ends[-1][1]


def test_validation_cases_that_two_processes_share_score_as_those_of_one(runs: Runs) -> None:
    expected, found = by_step(runs.alone, "validation"), by_step(runs.relay, "validation")
    assert list(found) == list(expected) == [2, 4, 6]
    for step, line in found.items():
        assert line["dsc"] == pytest.approx(expected[step]["dsc"], abs=2e-3)


def test_all_stop_where_one_is_told_to(runs: Runs) -> None:
    """After the same step, which is saved."""
    assert [status for status, _ in runs.ends[:4]] == [0, 75, 75, 75]
    first, second = (line["step"] for line in of_kind(runs.relay, "stop"))
    assert first == BEGUN
    assert STOPPED <= second < KILLED - 1
    assert [line["step"] for line in of_kind(runs.relay, "start")][:3] == [0, first, second]


def test_where_one_is_killed_the_other_ends_in_one_line_and_one_command_goes_on(runs: Runs) -> None:
    (status, text), (killed, _), (ended, _) = runs.ends[-3:]
    assert killed == -signal.SIGKILL
    assert status == 1
    assert text.splitlines()[-1].startswith("ars-jax: another process was lost")
    assert "Traceback" not in text
    assert ended == 0
    assert len(of_kind(runs.relay, "end")) == 1


def test_one_log_says_what_trained(runs: Runs) -> None:
    starts = of_kind(runs.relay, "start")
    assert [line["processes"] for line in starts] == [1, 2, 2, 1]
    replicated = {"data": 4, "space": 1, "parameters": "replicated"}
    divided = {"data": 2, "space": 2, "parameters": "sharded"}
    assert [line["mesh"] for line in starts] == [replicated, replicated, divided, replicated]
    for line in starts:
        assert line["device"] == "4 x cpu"
        assert (line["training_cases"], line["validation_cases"]) == (7, 3)
    (_, shown), (_, hidden) = runs.ends[2:4]
    assert "validation DSC" in shown
    assert "validation DSC" not in hidden


def test_no_process_waits_for_one_that_ended(tmp_path: Path) -> None:
    """The first cannot prepare a case; another finds no first, and the last no cluster."""
    data = write_data_set(tmp_path / "data", cases=4)
    image = data / "images" / "case_1.nii.gz"
    image.write_bytes(image.read_bytes()[:200])
    config = write_config(tmp_path / "config.yaml", data, tmp_path / "run", train={"batch_size": 4})
    lonely = ("--coordinator", "localhost:1", "--processes", 2, "--process", 1, "--join_timeout", 1)
    started = [
        *start_pair("train", "--config", config),
        start("train", "--config", config, *lonely),
        start("train", "--config", config, "--distributed"),
    ]
    results = ended(started)
    assert [status for status, _ in results] == [2, 2, 2, 2]
    first, second, alone, outside = (text.splitlines()[-1] for _, text in results)
    assert first.startswith(f"ars-jax: {image}")
    assert second == first.replace("ars-jax: ", "ars-jax: ended with process 0: ", 1)
    assert alone.startswith("ars-jax: localhost:1: found not all processes after 1 s")
    assert outside.startswith("ars-jax: --distributed: found none of them")
    assert not (tmp_path / "run" / "config.yaml").exists()
