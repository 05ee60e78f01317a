"""The command line: `ars-jax COMMAND`. Each command imports what it needs, so that help is instant."""

import logging
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ars_jax.arguments import (
    DEMO_CASES,
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
from ars_jax.config import Config, LossConfig
from ars_jax.errors import StoppedError, UserError
from ars_jax.options import as_user_error, build_config, build_experiment, make_parser, preset, read_config
from ars_jax.ranges import check_config

Command = Callable[[Namespace, Console], None]

DEMO_TEST_CASES = 10


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
        with _ready_for_jax(given):
            command(given, console)
    except UserError as error:
        errors.print(f"ars-jax: {error}")
        return 2
    except _FaultsShownError:
        return 1
    except (OSError, MemoryError) as error:
        errors.print(f"ars-jax: {_told(error)}")
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


def _told(error: OSError | MemoryError) -> UserError:
    """What no file was asked about before it was opened, and no array before it was made."""
    if isinstance(error, MemoryError):
        return UserError("memory", found=error, wanted="enough of it", fix="smaller volumes, canvas or batch")
    thing, found = error.filename or "a file", error.strerror or error
    return UserError(thing, found=found, wanted="what can be read and written", fix="check path and rights")


class _FaultsShownError(Exception):
    """What was checked has faults, which were shown."""


def _demo(arguments: Namespace, console: Console) -> None:
    from ars_jax.checkpoint import has_checkpoint
    from ars_jax.data.phantom import write_phantoms
    from ars_jax.train.loop import train

    out: Path = arguments.out
    run = out / "run"
    config = preset("demo", ["--data.root", str(out / "phantoms"), "--run.dir", str(run), *arguments.options])
    check_config(config)
    text = f"demo: {DEMO_CASES} phantoms to train on and {DEMO_TEST_CASES} unseen ones to score, in {out}"
    console.print(text, soft_wrap=True)
    for name, count, seed in (("phantoms", DEMO_CASES, 0), ("unseen", DEMO_TEST_CASES, 1)):
        if not (out / name / "dataset.json").is_file():
            write_phantoms(out / name, count, seed=seed)
    # A demo that was interrupted, or is run again, goes on where it was.
    train(config, resume=has_checkpoint(run / "checkpoints"), console=console)
    _evaluate_run(run, console, root=out / "unseen")
    _report(Namespace(runs=[run], out=out / "report"), console)


def _phantom(arguments: Namespace, console: Console) -> None:
    from ars_jax.data.phantom import write_phantoms

    console.print(f"wrote {write_phantoms(arguments.out, arguments.cases, seed=arguments.seed)}", soft_wrap=True)


def _check(arguments: Namespace, console: Console) -> None:
    from ars_jax.data.check import examine_dataset
    from ars_jax.data.layouts import find_dataset
    from ars_jax.data.overview import overview, render, write_examination
    from ars_jax.data.repair import check_target, repair_dataset
    from ars_jax.files import check_place

    if arguments.repair_headers and arguments.repair is None:
        wanted = "a folder for the corrected copy"
        raise UserError("--repair_headers", found="no --repair", wanted=wanted, fix="add --repair DIR")
    if arguments.json is not None:
        check_place(arguments.json)
    dataset = find_dataset(arguments.root, layout=arguments.layout, labels=arguments.labels)
    if arguments.repair is not None:
        check_target(dataset.root, arguments.repair)
    with _bar(console, "checking") as update:
        examination = examine_dataset(dataset, update)
    if arguments.json is not None:
        write_examination(arguments.json, examination)
    console.print(render(overview(examination)))
    for fault in examination.faults:
        console.print(str(fault), soft_wrap=True)
    wrong = sum(fault.severity == "error" for fault in examination.faults)
    console.print(
        f"{dataset.root} ({dataset.layout}): {len(dataset.cases)} cases; {', '.join(dataset.labels)}; "
        f"{wrong} errors, {len(examination.faults) - wrong} warnings",
        soft_wrap=True,
    )
    if arguments.json is not None:
        console.print(f"measures in {arguments.json}", soft_wrap=True)
    if arguments.repair is not None:
        with _bar(console, "repairing") as update:
            left = repair_dataset(examination, arguments.repair, headers=arguments.repair_headers, progress=update)
        for fault in left:
            console.print(f"left out: {fault}", soft_wrap=True)
        options = f"--data.layout folders --data.root {shlex.quote(str(arguments.repair))}"
        console.print(f"repaired copy in {arguments.repair}; train on it with {options}", soft_wrap=True)
        wrong = len(left)
    if wrong:
        raise _FaultsShownError


def _train(arguments: Namespace, console: Console) -> None:
    from ars_jax.processes import is_first
    from ars_jax.train.loop import train

    config = build_config(arguments)
    train(config, resume=arguments.resume, console=console)
    if is_first():
        console.print(f"run in {config.run.dir}; next: ars-jax evaluate {config.run.dir}", soft_wrap=True)


def _plan(arguments: Namespace, console: Console) -> None:
    from ars_jax.files import check_place, write_json
    from ars_jax.memory import find_memory, parse_memory
    from ars_jax.plan import (
        POLICIES,
        describe,
        find_devices,
        make_task,
        plan,
        remarks,
        render,
        to_json,
    )

    config = build_config(arguments)
    check_config(config)
    memory = None if arguments.memory is None else parse_memory(arguments.memory)
    if arguments.json is not None:
        check_place(arguments.json)
    devices = find_devices(arguments.topology)
    task = make_task(config, devices, **{name: arguments[name] for name in ("canvas", "classes")})
    memory = find_memory(devices[0]) if memory is None else memory
    console.print(describe(task), soft_wrap=True)
    with _bar(console, "compiling") as update:
        costs = plan(task, POLICIES if arguments.remat == "all" else (arguments.remat,), update)
    console.print(render(costs, memory))
    for line in remarks(task, costs):
        console.print(line, soft_wrap=True)
    if arguments.json is not None:
        write_json(arguments.json, to_json(task, costs, memory))
        console.print(f"numbers in {arguments.json}", soft_wrap=True)


def _experiment(arguments: Namespace, console: Console) -> None:
    from ars_jax.experiment import run_experiment

    config, experiment = build_experiment(arguments)
    missing = run_experiment(config, experiment, console)
    console.print(f"runs, tables and figures in {config.run.dir}", soft_wrap=True)
    for line in missing:
        console.print(f"missing: {line}", soft_wrap=True)
    if missing:
        raise _FaultsShownError


def _predict(arguments: Namespace, console: Console) -> None:
    from ars_jax.predict import load_network, predict_files

    network = load_network(arguments.run, _run_config(arguments.run), arguments.checkpoint)
    with _bar(console, "predicting") as update:
        written = predict_files(network, arguments.images, arguments.out, update)
    console.print(f"{len(written)} label maps in {arguments.out}", soft_wrap=True)


def _evaluate(arguments: Namespace, console: Console) -> None:
    folders = (arguments.predictions, arguments.references)
    if arguments.run is not None and (folders != (None, None) or arguments.labels):
        _refuse("RUN together with --predictions, --references or --labels")
    if arguments.run is not None:
        how = {name: arguments[name] for name in ("cases", "convention", "tolerance_mm", "checkpoint")}
        _evaluate_run(arguments.run, console, arguments.out, root=arguments.data, **how)
        return
    if None in folders or (arguments.data, arguments.cases) != (None, None):
        _refuse("no RUN, and not both of --predictions and --references (which take no --data and no --cases)")
    from ars_jax.evaluate import evaluate_folders, write_tables

    with _bar(console, "scoring") as update:
        by = {name: arguments[name] for name in ("labels", "convention", "tolerance_mm")}
        rows = evaluate_folders(*folders, **by, progress=update)
    if arguments.out is not None:
        about = {"predictions": str(arguments.predictions), "references": str(arguments.references)}
        write_tables(arguments.out, rows, about)
    _show(rows, f"{arguments.predictions} against {arguments.references}", arguments.out, console)


def _refuse(found: str) -> None:
    wanted = "either RUN, or --predictions DIR and --references DIR"
    raise UserError("ars-jax evaluate", found=found, wanted=wanted, fix="see ars-jax evaluate --help")


def _evaluate_run(run: Path, console: Console, out: Path | None = None, **how: Any) -> None:
    """Scores a run; `how` goes to `score_run`."""
    from ars_jax.score import score_run

    out = out or run / "evaluation"
    with _bar(console, "evaluating") as update:
        scores = score_run(run, _run_config(run), out, **how, progress=update)
    checkpoint = how.get("checkpoint", "best")
    _show(
        scores.rows,
        f"{run}, {checkpoint} checkpoint, {scores.cases} {scores.role} cases of {scores.root}",
        out,
        console,
    )
    if scores.left_out:
        console.print(f"left out {scores.left_out} cases that the run was trained on or chosen by", soft_wrap=True)


def _report(arguments: Namespace, console: Console) -> None:
    from ars_jax.report import write_report

    console.print(f"report in {write_report(arguments.runs, arguments.out)}", soft_wrap=True)


def _gradcheck(arguments: Namespace, console: Console) -> None:
    from ars_jax.files import check_place
    from ars_jax.laboratory.cases import from_npz, from_phantom
    from ars_jax.laboratory.gradcheck import (
        check_gradients,
        describe,
        fitting_grid,
        remarks,
        render,
        write_comparisons,
    )

    if arguments.json is not None:
        check_place(arguments.json)
    case = from_phantom(arguments.seed) if arguments.arrays is None else from_npz(arguments.arrays)
    grid = fitting_grid(case, arguments.grid)
    names = None if arguments.losses is None else [name.strip() for name in arguments.losses.split(",") if name.strip()]
    how = {key: arguments[key] for key in ("dtype", "options", "tolerance", "seed")}
    with _bar(console, "checking") as update:
        rows = check_gradients(case, names=names, grid=grid, **how, progress=update)
    console.print(render(rows, describe(case, grid, arguments.dtype)))
    if arguments.json is not None:
        write_comparisons(arguments.json, rows, {"case": case.source, "shape": case.logits.shape, "grid": grid, **how})
    for line in remarks(rows):
        console.print(line, soft_wrap=True)
    if arguments.json is not None:
        console.print(f"comparisons in {arguments.json}", soft_wrap=True)
    if any(row.passed is False for row in rows):
        raise _FaultsShownError


def _gradients(arguments: Namespace, console: Console) -> None:
    from ars_jax.laboratory.gradients import render, study, with_options
    from ars_jax.laboratory.scenes import predicted_scene, scene_of_arrays
    from ars_jax.predict import load_network
    from ars_jax.train.inputs import scored_cases

    named = {name: arguments[name] for name in ("case", "image", "labels")}
    if arguments.run is None:
        scene = scene_of_arrays(arguments.arrays, arguments.seed, **named)
        config = LossConfig(adaptive_gradient="through")
    else:
        run_config = _run_config(arguments.run)
        network = load_network(arguments.run, run_config, arguments.checkpoint)
        validation = partial(scored_cases, arguments.run, run_config, None, "validation")
        others = {"arrays": arguments.arrays, "values": run_config.data.labels}
        scene, config = predicted_scene(network, validation, **named, **others), run_config.loss
    options = {name: arguments[name] for name in ("grid", "a", "b", "adaptive_gradient")}
    config = with_options(config, scene.case, **options, whole_grid=arguments.run is None)
    summary = study(scene, config, arguments.out, arguments.organ)
    console.print(render(summary))
    console.print(f"figures, volumes and numbers in {arguments.out}", soft_wrap=True)


def _run_config(run: Path) -> Config:
    path = run / "config.yaml"
    if not path.is_file():
        found = "no config.yaml" if run.is_dir() else "no such folder"
        raise UserError(run, found=found, wanted="a run folder of ars-jax train", fix="check the path")
    return read_config(path)


def _show(rows: list, title: str, out: Path | None, console: Console) -> None:
    from ars_jax.metrics.screen import render
    from ars_jax.metrics.table import summarise

    console.print(render(summarise(rows), title))
    if out is not None:
        console.print(f"tables in {out}", soft_wrap=True)


@contextmanager
def _bar(console: Console, word: str) -> Iterator[Callable[[int, int, str], None]]:
    """Shows a bar; yields what is to be called with the number done, the number of all and a name."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(20), MofNCompleteColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(word, total=None)
        yield lambda done, count, name: progress.update(task, completed=done, total=count, description=f"{word} {name}")


_COMMANDS: dict[str, tuple[Command, Callable[[ArgumentParser], None]]] = {
    "demo": (_demo, demo_arguments),
    "phantom": (_phantom, phantom_arguments),
    "check": (_check, check_arguments),
    "plan": (_plan, plan_arguments),
    "train": (_train, train_arguments),
    "experiment": (_experiment, experiment_arguments),
    "predict": (_predict, predict_arguments),
    "evaluate": (_evaluate, evaluate_arguments),
    "report": (_report, report_arguments),
    "gradcheck": (_gradcheck, gradcheck_arguments),
    "gradients": (_gradients, gradients_arguments),
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
    parser = make_parser(prog="ars-jax", description=description)
    commands = parser.add_subcommands()
    for name, (_, add_arguments) in _COMMANDS.items():
        command = make_parser(description=_HELP[name])
        add_arguments(command)
        commands.add_subcommand(name, command, help=_HELP[name])
    return parser
