"""Checkpoints by orbax: the two newest and the best by validation DSC, each with its configuration and plan.

A checkpoint gets its name when it is whole, so that a kill leaves none cut short. What happens to the files later, the
format does not always notice (bytes changed within the arrays it does not), so each item has the digests of its files.
"""

import errno
import hashlib
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers
from orbax.checkpoint.path import atomicity

from ars_jax.errors import UserError
from ars_jax.processes import is_lost

Which = Literal["best", "newest"]

DIGESTS = "digests.json"
"""In the folder of each item: its files and their SHA-256."""

_OF_DAMAGE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)
"""Errors that a file's own state causes; others, such as of rights, disks or too many open files, are the machine's."""


class Checkpoints(ocp.CheckpointManager):
    """An open folder of checkpoints."""

    def metrics(self, step: int) -> Any:
        """The score that a checkpoint was saved with; None for one without, or with one that cannot be read."""
        with suppress(ValueError, OSError, RecursionError):
            metrics = super().metrics(step)
            if isinstance(metrics, dict) and isinstance(metrics.get("mean_dsc"), int | float):
                return metrics
        return None


class _Digested(atomicity.AtomicRenameTemporaryPath):
    """Writes the digests of an item before its folder gets its name."""

    async def finalize(self) -> None:
        folder = Path(self.get())
        if not self.get_final().name.isdigit():  # the folder of the whole checkpoint, whose items have theirs
            (folder / DIGESTS).write_text(json.dumps(_digests(folder)), encoding="utf-8")
        await super().finalize()


@contextmanager
def checkpoints(folder: Path, *, read_only: bool = False) -> Iterator[Checkpoints]:
    """Opens a folder of checkpoints; leaving the block waits until everything is written.

    Args:
        folder: made if need be; what a kill left half-written in it is deleted.
        read_only: change nothing, because a training may be at work there.

    Yields:
        A manager that keeps the two newest checkpoints and the one with the highest `mean_dsc`.

    Raises:
        UserError: a checkpoint could not be written.
    """

    def mean_dsc(metrics: Any) -> float:
        return metrics["mean_dsc"]

    best = checkpoint_managers.BestN(get_metric_fn=mean_dsc, n=1, keep_checkpoints_without_metrics=False)
    options = ocp.CheckpointManagerOptions(
        preservation_policy=checkpoint_managers.AnyPreservationPolicy([checkpoint_managers.LatestN(2), best]),
        best_fn=mean_dsc,
        best_mode="max",
        temporary_path_class=_Digested,
        read_only=read_only,
        cleanup_tmp_directories=not read_only,
    )
    try:
        manager = Checkpoints(folder.absolute(), options=options)
    except (ValueError, TypeError, AttributeError) as error:
        wanted, fix = "a folder of checkpoints", "remove the damaged one, or train again"
        raise UserError(folder, found=error, wanted=wanted, fix=fix) from error
    try:
        yield manager
    except BaseException:
        with suppress(Exception):  # what went wrong first is told
            manager.close()
        raise
    with _failure_told(manager):
        manager.close()


