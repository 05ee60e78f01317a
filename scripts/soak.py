#!/usr/bin/env python
"""Kills and resumes a small real training again and again: does it end as if it had never been touched?

Made-up heads and necks, a narrow network, `ars-jax train --resume` in processes of its own. First it trains without
interruption; then another run is killed, by SIGKILL and SIGTERM, while it imports, prepares, compiles, steps, validates
and saves, in an order drawn from the seed. Now and then the newest checkpoint is damaged before the run goes on.

What is held, beside that no process prints a traceback or hangs: SIGKILL ends with -9; SIGTERM with 75, once there are
handlers for it, and if steps were taken then with a checkpoint of the last one; a damaged checkpoint is named, and the
one before it gone on from; at the end every array of the last checkpoint, every step's loss and every validation are
those of the first run, bit for bit. A run that ends before it was killed often enough is followed by another one.
Prints what was counted, and exits with 1 if anything was not as promised.
"""

import argparse
import itertools
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

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
from ars_jax.train.state import checkpoint_items, state_shapes
from ars_jax.train.step import make_optimizer

CASES, EPOCHS = 6, 40
SIDES = [32, 32, 32]
STOPPED = 75
"""What `ars-jax train` exits with after a SIGTERM."""
HUNG_S = 300
"""No process here takes so long to end after it was told to."""
DELAYS = {"imports": 2.0, "preparing": 0.1, "compiling": 1.0, "stepping": 0.3, "validating": 0.02, "saving": 0.02}
"""The phases of a process, and within how many seconds of being in one it is killed."""
STEPPED = ("stepping", "validating", "saving")
SIGNALS = (signal.SIGKILL, signal.SIGTERM)
DAMAGES = ("truncated", "with a byte flipped", "deleted")
CONFIG: dict[str, Any] = {
    "data": {"pairs": [["Parotid_L", "Parotid_R"], ["Submandibular_L", "Submandibular_R"]]},
    "prepare": {"intensity": "window", "window": [-200, 400], "shape": SIDES},
    "model": {"base_channels": 2, "kernel_size": 3, "dropout": 0.2},
    "loss": {"regions": 4},
    "train": {"epochs": EPOCHS, "batch_size": 1, "validate_every": 2},
}
Turns = Iterator[tuple[str, signal.Signals]]
Lines = list[dict[str, Any]]


class Child(NamedTuple):
    """A process of `ars-jax train`.

    Attributes:
        run: its run folder.
        process: itself.
        begins: from which byte on the lines of metrics.jsonl are its own.
        out: what it prints.
        err: what it complains of.
    """

    run: Path
    process: subprocess.Popen
    begins: int
    out: Path
    err: Path


