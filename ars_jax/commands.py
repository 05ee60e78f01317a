"""What each command of `ars-jax` does. It imports what it needs, so that help is instant."""

import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from ars_jax.arguments import DEMO_CASES
from ars_jax.config import Config
from ars_jax.errors import UserError
from ars_jax.options import build_config, build_experiment, preset, read_config
from ars_jax.ranges import check_config

DEMO_TEST_CASES = 10


class FaultsShownError(Exception):
    """What was checked has faults, which were shown."""


def demo_command(arguments: Namespace, console: Console) -> None:
    """Runs `ars-jax demo`."""
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
    report_command(Namespace(runs=[run], out=out / "report"), console)


def phantom_command(arguments: Namespace, console: Console) -> None:
    """Runs `ars-jax phantom`."""
    from ars_jax.data.phantom import write_phantoms

    console.print(f"wrote {write_phantoms(arguments.out, arguments.cases, seed=arguments.seed)}", soft_wrap=True)


def check_command(arguments: Namespace, console: Console) -> None:
    """Runs `ars-jax check`."""
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
        raise FaultsShownError


def train_command(arguments: Namespace, console: Console) -> None:
    """Runs `ars-jax train`."""
    from ars_jax.processes import is_first
    from ars_jax.train.loop import train

    config = build_config(arguments)
    train(config, resume=arguments.resume, console=console)
    if is_first():
        console.print(f"run in {config.run.dir}; next: ars-jax evaluate {config.run.dir}", soft_wrap=True)


def plan_command(arguments: Namespace, console: Console) -> None:
    """Runs `ars-jax plan`."""
    from ars_jax.files import check_place, write_json
    from ars_jax.memory import find_memory, parse_memory
    from ars_jax.plan import (
        POLICIES,
        describe,
        make_task,
        plan,
        remarks,
        render,
        to_json,
    )
    from ars_jax.topology import find_devices

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


def experiment_command(arguments: Namespace, console: Console) -> None:
    """Runs `ars-jax experiment`."""
    from ars_jax.experiment import run_experiment

    config, experiment = build_experiment(arguments)
    missing = run_experiment(config, experiment, console)
    console.print(f"runs, tables and figures in {config.run.dir}", soft_wrap=True)
    for line in missing:
        console.print(f"missing: {line}", soft_wrap=True)
    if missing:
        raise FaultsShownError


def predict_command(arguments: Namespace, console: Console) -> None:
    """Runs `ars-jax predict`."""
    from ars_jax.predict import load_network, predict_files

    network = load_network(arguments.run, _run_config(arguments.run), arguments.checkpoint)
    with _bar(console, "predicting") as update:
        written = predict_files(network, arguments.images, arguments.out, update)
    console.print(f"{len(written)} label maps in {arguments.out}", soft_wrap=True)


def evaluate_command(arguments: Namespace, console: Console) -> None:
    """Runs `ars-jax evaluate`."""
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


def report_command(arguments: Namespace, console: Console) -> None:
    """Runs `ars-jax report`."""
    from ars_jax.report import write_report

    console.print(f"report in {write_report(arguments.runs, arguments.out)}", soft_wrap=True)


def gradcheck_command(arguments: Namespace, console: Console) -> None:
    """Runs `ars-jax gradcheck`."""
    from ars_jax.files import check_place
    from ars_jax.laboratory.cases import from_npz, from_phantom
    from ars_jax.laboratory.gradcheck import (
        check_gradients,
        describe,
        fitting_regions,
        remarks,
        render,
        write_comparisons,
    )

    if arguments.json is not None:
        check_place(arguments.json)
    case = from_phantom(arguments.seed) if arguments.arrays is None else from_npz(arguments.arrays)
    regions = fitting_regions(case, arguments.regions)
    names = None if arguments.losses is None else [name.strip() for name in arguments.losses.split(",") if name.strip()]
    how = {key: arguments[key] for key in ("dtype", "options", "tolerance", "seed")}
    with _bar(console, "checking") as update:
        rows = check_gradients(case, names=names, regions=regions, **how, progress=update)
    console.print(render(rows, describe(case, regions, arguments.dtype)))
    if arguments.json is not None:
        write_comparisons(
            arguments.json, rows, {"case": case.source, "shape": case.logits.shape, "regions": regions, **how}
        )
    for line in remarks(rows):
        console.print(line, soft_wrap=True)
    if arguments.json is not None:
        console.print(f"comparisons in {arguments.json}", soft_wrap=True)
    if any(row.passed is False for row in rows):
        raise FaultsShownError


def gradients_command(arguments: Namespace, console: Console) -> None:
    """Runs `ars-jax gradients`."""
    from ars_jax.laboratory.gradients import render, study, with_options
    from ars_jax.laboratory.scenes import predicted_scene, scene_of_arrays
    from ars_jax.losses import Objective
    from ars_jax.predict import load_network
    from ars_jax.train.inputs import scored_cases

    named = {name: arguments[name] for name in ("case", "image", "labels")}
    if arguments.run is None:
        scene = scene_of_arrays(arguments.arrays, arguments.seed, **named)
        config = Objective(adaptive_gradient="through")
    else:
        run_config = _run_config(arguments.run)
        network = load_network(arguments.run, run_config, arguments.checkpoint)
        validation = partial(scored_cases, arguments.run, run_config, None, "validation")
        others = {"arrays": arguments.arrays, "values": run_config.data.labels}
        scene, config = predicted_scene(network, validation, **named, **others), run_config.loss
    options = {name: arguments[name] for name in ("regions", "min_penalty", "penalty_range", "adaptive_gradient")}
    config = with_options(config, scene.case, **options, paper_regions=arguments.run is None)
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