def has_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a finished checkpoint; what a kill left behind does not count."""
    return folder.is_dir() and bool(_steps(folder))


def _steps(folder: Path) -> list[int]:
    return [int(entry.name) for entry in folder.iterdir() if entry.name.isdecimal()]


def set_damaged_aside(folder: Path, items: Iterable[str]) -> tuple[int, dict[int, str]]:
    """Finds the newest checkpoint that is whole, and renames all that are not: 3 becomes 3.damaged.

    Also where only the score is damaged, without which the best would be taken for any other, and deleted.

    Of several processes one calls this, before any opens the folder.

    Args:
        folder: of checkpoints, at least one.
        items: names of those that have to be whole.

    Returns:
        Its step, and what was wrong with those that were renamed, by step.

    Raises:
        UserError: all are damaged; none is renamed.
        OSError: what is there cannot be read or renamed.
    """
    _drop_damaged_times(folder)
    damaged: dict[int, str] = {}
    for step in (steps := sorted(_steps(folder), reverse=True)):
        if reason := _damage(folder / str(step), items) or _damage_of_score(folder / str(step)):
            damaged[step] = reason
    if len(damaged) == len(steps):
        raise _damaged(folder, "; ".join(f"checkpoint {step}: {reason}" for step, reason in damaged.items()))
    for step in damaged:
        aside = folder / f"{step}.damaged"
        shutil.rmtree(aside, ignore_errors=True)  # of an earlier time
        (folder / str(step)).rename(aside)
    return max({*steps} - {*damaged}), damaged


def _drop_damaged_times(folder: Path) -> None:
    """Deletes what only says when a checkpoint was written where orbax would stumble over it."""
    for path in folder.glob("*/_CHECKPOINT_METADATA"):
        try:
            whole = isinstance(json.loads(path.read_bytes()), dict)
        except (ValueError, RecursionError):
            whole = False
        if not whole:
            path.unlink(missing_ok=True)


def save(
    manager: Checkpoints, step: int, items: Mapping[str, Any], meta: Mapping[str, Any], mean_dsc: float | None
) -> None:
    """Saves in the background; the arrays may be donated as soon as this returns.

    Args:
        manager: from `checkpoints`.
        step: number of the step that the state has reached.
        items: pytrees of arrays, each of which can be restored without the others.
        meta: configuration and plan, as JSON takes them.
        mean_dsc: what decides the best, within [0, 1]; None for a checkpoint that was not validated and is never it.

    Raises:
        UserError: this checkpoint or the one before could not be written.
    """
    saved = {name: ocp.args.StandardSave(item) for name, item in items.items()}
    arguments = ocp.args.Composite(**saved, meta=ocp.args.JsonSave(dict(meta)))
    metrics = None if mean_dsc is None else {"mean_dsc": mean_dsc}
    with _failure_told(manager):
        # Without force an existing step is silently not saved.
        manager.save(step, args=arguments, metrics=metrics, force=True)


def check_saved(manager: Checkpoints, *, wait: bool = False) -> None:
    """Holds that what was saved in the background was written.

    Args:
        manager: from `checkpoints`.
        wait: until it is written; else a save that is not finished is left alone.

    Raises:
        UserError: it could not be written.
    """
    with _failure_told(manager):
        if wait or not manager.is_saving_in_progress():
            manager.wait_until_finished()


@contextmanager
def _failure_told(manager: Checkpoints) -> Iterator[None]:
    """Turns what a disk that is full or gone raises, here or in the background, into one line."""
    try:
        yield
    except (OSError, ValueError) as error:
        if is_lost(error):  # not the disk, but another process
            raise
        full = "No space left on device" in str(error)
        found = "no space left on the device" if full else f"{type(error).__name__}: {error}"
        wanted = "room for a checkpoint" if full else "a place for checkpoints"
        fix = "make room or mend the disk; the same command with --resume goes on from the checkpoint before"
        raise UserError(manager.directory, found=found, wanted=wanted, fix=fix) from error


def find_step(manager: Checkpoints, which: Which) -> int:
    """Finds the newest or the best checkpoint.

    Args:
        manager: from `checkpoints`.
        which: "newest" or "best".

    Returns:
        Its step.

    Raises:
        UserError: there is none, or it cannot be told which is the best.
    """
    for other in manager.all_steps() if which == "best" else ():
        folder = _folder(manager, other)
        if reason := _damage_of_score(folder):
            raise _damaged(folder, reason)
    step = manager.best_step() if which == "best" else manager.latest_step()
    if step is None and which == "best" and manager.all_steps():
        fix = "go on training, or choose --checkpoint newest"
        raise UserError(manager.directory, found="no validated checkpoint", wanted="at least one", fix=fix)
    if step is None:
        fix = "train first, or check the path"
        raise UserError(manager.directory, found="no checkpoint", wanted="at least one", fix=fix)
    return step


def restore(manager: Checkpoints, step: int, like: Mapping[str, Any], *, checked: bool = False) -> dict[str, Any]:
    """Restores some or all items of a checkpoint.

    Args:
        manager: from `checkpoints`.
        step: from `find_step` or `set_damaged_aside`.
        like: for each wanted item a pytree of `jax.ShapeDtypeStruct` with shardings, or of arrays; the result lies as
            it says.
        checked: whether it is known that they are whole.

    Returns:
        The saved items, bit for bit.

    Raises:
        UserError: the checkpoint is damaged or belongs to another network.
        OSError: files that are whole could not be read, as where too many are open.
    """
    folder = _folder(manager, step)
    if not checked and (reason := _damage(folder, like)):
        raise _damaged(folder, reason)
    wanted = {name: ocp.args.StandardRestore(item) for name, item in like.items()}
    try:
        with _late_reads_ignored():
            restored = manager.restore(step, args=ocp.args.Composite(**wanted))
    except (jax.errors.JaxRuntimeError, MemoryError):
        raise
    except Exception as error:  # what a damaged file without digests makes orbax raise is of any kind
        if isinstance(error, OSError) and _has_digests(folder):
            raise
        raise _damaged(folder, f"{type(error).__name__}: {' '.join(str(error).split())[:200]}") from error
    return {name: restored[name] for name in like}


def _damaged(folder: Path, reason: str) -> UserError:
    wanted = "a whole checkpoint of the configured network"
    fix = "use the run's own configuration, or another checkpoint, or train again"
    return UserError(folder, found=reason, wanted=wanted, fix=fix)


def _folder(manager: Checkpoints, step: int) -> Path:
    return Path(manager.directory) / str(step)


def _damage(folder: Path, items: Iterable[str]) -> str | None:
    """What is wrong with the files of a checkpoint's items; without digests most damage shows when they are read."""
    digested = _has_digests(folder)
    return next((reason for name in items if (reason := _damage_of_item(folder / name, digested))), None)


def _damage_of_score(folder: Path) -> str | None:
    """What is wrong with a checkpoint's score, which not every one has."""
    return _damage(folder, ["metrics"]) if (folder / "metrics").exists() else None


def _has_digests(folder: Path) -> bool:
    """Whether a checkpoint has digests, which earlier versions did not write; with one item of it, all have them."""
    return any(folder.glob(f"*/{DIGESTS}"))


def _damage_of_item(folder: Path, digested: bool) -> str | None:
    if not folder.is_dir():
        return f"{folder.name} is missing"
    if not digested:
        return None if any(folder.iterdir()) else f"{folder.name} is empty"
    name = DIGESTS
    try:
        digests = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
        if not digests:
            raise ValueError
        for name, digest in digests.items():
            if _digest(folder / name) != digest:
                return f"{folder.name}/{name} is not as it was written"
    except (ValueError, AttributeError, RecursionError):
        return f"{folder.name}/{DIGESTS} is damaged"
    except OSError as error:
        if error.errno not in _OF_DAMAGE:
            raise
        return f"{folder.name}/{name} is missing or cannot be read"
    return None


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _digest(path) for path in files}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _late_reads_ignored() -> Iterator[None]:
    """Keeps quiet about reads that end after orbax gave up, hundreds of which Python would report one by one.

    They end whenever they end, so after a failure it stays so.
    """
    report = sys.unraisablehook

    def report_others(news: Any) -> None:
        if "Event loop is closed" not in str(news.exc_value):
            report(news)

    sys.unraisablehook = report_others
    yield
    sys.unraisablehook = report