def main() -> int:
    """Trains, kills, resumes, compares and prints what was counted."""
    arguments = parse()
    out: Path = arguments.out
    write_phantoms(out / "data", CASES)
    (out / "config.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    draw, counts = random.Random(arguments.seed), Counter[str]()
    straight = start(out, out / "straight", 0)
    faults = [told(straight, "the uninterrupted training failed")] if straight.process.wait() else []
    turns, damages, number = drawn_turns(draw), itertools.cycle(DAMAGES), 0

    def wanted() -> bool:
        return counts["kills"] < arguments.kills or counts["damaged checkpoints"] < arguments.damages

    while wanted() and not faults:
        number += 1
        run = out / f"killed_{number}"
        while not faults and not is_ended(run):
            turn = next(turns) if wanted() else None
            faults += attempt(out, run, turn, damages, draw, counts)
        count_steps(run, counts)
        faults += [] if faults else [f"{run.name}: {difference}" for difference in differences(straight.run, run)]
    show(counts)
    print(f"{number} run(s) equal to the uninterrupted one: {'no' if faults else 'yes, bit for bit'}")
    print(*faults, sep="\n")
    return 1 if faults else 0


def drawn_turns(draw: random.Random) -> Turns:
    """Phases and signals, each pair as often as the others."""
    while True:
        pairs = list(itertools.product(DELAYS, SIGNALS))
        draw.shuffle(pairs)
        yield from pairs


def attempt(
    out: Path,
    run: Path,
    turn: tuple[str, signal.Signals] | None,
    damages: Iterator[str],
    draw: random.Random,
    counts: Counter[str],
) -> list[str]:
    """One process, which is killed if there is a turn for it; counts what happened, returns what should not have."""
    counts["processes"] += 1
    target, kind = turn or ("the end", None)
    hurt = None
    if target in STEPPED and len(saved_steps(run)) > 1 and draw.random() < 0.5:
        hurt = damage(run, how := next(damages), draw)
        counts.update(["damaged checkpoints", f"checkpoint {how}"])
    if target == "preparing":  # else there is nothing to prepare
        for path in (run / "cache").glob("*.npz"):
            path.unlink()
    child = start(out, run, counts["processes"])
    phase = kill(child, target, kind, draw) if kind else None
    try:
        status: int | None = child.process.wait(HUNG_S)
    except subprocess.TimeoutExpired:
        child.process.kill()
        status = child.process.wait() and None
    if kind and phase:
        counts.update(["kills", f"{kind.name} {phase}"])
    counts[f"exit {status}"] += 1
    killed = f"{kind.name} while {phase} (aimed at {target})" if kind and phase else "not killed"
    print(f"{counts['processes']:3d}: {killed}: exit {status}, at step {last_step(run)}", flush=True)
    found = [fault_of(child, kind, phase, status), hurt and fault_after(child, *hurt)]
    return [told(child, f"{killed}: {fault}") for fault in found if fault]


def start(out: Path, run: Path, number: int) -> Child:
    """Starts a process of `ars-jax train`."""
    command = [Path(sys.executable).with_name("ars-jax"), "train", "--config", out / "config.yaml", "--resume"]
    command += ["--data.root", out / "data", "--run.dir", run, "--compiled", out / "compiled"]
    shown, errors = (out / "logs" / f"{run.name}_{number:03d}.{end}" for end in ("out", "err"))
    shown.parent.mkdir(exist_ok=True)
    metrics = run / "metrics.jsonl"
    begins = metrics.read_bytes().rfind(b"\n") + 1 if metrics.is_file() else 0
    with shown.open("w", encoding="utf-8") as one, errors.open("w", encoding="utf-8") as other:
        return Child(run, subprocess.Popen(command, stdout=one, stderr=other), begins, shown, errors)


def kill(child: Child, target: str, kind: signal.Signals, draw: random.Random) -> str | None:
    """Waits until the process is in a phase and kills it; returns what it truly was doing, None if it ended before."""
    steps, delay = draw.randrange(12) if target in STEPPED else 0, draw.uniform(0, DELAYS[target])
    while child.process.poll() is None:
        phase = phase_of(child)
        # An early phase that went by unseen does not come again.
        if phase == target or (target not in STEPPED and phase in itertools.dropwhile(target.__ne__, DELAYS)):
            if sum(line["kind"] == "train" for line in lines_of(child.run, child.begins)) >= steps:
                break
        time.sleep(0.002)
    time.sleep(delay)
    phase = phase_of(child)
    if child.process.poll() is not None:
        return None
    child.process.send_signal(kind)
    return phase


def phase_of(child: Child) -> str:
    """What a process is doing, as far as its files tell."""
    run, lines = child.run, lines_of(child.run, child.begins)
    if not lines:
        prepared, taken = (held_since(lock, child.process) for lock in (run / "cache" / ".lock", run / ".lock"))
        return "imports" if not prepared else "compiling" if taken > prepared else "preparing"
    if lines[-1]["kind"] in ("stop", "end"):
        return "ending"
    if any((run / "checkpoints").glob("*-tmp")):  # those of an earlier process are deleted before the first line
        return "saving"
    cases = next(line["training_cases"] for line in lines if line["kind"] == "start")
    validates = lines[-1]["kind"] == "train" and lines[-1]["step"] % (CONFIG["train"]["validate_every"] * cases) == 0
    return "validating" if validates else "stepping"


def held_since(lock: Path, process: subprocess.Popen) -> int:
    """When a process took a lock that it holds or was the last to hold; 0 if it was another one."""
    if lock.is_file() and lock.read_text(encoding="utf-8").startswith(f"process {process.pid} on "):
        return lock.stat().st_mtime_ns
    return 0


def fault_of(child: Child, kind: signal.Signals | None, phase: str | None, status: int | None) -> str | None:
    """What is not as promised in how a process ended."""
    lines = lines_of(child.run, child.begins)
    ended = bool(lines) and lines[-1]["kind"] == "end"
    promised = {0} if phase is None or ended else set()
    if kind and phase:
        promised |= {-signal.SIGKILL} if kind is signal.SIGKILL else {STOPPED}
        # Before there are handlers and after they are gone the system ends a process.
        promised |= {-kind} if phase in ("imports", "ending") else set()
    if status not in promised:
        return f"hung for {HUNG_S} s" if status is None else f"exit {status}, promised {sorted(promised)}"
    if "Traceback" in child.err.read_text(encoding="utf-8"):
        return "a traceback"
    if status == STOPPED and phase in STEPPED and not is_saved(child.run):
        return f"no checkpoint of the last step, {last_step(child.run)}"
    return None


def saved_steps(run: Path) -> list[int]:
    """The steps of whole checkpoints."""
    return sorted(int(path.name) for path in (run / "checkpoints").glob("*") if path.name.isdigit())


def damage(run: Path, how: str, draw: random.Random) -> tuple[int, int]:
    """Damages a file of the newest checkpoint's arrays; returns its step and the step of the one before."""
    *_, before, newest = saved_steps(run)
    folders = [run / "checkpoints" / str(newest) / item for item in ("model", "training")]
    digested = {folder: json.loads((folder / "digests.json").read_text(encoding="utf-8")) for folder in folders}
    files = [folder / name for folder, digests in digested.items() for name in ("digests.json", *digests)]
    path = draw.choice([path for path in files if path.stat().st_size])
    content = bytearray(path.read_bytes())
    if how == "deleted":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(content[: draw.randrange(len(content))])
    else:
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        path.write_bytes(content)
    print(f"     checkpoint {path.relative_to(run / 'checkpoints')} {how}", flush=True)
    return newest, before


def fault_after(child: Child, damaged: int, before: int) -> str | None:
    """What is not as promised in how a process dealt with a damaged checkpoint."""
    shown, lines = child.out.read_text(encoding="utf-8"), lines_of(child.run, child.begins)
    if f"checkpoint {damaged} is damaged (" not in shown or f"going on from {before}" not in shown:
        return f"nothing said of the damaged checkpoint {damaged}, or of the one before, {before}:\n{shown}"
    first = lines[0]["step"] if lines else "nowhere"
    return None if first == before else f"went on from {first} instead of {before}"


def told(child: Child, fault: str) -> str:
    """A fault with what the process complained of."""
    return f"{child.run.name}: {fault}; {child.err}:\n{child.err.read_text(encoding='utf-8')}"


def lines_of(run: Path, begins: int = 0) -> Lines:
    """The whole lines of metrics.jsonl, from a byte on."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    with path.open("rb") as file:
        file.seek(begins)
        return [json.loads(line) for line in file if line.endswith(b"\n")]


def last_step(run: Path) -> int:
    """The last step that is recorded, 0 before the first."""
    return max((line.get("step", 0) for line in lines_of(run)), default=0)


def is_ended(run: Path) -> bool:
    """Whether all steps were taken."""
    return any(line["kind"] == "end" for line in lines_of(run)[-1:])


def is_saved(run: Path) -> bool:
    """Whether the last line says that the training was stopped, after a step of which there is a checkpoint."""
    last = lines_of(run)[-1]
    return last["kind"] == "stop" and last["step"] in saved_steps(run)


def count_steps(run: Path, counts: Counter[str]) -> None:
    """Counts the steps that were taken, and those that were taken again since they were not saved."""
    furthest = 0
    for line in lines_of(run):
        if line["kind"] == "start" and line["step"]:
            counts["resumed from a checkpoint"] += 1
        if line["kind"] == "train":
            counts["steps taken"] += 1
            counts["steps taken again"] += line["step"] <= furthest
            furthest = max(furthest, line["step"])


def show(counts: Counter[str]) -> None:
    """Prints the kills as a table, and everything else."""
    print(f"\n{'killed while':14s}", *(f"{kind.name:>8s}" for kind in SIGNALS))
    for phase in (*DELAYS, "ending"):
        print(f"{phase:14s}", *(f"{counts[f'{kind.name} {phase}']:8d}" for kind in SIGNALS))
    for name, count in sorted(counts.items()):
        if not name.startswith("SIG"):
            print(f"{count:6d}  {name}")


def differences(straight: Path, run: Path) -> list[str]:
    """What of a run is not as in the uninterrupted one."""
    one, other = arrays(straight), arrays(run)
    found = [] if one.keys() == other.keys() else ["other arrays"]
    found += [name for name in one.keys() & other.keys() if not np.array_equal(one[name], other[name], equal_nan=True)]
    for kind, keys in (("train", ("step", "loss", "parts")), ("validation", ("step", "dsc", "mean_dsc"))):
        first, second = (latest_steps(read_metrics(folder / "metrics.jsonl"), kind) for folder in (straight, run))
        if [[line[key] for key in keys] for line in first] != [[line[key] for key in keys] for line in second]:
            found.append(f"{kind} lines of metrics.jsonl")
    return found


def arrays(run: Path) -> dict[str, np.ndarray]:
    """Every array of the last checkpoint: parameters, running statistics, moments, step and key."""
    config, plan = read_config(run / "config.yaml"), read_plan(run / "plan.json")
    model = make_model(config.model, len(plan.labels) + 1)
    state = state_shapes(model, make_optimizer(config.optim, last_step(run)))
    lying = replicated(make_mesh(1))
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=lying), checkpoint_items(state))
    with checkpoints(run / "checkpoints", read_only=True) as manager:
        restored = restore(manager, find_step(manager, "newest"), like)
    restored["training"]["key"] = jax.random.key_data(restored["training"]["key"])
    leaves = jax.tree_util.tree_leaves_with_path(restored)
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves}


def parse() -> argparse.Namespace:
    """Reads the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder for data, runs and logs; a new one")
    parser.add_argument("--kills", type=int, default=24, help="at least so many, over all runs")
    parser.add_argument("--damages", type=int, default=3, help="damage at least so many checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="decides order, delays and damages")
    arguments = parser.parse_args()
    arguments.out = arguments.out.absolute()
    if (arguments.out / "data").exists():
        parser.error(f"{arguments.out} has been used: name a new folder")
    arguments.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("TERM", "dumb")
    logging.getLogger("absl").setLevel(logging.ERROR)  # of orbax, which says what it was asked for
    return arguments


if __name__ == "__main__":
    sys.exit(main())
