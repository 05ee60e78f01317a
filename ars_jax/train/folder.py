"""A run's folder: who may work in it, and with what."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ars_jax.checkpoint import has_checkpoint
from ars_jax.config import Config, to_dict, to_yaml
from ars_jax.data.plan import read_plan, write_plan
from ars_jax.data.splits import ROLES
from ars_jax.errors import UserError
from ars_jax.files import drop_temporaries, written_atomically
from ars_jax.locks import holder, locked
from ars_jax.options import read_config
from ars_jax.train.inputs import Inputs, read_split, write_split

LOCK = ".lock"
"""Within the run's folder."""


@contextmanager
def run_lock(folder: Path, tell: Callable[[str], None] | None = None) -> Iterator[None]:
    """Keeps other processes from working on a run, where the file system has locks.

    Args:
        folder: of the run.
        tell: is called with one line where nothing can keep them from it.

    Yields:
        Nothing.

    Raises:
        UserError: another process is at work there.
    """
    with locked(folder / LOCK, required=False) as free:
        if free is False:
            found, fix = f"another training at work: {holder(folder / LOCK)}", "wait for it, stop it, or --run.dir NEW"
            raise UserError(folder, found=found, wanted="one training", fix=fix)
        if free:
            drop_leftovers(folder)
        elif tell:
            tell(f"{folder} cannot be locked: see to it that no other training works there")
        yield


def drop_leftovers(folder: Path) -> None:
    """Deletes the temporaries of a training that was killed.

    Args:
        folder: of the run, whose lock is held.
    """
    drop_temporaries(folder)
    drop_temporaries(folder / "maps")


def check_taken(folder: Path, resume: bool) -> None:
    """Refuses a folder with checkpoints that are not to be gone on with, or cannot be.

    Args:
        folder: of the run.
        resume: whether it is to be gone on with.

    Raises:
        UserError: there is a run, or what is there is none.
    """
    trained = has_checkpoint(folder / "checkpoints")
    if trained and not resume:
        raise UserError(folder, found="a run", wanted="a new folder", fix="--run.dir NEW, or --resume to go on")
    if trained and not (folder / "config.yaml").is_file():
        fix = "restore config.yaml, or train into another folder"
        raise UserError(folder, found="checkpoints without config.yaml", wanted="a run to go on with", fix=fix)


def check_same_config(config: Config) -> None:
    """Holds a configuration against that of the run in its folder; places, the mesh and the maps' rhythm may differ.

    Args:
        config: the configuration now.

    Raises:
        UserError: the first key that the run was begun with otherwise.
    """
    saved = config.run.dir / "config.yaml"
    _check_same(saved, to_dict(read_config(saved)), to_dict(config))


def _check_same(path: Path, old: Any, new: Any, key: str = "") -> None:
    if key in ("data.root", "data.cache", "run.dir", "train.maps_every", "train.stall_s", "mesh"):
        return
    if isinstance(old, Mapping) and isinstance(new, Mapping) and set(old) == set(new):
        for name in old:
            _check_same(path, old[name], new[name], f"{key}.{name}" if key else name)
    elif old != new:
        fix = "resume with the run's own config.yaml"
        raise UserError(f"{path} {key}", found=f"{new} now", wanted=f"{old}, as the run began", fix=fix)


def write_setup(config: Config, inputs: Inputs) -> None:
    """Writes what prediction and evaluation need to know: config.yaml, plan.json and split.json.

    Args:
        config: of the run.
        inputs: its cases and plan.

    Raises:
        UserError: the folder cannot be written.
    """
    with written_atomically(config.run.dir / "config.yaml") as temporary:
        temporary.write_text(to_yaml(config), encoding="utf-8")
    write_plan(config.run.dir / "plan.json", inputs.plan)
    write_split(config.run.dir / "split.json", inputs.split)


def check_same_inputs(folder: Path, inputs: Inputs) -> None:
    """Holds the prepared cases against those that the run was begun with.

    Args:
        folder: of the run.
        inputs: the cases now.

    Raises:
        UserError: others, or another plan.
    """
    plan, split = read_plan(folder / "plan.json"), read_split(folder / "split.json")
    for role in ROLES:
        old, new = split.get(role, {}), inputs.split.get(role, {})
        if old != new:
            changed = sorted(name for name, _ in {*old.items()} ^ {*new.items()})
            found = f"other {role} cases than the run began with: {', '.join(dict.fromkeys(changed))}"
            raise UserError(folder, found=found, wanted="the same cases, unchanged", fix="restore them, or train anew")
    if plan != inputs.plan:
        raise UserError(folder / "plan.json", found="another plan", wanted="the run's own", fix="restore it")
