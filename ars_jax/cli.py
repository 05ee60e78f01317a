"""The command line: `ars-jax COMMAND`; what goes wrong is told in one line."""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console

import ars_jax
from ars_jax.arguments import (
    check_arguments,
    demo_arguments,
    evaluate_arguments,
    experiment_arguments,
    gradcheck_arguments,
    gradients_arguments,
    phantom_arguments,
    plan_arguments,
    predict_arguments,
    report_arguments,
    train_arguments,
)
from ars_jax.commands import (
    FaultsShownError,
    check_command,
    demo_command,
    evaluate_command,
    experiment_command,
    gradcheck_command,
    gradients_command,
    phantom_command,
    plan_command,
    predict_command,
    report_command,
    train_command,
)
from ars_jax.errors import StoppedError, as_told
from ars_jax.losses._checks import ObjectiveWarning
from ars_jax.options import as_user_error, make_parser

Command = Callable[[Namespace, Console], None]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv: the words after `ars-jax`; those of the process by default.

    Returns:
        Exit status: 0, 1 where `check` found an error in the data, `gradcheck` a difference beyond its tolerance or
        `experiment` a run without result, 2 for a fault in the input (told in one line), 75 for a training that was
        stopped by SIGTERM, 130 when interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    # Paths and names may hold brackets and colons, which would be read as markup and as emoji.
    console = Console(highlight=False, markup=False, emoji=False)
    errors = Console(stderr=True, highlight=False, soft_wrap=True, markup=False, emoji=False)
    for name in ("absl", "asyncio"):  # what goes wrong when saving is raised as well
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with as_user_error(words):
            arguments = _parser().parse_args(words or ["--help"])
        command, _ = _COMMANDS[arguments.subcommand]
        given = arguments[arguments.subcommand]
        with _ready_for_jax(given), _warnings_in_one_line(errors):
            command(given, console)
    except FaultsShownError:
        return 1
    except Exception as error:
        if (told := as_told(error)) is None:
            raise
        errors.print(f"ars-jax: {told}")
        return 2
    except StoppedError as error:
        errors.print(f"ars-jax: {error.text}{_hint(words, 'the same command with --resume goes on')}")
        return error.STATUS
    except KeyboardInterrupt:
        errors.print(f"ars-jax: interrupted{_hint(words, 'with --resume it goes on')}")
        return 130
    return 0


def _hint(words: Sequence[str], train: str) -> str:
    """How a command that was interrupted goes on, if it does."""
    again = "the same command goes on"
    hints = {"train": again if "--resume" in words else train, "experiment": again, "demo": again}
    return f"; {hints[words[0]]}" if words and words[0] in hints else ""


@contextmanager
def _warnings_in_one_line(errors: Console) -> Iterator[None]:
    """Shows a warning of an objective without the place in the code; others stay as they are."""
    with warnings.catch_warnings():
        shown, told = warnings.showwarning, set()

        def show(message: Warning | str, category: type[Warning], *place: Any) -> None:
            if not issubclass(category, ObjectiveWarning):
                shown(message, category, *place)
            elif str(message) not in told:
                told.add(str(message))
                errors.print(f"ars-jax: warning: {message}")

        warnings.showwarning = show  # pyright: ignore[reportAttributeAccessIssue]
        yield


@contextmanager
def _ready_for_jax(arguments: Namespace) -> Iterator[None]:
    """Compiled programs outlive the commands that have the option for it: those that compile, and run many times."""
    if "compiled" not in arguments:
        yield
        return
    from ars_jax.allocator import keep_freed_memory

    keep_freed_memory()
    from ars_jax.compiled import kept_programs

    with _one_of_several(arguments), kept_programs(arguments.compiled):
        yield


@contextmanager
def _one_of_several(arguments: Namespace) -> Iterator[None]:
    """Joins the other processes, where the command has the options for it."""
    if "processes" not in arguments:
        yield
        return
    from ars_jax.processes import joined

    names = ("coordinator", "processes", "process")
    automatic, timeout = arguments.distributed, arguments.join_timeout
    with joined(**{name: arguments[name] for name in names}, automatic=automatic, timeout=timeout):
        yield


_COMMANDS: dict[str, tuple[Command, Callable[[ArgumentParser], None]]] = {
    "demo": (demo_command, demo_arguments),
    "phantom": (phantom_command, phantom_arguments),
    "check": (check_command, check_arguments),
    "plan": (plan_command, plan_arguments),
    "train": (train_command, train_arguments),
    "experiment": (experiment_command, experiment_arguments),
    "predict": (predict_command, predict_arguments),
    "evaluate": (evaluate_command, evaluate_arguments),
    "report": (report_command, report_arguments),
    "gradcheck": (gradcheck_command, gradcheck_arguments),
    "gradients": (gradients_command, gradients_arguments),
}

_HELP = {
    "demo": "train, evaluate and report on made-up heads and necks, in minutes and without data",
    "phantom": "write a data set of made-up heads and necks",
    "check": "measure a data set and name every fault by file; exit status 1 if there is an error",
    "plan": "compile a training step and say what memory and arithmetic it needs, also for a TPU that is not there",
    "train": "train a V-Net and leave a run folder",
    "experiment": "train objectives x settings x folds x seeds and compare them in tables and figures; exits with 1 if "
    "a run is missing",
    "predict": "write label maps on the images' own grids",
    "evaluate": "score a run, or a folder of label maps, as a table, CSV and JSON",
    "report": "show curves, tables and overlays of runs on one HTML page",
    "gradcheck": "check losses and gradients against closed forms, differences and PyTorch; exits with 1 if any is off",
    "gradients": "show where each objective puts its gradient on a prediction: figures, volumes and numbers",
}


def _parser() -> ArgumentParser:
    description = (
        "Adaptive region-specific losses for 3-D medical image segmentation: train, predict, evaluate, report."
    )
    parser = make_parser(prog="ars-jax", description=description, version=ars_jax.__version__)
    commands = parser.add_subcommands()
    for name, (_, add_arguments) in _COMMANDS.items():
        command = make_parser(description=_HELP[name])
        add_arguments(command)
        commands.add_subcommand(name, command, help=_HELP[name])
    return parser
