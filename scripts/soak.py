#!/usr/bin/env python
"""Kills and resumes a small real training again and again: does it end as if it had never been touched?

Made-up heads and necks, a narrow network, `ars-jax train --resume` in processes of its own. First it trains without
interruption; then another run is killed, by SIGKILL or SIGTERM, at moments drawn from the seed: at any time of the
process' life, at a step, or while a checkpoint is being written. At the end every array of the last checkpoint, every
step's loss and every validation have to be those of the first run, bit for bit. A run that ends before it was killed
often enough is followed by another one. Exits with 1 if anything differs.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import yaml

from ars_jax.checkpoint import checkpoints, find_step, restore
from ars_jax.data.phantom import write_phantoms
from ars_jax.data.plan import read_plan
from ars_jax.mesh import make_mesh, replicated
from ars_jax.options import read_config
from ars_jax.predict import make_model
from ars_jax.report.runs import latest_steps, read_metrics
from ars_jax.train.state import state_shapes
from ars_jax.train.step import make_optimizer

CASES, EPOCHS = 6, 60
SIDES = [32, 32, 32]
STOPPED = 75
"""What `ars-jax train` exits with after a SIGTERM."""
CONFIG: dict[str, Any] = {
    "data": {"pairs": [["Parotid_L", "Parotid_R"], ["Submandibular_L", "Submandibular_R"]]},
    "prepare": {"intensity": "window", "window": [-200, 400], "shape": SIDES},
    "model": {"base_channels": 2, "kernel_size": 3, "dropout": 0.2},
    "loss": {"grid": 4},
    "train": {"epochs": EPOCHS, "batch_size": 1, "validate_every": 2},
}


def main() -> int:
    """Trains, kills, resumes, compares and prints what was counted."""
    arguments = parse()
    out: Path = arguments.out
    data, config = out / "data", out / "config.yaml"
    if not (data / "dataset.json").is_file():
        write_phantoms(data, CASES)
    config.write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    draw, counts = random.Random(arguments.seed), Counter[str]()
    straight = out / "straight"
    began = time.monotonic()
    assert train(out, straight, lambda *_: None) == 0, "the uninterrupted training failed"
    took = time.monotonic() - began
    life = took - fact(straight, "end", "seconds") - fact(straight, "start", "compile_s") / 2 + arguments.stepping
    print(f"uninterrupted: {took:.0f} s; kills within the first {life:.0f} s of a process", flush=True)
    faults, number = [], 0
    while sum(counts[f"kill {one.name}"] for one in (signal.SIGKILL, signal.SIGTERM)) < arguments.kills:
        number += 1
        run = out / f"killed_{number}"
        faults += soak(out, run, arguments.kills, life, draw, counts)
        faults += [f"{run.name}: {difference}" for difference in differences(straight, run)]
    for name, count in sorted(counts.items()):
        print(f"{count:6d}  {name}")
    print(f"{number} run(s) equal to the uninterrupted one: {'no' if faults else 'yes, bit for bit'}")
    for fault in faults:
        print(fault)
    return 1 if faults else 0


def soak(out: Path, run: Path, kills: int, life: float, draw: random.Random, counts: Counter[str]) -> list[str]:
    """Kills and resumes one run until it ends; counts what happened and returns what should not have."""
    faults = []
    while True:
        done = counts["kill SIGKILL"] + counts["kill SIGTERM"]
        kind = draw.choice((signal.SIGKILL, signal.SIGTERM))
        moment = draw.choice(("time", "time", "step", "save")) if done < kills else "never"
        delay = draw.uniform(0, life if moment == "time" else 0.2 if moment == "step" else 0.02)
        phases: list[str] = []
        status = train(out, run, partial(kill, run=run, kind=kind, moment=moment, delay=delay, phases=phases))
        counts["sessions"] += 1
        if phases and status in (-kind, STOPPED):
            counts.update([f"kill {kind.name}", f"killed while {phases[0]}"])
        counts[f"exit {status}"] += 1
        print(f"{done:3d}: {kind.name} at {moment}: {phases}, exit {status}, at step {last_step(run)}", flush=True)
        if status == 0:
            count_steps(run, counts)
            return faults
        if status not in (-kind, STOPPED):
            return [*faults, f"{run.name}: exit {status}, see {run}.log"]
        if status == STOPPED and phases[0] in ("stepping", "validating") and not is_saved(run):
            faults.append(f"{run.name}: a SIGTERM at step {last_step(run)} left no checkpoint of it")


def train(out: Path, run: Path, end: Callable[[subprocess.Popen], None]) -> int:
    """One process of `ars-jax train`, which `end` may end; returns its exit status."""
    command = [Path(sys.executable).with_name("ars-jax"), "train", "--config", out / "config.yaml", "--resume"]
    command += ["--data.root", out / "data", "--run.dir", run, "--compiled", out / "compiled"]
    with run.with_suffix(".log").open("a", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        end(process)
        return process.wait()


def kill(
    process: subprocess.Popen, *, run: Path, kind: signal.Signals, moment: str, delay: float, phases: list[str]
) -> None:
    """Waits for a moment and kills the process, unless it ended before; adds what it was doing to `phases`."""
    if moment == "never":
        return
    begins = len(starts(run))
    while process.poll() is None and moment != "time":
        steps = sum(line["kind"] == "train" for line in session(run, begins))
        if (moment == "step" and steps) or (moment == "save" and is_saving(run, begins)):
            break
        time.sleep(0.005 if moment == "save" else 0.05)
    time.sleep(delay)
    phase = phase_of(run, process, begins)
    if process.poll() is None:
        phases.append(phase)
        process.send_signal(kind)


def phase_of(run: Path, process: subprocess.Popen, begins: int) -> str:
    """What a process is doing, as far as its files tell; `begins` processes have come to train before it."""
    if not holds(run / ".lock", process):
        return "preparing" if holds(run / "cache" / ".lock", process) else "starting"
    if is_saving(run, begins):
        return "saving"
    lines = session(run, begins)
    if not lines or lines[-1]["kind"] in ("stop", "end"):
        return "compiling" if not lines else "ending"
    per_validation = CONFIG["train"]["validate_every"] * int(fact(run, "start", "training_cases"))
    validating = lines[-1]["kind"] == "train" and lines[-1]["step"] % per_validation == 0
    return "validating" if validating else "stepping"


def is_saving(run: Path, begins: int) -> bool:
    """Whether a checkpoint is being written; what an earlier process left half-written is not meant."""
    return bool(session(run, begins)) and any((run / "checkpoints").glob("*-tmp"))


def holds(lock: Path, process: subprocess.Popen) -> bool:
    """Whether a process took a lock, now or before."""
    return lock.is_file() and lock.read_text(encoding="utf-8").startswith(f"process {process.pid} on ")


def lines_of(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl."""
    path = run / "metrics.jsonl"
    return read_metrics(path) if path.is_file() else []


