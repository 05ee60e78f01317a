"""What becomes of a command that is given bad input: refused in one line, taken whole, or a fault of ours."""

import contextlib
import functools
import gc
import io
import itertools
import json
import os
import shutil
import signal
import traceback
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from ars_jax import cli, options, predict
from ars_jax.checkpoint import checkpoints, save
from ars_jax.cli import main
from ars_jax.config import to_dict, with_absolute_paths
from ars_jax.data.geometry import Geometry
from ars_jax.data.plan import read_plan
from ars_jax.data.volumes import Volume, read_volume, write_volume
from ars_jax.errors import UserError
from ars_jax.metrics import table
from ars_jax.options import read_config
from ars_jax.train import loop
from ars_jax.train.state import TrainState, checkpoint_items
from ars_jax.train.step import make_optimizer
from tests.bad.files import ABSOLUTE
from tests.data.synthetic import LABELS
from tests.small_runs import random_network, write_config

SECONDS = 60
"""What no command here may take, not even on a machine that is busy; a hundred times what it takes."""

GRID = Geometry((8, 8, 8), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))


@dataclass(frozen=True)
class Attempt:
    """A command and the files that it meets.

    Attributes:
        words: of the command; {tmp}, {data} and {run} stand for folders.
        files: path below {tmp} to bytes, to "folder", "loop" (a link to itself), "locked" (no rights) or "gone".
        copies: folders of the base, "data", "run", "trained" or "cache", that are copied to {tmp} first.
        wanted: what has to become of it, "refused" or "taken", and what has to be said; empty where either may be.
    """

    words: tuple[str, ...]
    files: dict[str, bytes | str] = field(default_factory=dict)
    copies: tuple[str, ...] = ()
    wanted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of an attempt.

    Attributes:
        kind: "refused" (status 2 and one line), "taken" or one of FAULTS: "untold" (another number of lines), "other"
            (not what was wanted), "traceback" or "hung".
        text: the line, or the traceback.
        half: outputs that are not whole, and changed inputs.
        outside: what lies where nothing was to be written.
    """

    kind: str
    text: str
    half: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()

    @property
    def faulty(self) -> bool:
        """Whether the command is at fault, and not the input."""
        return self.kind in FAULTS or bool(self.half or self.outside)


FAULTS = ("untold", "other", "traceback", "hung")
_OUTPUTS = ("--out", "--run.dir", "--data.cache", "--json", "--repair")


class _EnoughError(BaseException):
    """The inputs were taken; what comes now takes long and was tested elsewhere."""


class _HungError(BaseException):
    """A command took longer than any does."""


def write_base(base: Path) -> Path:
    """Writes what attempts start from: a data set of four small cases, and two runs that were never trained."""
    rng = np.random.default_rng(0)
    for index in range(4):
        label = np.zeros(GRID.shape, np.uint8)
        label[2:5, 2:6, 1:4], label[2:5, 2:6, 5:7] = LABELS.values()
        image = (100 * label + rng.normal(0, 20, GRID.shape)).astype(np.int16)
        write_volume(base / "data" / "images" / f"case_{index}.nii", Volume(image, GRID))
        write_volume(base / "data" / "labels" / f"case_{index}.nii", Volume(label, GRID))
    (base / "data" / "labels.json").write_text(json.dumps(LABELS), encoding="utf-8")
    path = write_config(base / "config.yaml", base / "data", base / "run", loss={"regions": 2})
    with running_short(), contextlib.suppress(_EnoughError):
        main(["train", "--config", str(path), "--data.cache", str(base / "cache")])
    run, config = base / "run", with_absolute_paths(read_config(path))
    network = random_network(read_plan(run / "plan.json"))
    lines = [
        {"kind": "start", "seed": 0},
        {"kind": "train", "step": 1, "epoch": 0.5, "total": 1.0, "parts": {"dice": 0.5}},
        {"kind": "validation", "step": 1, "epoch": 1, "dsc": {"Ball_L": 0.5, "Ball_R": None}, "mean_dsc": 0.5},
    ]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    meta = {"config": to_dict(config), "plan": {}}
    variables = {"params": network.params, "batch_stats": network.batch_stats}
    with checkpoints(run / "checkpoints") as manager:
        save(manager, 1, {"model": variables}, meta, 0.5)
    label = read_volume(base / "data" / "labels" / "case_0.nii")
    label = Volume((label.array // 3).astype(np.uint8), label.geometry)  # 3 and 7 become 1 and 2
    row = table.evaluate_case("case_0", label.array, label.array, GRID.spacing, tuple(LABELS), [True] * 3, "monai", 2.0)
    for folder in ("predictions", "references"):
        write_volume(run / "evaluation" / folder / "case_0.nii.gz", label)
        (run / "evaluation" / folder / "labels.json").write_text('{"Ball_L": 1, "Ball_R": 2}', encoding="utf-8")
    table.write_json(run / "evaluation" / "table.json", row, {})
    entry = {"case": "case_0", "image": str(base / "data" / "images" / "case_0.nii")}
    entry |= {kind: f"evaluation/{kind}s/case_0.nii.gz" for kind in ("prediction", "reference")}
    (run / "evaluation" / "cases.json").write_text(json.dumps([entry]), encoding="utf-8")
    _write_trained(base)
    return base


@contextlib.contextmanager
def running_short(*, restores: bool = False) -> Iterator[None]:
    """Training ends where it has all its inputs, or where it has restored its state."""

    def enough(*_: Any, **__: Any) -> Any:
        raise _EnoughError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "_compile_step", enough)
        if not restores:
            patch.setattr(loop, "checkpoints", enough)
        patch.setattr(cli, "_parser", functools.cache(cli._parser))  # making it takes longer than most attempts
        patch.setattr(options, "_config_parser", functools.cache(options._config_parser))
        yield


def outcome(attempt: Attempt, base: Path, tmp: Path) -> Outcome:
    """Runs an attempt in a new folder and judges what it printed, returned and left."""
    inside = tmp / "a" / "inside"
    inside.mkdir(parents=True)
    _lay(attempt, base, inside)
    before = {**_seen(tmp), **_seen(base)}
    places = {"tmp": str(inside), "data": str(base / "data"), "run": str(base / "run"), "base": str(base)}
    words = list(attempt.words)
    for place, path in places.items():
        words = [word.replace(f"{{{place}}}", path) for word in words]
    kind, text = _run(words, inside, attempt.wanted)
    after = {**_seen(tmp), **_seen(base)}
    for path, content in attempt.files.items():
        if content == "locked" and not (inside / path).is_symlink() and (inside / path).exists():
            (inside / path).chmod(0o600)
    outputs = [Path(value) for word, value in itertools.pairwise(words) if word in _OUTPUTS]
    hurt = {inside / name for path in attempt.files for name in Path(path).parents}
    changed = [path for path, seen in before.items() if after.get(path) != seen]
    new = after.keys() - before.keys()
    half = [f"changed {path}" for path in changed if not _may_change(path, kind, outputs, hurt)]
    half += [f"left {path}" for path in new if not _is_whole(path)]
    return Outcome(kind, text, tuple(half), (*_outside(new, outputs), *_escaped()))


def _may_change(path: Path, kind: str, outputs: list[Path], hurt: set[Path]) -> bool:
    """Whether a file may be another one afterwards, or gone."""
    if path in outputs or path.name in ("metrics.jsonl", ".lock") or (path.parent.name == "cache" and _is_whole(path)):
        return True
    if path.name == "_CHECKPOINT_METADATA":  # says only when it was saved, and is deleted where it is damaged
        return True
    # A damaged checkpoint is set aside, unless there is none to go on from.
    return kind == "taken" and any(part in hurt for part in (path, *path.parents) if part.parent.name == "checkpoints")


def _outside(new: Iterable[Path], outputs: list[Path]) -> list[str]:
    """What is neither an output, nor in one, nor a folder around one."""
    allowed = [*outputs, *(folder for output in outputs for folder in output.parents)]
    return [f"outside {path}" for path in new if path not in allowed and not set(outputs) & {*path.parents}]


def _escaped() -> list[str]:
    place = Path(ABSOLUTE)
    if not os.path.lexists(place):
        return []
    place.unlink() if place.is_file() else shutil.rmtree(place)
    return [f"outside {place}"]


def _lay(attempt: Attempt, base: Path, inside: Path) -> None:
    for name in attempt.copies:
        shutil.copytree(base / name, inside / name)
    for name, content in attempt.files.items():
        path = inside / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content == "folder":
            path.mkdir()
        elif content == "loop":
            path.symlink_to(path.name)
        elif content == "locked":
            path.write_bytes(b"locked")
            path.chmod(0)


def _seen(folder: Path) -> dict[Path, tuple[int, int]]:
    """Every file below a folder with its size and time, and every folder."""
    found = {}
    for place, folders, names in os.walk(folder):
        found |= {Path(place, name): (0, 0) for name in folders}
        for name in names:
            stat = os.lstat(os.path.join(place, name))
            found[Path(place, name)] = stat.st_size, stat.st_mtime_ns
    return found


def _run(words: list[str], inside: Path, wanted: tuple[str, ...]) -> tuple[str, str]:
    shown, errors = io.StringIO(), io.StringIO()
    with contextlib.chdir(inside), contextlib.redirect_stdout(shown), contextlib.redirect_stderr(errors), _limited():
        try:
            status: Any = main(words)
        except _EnoughError:
            status = 0
        except _HungError:
            return "hung", traceback.format_exc()
        except SystemExit as end:  # of --help
            status = 0 if not end.code else f"exit {end.code}"
        except BaseException:
            return "traceback", traceback.format_exc()
        if any(inside.glob("*/checkpoints")):  # whose reads, given up, may complain as late as in another attempt
            gc.collect()
    lines = errors.getvalue().splitlines()
    kind = "taken" if status in (0, 1) and not lines else "untold"
    if status == 2 and len(lines) == 1 and lines[0].startswith("ars-jax: "):
        kind = "refused"
    said = f"status {status}\n{errors.getvalue()}"
    everything = " ".join((shown.getvalue() + errors.getvalue()).split())
    if wanted and (kind != wanted[0] or not all(text in everything for text in wanted[1:])):
        return "other", f"wanted {wanted}\n{said}{shown.getvalue()}"
    return kind, said


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def hung(_: int, __: FrameType | None) -> None:
        raise _HungError

    before = signal.signal(signal.SIGALRM, hung)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _is_whole(path: Path) -> bool:
    """Whether a new file is one that a command may leave, and can be read to its end."""
    if ".tmp" in path.name or path.name.startswith(".evaluation-") or path.name == "EXECUTED":
        return False
    if "checkpoints" in path.parts or "compiled" in path.parts:
        return "orbax-checkpoint-tmp" not in str(path)
    if path.is_dir():
        return True
    with contextlib.suppress(ValueError, OSError, UserError, yaml.YAMLError, zipfile.BadZipFile):
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".yaml":
            yaml.safe_load(path.read_text(encoding="utf-8"))
        elif path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                _ = [arrays[name] for name in arrays.files]
        elif path.name.endswith((".nii", ".nii.gz", ".nrrd", ".mha")):
            read_volume(path)
        elif path.suffix == ".html":
            return "<script>alert" not in path.read_text(encoding="utf-8")
        return True
    return False


@contextlib.contextmanager
def quickly(kind: str, base: Path) -> Iterator[None]:
    """Within the block attempts of a kind cost no more than they have to.

    Prediction of volumes loads no checkpoint and compiles once for all images; what goes on from a checkpoint makes no
    first state.
    """
    network = _network(base)
    with running_short(restores=kind == "resuming"), pytest.MonkeyPatch.context() as patch:
        if kind in ("volumes", "names"):
            patch.setattr(predict, "load_network", lambda *_: network)
        if kind == "resuming":
            state = _state(base)
            patch.setattr(loop, "place_state", lambda _model, _optimizer, _seed, lying: jax.device_put(state, lying))
        gc.freeze()  # so that collecting what an attempt left takes no time
        yield
        gc.unfreeze()


def _network(base: Path) -> predict.Network:
    return random_network(read_plan(base / "run" / "plan.json"))


def _state(base: Path) -> TrainState:
    """Such as a training of the base's configuration begins with."""
    network, optimizer = _network(base), make_optimizer(read_config(base / "config.yaml").optim, 1)
    moments = optimizer.init(network.params)
    return TrainState(jnp.int32(0), network.params, network.batch_stats, moments, jax.random.key(0))


def _write_trained(base: Path) -> None:
    """A second run folder, with checkpoints that can be gone on from: the newest is also the best."""
    folder, state = base / "trained", _state(base)
    shutil.copytree(base / "run", folder, ignore=shutil.ignore_patterns("checkpoints", "evaluation", "metrics.jsonl"))
    with checkpoints(folder / "checkpoints") as manager:
        for step in (1, 2):
            save(manager, step, checkpoint_items(state), {"plan": {}}, step / 4)
