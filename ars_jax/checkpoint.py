"""Checkpoints by orbax: the newest and the best by validation DSC, each with its configuration and plan."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from ars_jax.errors import UserError

Which = Literal["best", "newest"]

Checkpoints = ocp.CheckpointManager
"""An open folder of checkpoints."""


@contextmanager
def checkpoints(folder: Path) -> Iterator[Checkpoints]:
    """Opens a folder of checkpoints; leaving the block waits until everything is written.

    Args:
        folder: made if need be.

    Yields:
        A manager that keeps the newest checkpoint and the one with the highest `mean_dsc`.
    """

    def mean_dsc(metrics: Any) -> float:
        return metrics["mean_dsc"]

    policy = checkpoint_managers.AnyPreservationPolicy(
        [checkpoint_managers.LatestN(1), checkpoint_managers.BestN(get_metric_fn=mean_dsc, n=1)]
    )
    options = ocp.CheckpointManagerOptions(preservation_policy=policy, best_fn=mean_dsc, best_mode="max")
    with ocp.CheckpointManager(folder.absolute(), options=options) as manager:
        yield manager


def has_checkpoint(folder: Path) -> bool:
    """Whether a folder holds a finished checkpoint; what a kill left behind does not count."""
    return folder.is_dir() and any(entry.name.isdigit() for entry in folder.iterdir())


def save(manager: Checkpoints, step: int, items: Mapping[str, Any], meta: Mapping[str, Any], mean_dsc: float) -> None:
    """Saves in the background; the arrays may be donated as soon as this returns.

    Args:
        manager: from `checkpoints`.
        step: number of the step that the state has reached.
        items: pytrees of arrays, each of which can be restored without the others.
        meta: configuration and plan, as JSON takes them.
        mean_dsc: what decides the best, within [0, 1].
    """
    saved = {name: ocp.args.StandardSave(item) for name, item in items.items()}
    arguments = ocp.args.Composite(**saved, meta=ocp.args.JsonSave(dict(meta)))
    # Without force an existing step is silently not saved.
    manager.save(step, args=arguments, metrics={"mean_dsc": mean_dsc}, force=True)


def find_step(manager: Checkpoints, which: Which) -> int:
    """Finds the newest or the best checkpoint.

    Args:
        manager: from `checkpoints`.
        which: "newest" or "best".

    Returns:
        Its step.

    Raises:
        UserError: there is none.
    """
    step = manager.best_step() if which == "best" else manager.latest_step()
    if step is None:
        fix = "train first, or check the path"
        raise UserError(manager.directory, found="no checkpoint", wanted="at least one", fix=fix)
    return step


def restore(manager: Checkpoints, step: int, like: Mapping[str, Any]) -> dict[str, Any]:
    """Restores some or all items of a checkpoint.

    Args:
        manager: from `checkpoints`.
        step: from `find_step`.
        like: for each wanted item a pytree of `jax.ShapeDtypeStruct` with shardings, or of arrays; the result lies as
            it says.

    Returns:
        The saved items, bit for bit.

    Raises:
        UserError: the checkpoint is damaged or belongs to another network.
    """
    wanted = {name: ocp.args.StandardRestore(item) for name, item in like.items()}
    try:
        with _late_reads_ignored():
            restored = manager.restore(step, args=ocp.args.Composite(**wanted))
    except (ValueError, KeyError, OSError) as error:
        raise UserError(
            manager.directory / str(step),
            found=" ".join(str(error).split())[:200],
            wanted="a whole checkpoint of the configured network",
            fix="use the run's own configuration, or train again",
        ) from error
    return {name: restored[name] for name in like}


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