def starts(run: Path) -> list[int]:
    """Where in metrics.jsonl processes began."""
    return [place for place, line in enumerate(lines_of(run)) if line["kind"] == "start"]


def session(run: Path, begins: int) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl of the process before which `begins` others came to train."""
    return lines_of(run)[place[begins] :] if len(place := starts(run)) > begins else []


def last_step(run: Path) -> int:
    """The last step that is recorded, 0 before the first."""
    return max((line.get("step", 0) for line in lines_of(run)), default=0)


def is_saved(run: Path) -> bool:
    """Whether the last line says that the training was stopped, after a step of which there is a checkpoint."""
    last = lines_of(run)[-1]
    return last["kind"] == "stop" and (run / "checkpoints" / str(last["step"])).is_dir()


def fact(run: Path, kind: str, key: str) -> float:
    """What the first line of a kind says."""
    return next(line[key] for line in lines_of(run) if line["kind"] == kind)


def count_steps(run: Path, counts: Counter[str]) -> None:
    """Counts the steps that were taken, and those that were taken again since they were not saved."""
    furthest = 0
    for line in lines_of(run):
        if line["kind"] == "start" and line["step"]:
            counts["sessions that went on from a checkpoint"] += 1
        if line["kind"] == "train":
            counts["steps recorded"] += 1
            counts["steps recorded again"] += line["step"] <= furthest
            furthest = max(furthest, line["step"])


def differences(straight: Path, run: Path) -> list[str]:
    """What of a run is not as in the uninterrupted one."""
    one, other = arrays(straight), arrays(run)
    found = [] if one.keys() == other.keys() else ["other arrays"]
    found += [name for name in one.keys() & other.keys() if not np.array_equal(one[name], other[name], equal_nan=True)]
    for kind, keys in (("train", ("step", "loss", "parts")), ("validation", ("step", "dsc", "mean_dsc"))):
        first, second = (latest_steps(lines_of(folder), kind) for folder in (straight, run))
        if [[line[key] for key in keys] for line in first] != [[line[key] for key in keys] for line in second]:
            found.append(f"{kind} lines of metrics.jsonl")
    return found


def arrays(run: Path) -> dict[str, np.ndarray]:
    """Every array of the last checkpoint: parameters, running statistics, moments, step and key."""
    config, plan = read_config(run / "config.yaml"), read_plan(run / "plan.json")
    model = make_model(config.model, len(plan.labels) + 1)
    state = state_shapes(model, make_optimizer(config.optim, last_step(run)))
    items = {
        "model": {"params": state.params, "batch_stats": state.batch_stats},
        "training": {"step": state.step, "opt_state": state.opt_state, "key": state.key},
    }
    lying = replicated(make_mesh(1))
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=lying), items)
    with checkpoints(run / "checkpoints", read_only=True) as manager:
        restored = restore(manager, find_step(manager, "newest"), like)
    restored["training"]["key"] = jax.random.key_data(restored["training"]["key"])
    leaves = jax.tree_util.tree_leaves_with_path(restored)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def parse() -> argparse.Namespace:
    """Reads the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for data, runs and logs; a new one")
    parser.add_argument("--kills", type=int, default=20, help="at least so many, over all runs")
    parser.add_argument("--seed", type=int, default=0, help="decides kinds and moments")
    parser.add_argument("--stepping", type=float, default=8, help="seconds of stepping within which a kill may come")
    arguments = parser.parse_args()
    arguments.out = arguments.out.absolute()
    if (arguments.out / "straight").exists():
        parser.error(f"{arguments.out} has been used: name a new folder")
    arguments.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TERM", "dumb")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
