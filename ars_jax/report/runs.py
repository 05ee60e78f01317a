"""Reading run folders: what was recorded while training, and what the evaluation found."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ars_jax import files
from ars_jax.data.plan import Plan, read_plan
from ars_jax.errors import UserError
from ars_jax.metrics.table import Row, read_json, summarise

NEEDED = ("config.yaml", "plan.json", "metrics.jsonl")


@dataclass(frozen=True)
class Evaluation:
    """What `ars-jax evaluate` left in a run folder.

    Args:
        convention: the distance convention's name.
        rows: one row per case and organ.
        about: what was scored, such as "data", "cases" and "checkpoint"; empty where nobody recorded it.
        files: case name to the paths of its "image", "prediction" and "reference".
    """

    convention: str
    rows: tuple[Row, ...]
    about: Mapping[str, Any]
    files: Mapping[str, Mapping[str, Path]]


@dataclass(frozen=True)
class Run:
    """One run folder, read.

    Args:
        name: the folder's name, made longer where two runs share it.
        folder: where it lies.
        config: the resolved configuration.
        config_text: the same, as written.
        plan: how volumes were prepared; names the organs.
        sessions: the "start" lines, one per start or resume.
        ends: the "end" lines, one per session that came to its end.
        training: the "train" lines by rising step.
        validation: the "validation" lines by rising step.
        evaluation: the evaluation, or None where there is none yet.
    """

    name: str
    folder: Path
    config: Mapping[str, Any]
    config_text: str
    plan: Plan
    sessions: tuple[Mapping[str, Any], ...]
    ends: tuple[Mapping[str, Any], ...]
    training: tuple[Mapping[str, Any], ...]
    validation: tuple[Mapping[str, Any], ...]
    evaluation: Evaluation | None


def read_runs(folders: Sequence[Path]) -> tuple[Run, ...]:
    """Reads several run folders.

    Args:
        folders: run folders, in the order in which they are to be shown.

    Returns:
        The runs, each with a name of its own.

    Raises:
        UserError: no folder at all, one folder twice, or a fault in one of them.
    """
    if not folders:
        raise UserError("report", found="no run folder", wanted="one or more", fix="ars-jax report RUN --out DIR")
    resolved = [Path(os.path.realpath(folder)) for folder in folders]  # Path.resolve raises at a link to itself
    for folder in resolved:
        if resolved.count(folder) > 1:
            raise UserError(folder, found="the same run twice", wanted="different runs", fix="name it once")
    return tuple(read_run(folder, name) for folder, name in zip(resolved, run_names(resolved), strict=True))


def run_names(folders: Sequence[Path]) -> list[str]:
    """Gives every folder the shortest tail of its path that no other folder shares.

    Args:
        folders: different, resolved folders.

    Returns:
        One name per folder, such as "ars", or "monday/ars" beside "tuesday/ars".
    """
    names = []
    for folder in folders:
        others = [other for other in folders if other != folder]
        length = 1
        while any(other.parts[-length:] == folder.parts[-length:] for other in others):
            length += 1
        names.append("/".join(folder.parts[-length:]))
    return names


def read_run(folder: Path, name: str) -> Run:
    """Reads one run folder.

    Args:
        folder: what `ars-jax train` wrote.
        name: how the page calls it.

    Returns:
        The run; `evaluation` is None where `evaluation/table.json` is missing.

    Raises:
        UserError: it is no run folder, or a file in it is damaged.
    """
    missing = [file for file in NEEDED if not (folder / file).is_file()]
    if missing:
        found = f"no {', '.join(missing)}" if folder.is_dir() else "no such folder"
        raise UserError(folder, found=found, wanted="a run folder of ars-jax train", fix="check the path")
    text = (folder / "config.yaml").read_text(encoding="utf-8")
    lines = read_metrics(folder / "metrics.jsonl")
    return Run(
        name=name,
        folder=folder,
        config=_read_config(folder / "config.yaml", text),
        config_text=text,
        plan=read_plan(folder / "plan.json"),
        sessions=tuple(line for line in lines if line["kind"] == "start"),
        ends=tuple(line for line in lines if line["kind"] == "end"),
        training=latest_steps(lines, "train"),
        validation=latest_steps(lines, "validation"),
        evaluation=read_evaluation(folder),
    )


def _read_config(path: Path, text: str) -> Mapping[str, Any]:
    try:
        config = files.parse_yaml(text)
    except yaml.YAMLError as error:
        raise UserError(path, found=error, wanted="YAML", fix="restore the file") from error
    return config if isinstance(config, dict) else {}


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads metrics.jsonl; a last line cut short by an interruption is left out.

    Args:
        path: the file, one JSON object with a "kind" per line.

    Returns:
        The lines in the order of the file.

    Raises:
        UserError: a line before the last is broken; names file and line number.
    """
    texts = path.read_text(encoding="utf-8", errors="replace").rstrip().split("\n")
    lines = []
    for place, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except (ValueError, RecursionError) as error:
            if place == len(texts):
                continue
            raise _broken(path, place, f"broken JSON ({str(error).split(':')[0]})") from error
        if fault := _fault(line):
            raise _broken(path, place, fault)
        lines.append(line)
    return lines


def _fault(line: Any) -> str:
    """What is wrong with a line that is JSON; nothing if it can be used."""
    if not isinstance(line, dict) or "kind" not in line:
        return "no JSON object with a kind"
    if line["kind"] in ("train", "validation") and not isinstance(line.get("step"), int):
        return f'a {line["kind"]} line without a whole number "step"'
    wrong = [key for key in ("parts", "dsc") if not isinstance(line.get(key, {}), dict)]
    return f"{wrong[0]} that is no object" if wrong else ""


def _broken(path: Path, number: int, found: str) -> UserError:
    wanted = 'one JSON object per line, such as {"kind": "train", "step": 10, ...}'
    return UserError(f"{path}, line {number}", found=found, wanted=wanted, fix="mend or delete this line")


def latest_steps(lines: Sequence[Mapping[str, Any]], kind: str) -> tuple[Mapping[str, Any], ...]:
    """Keeps one history: where a session begins, all that came after its first step in earlier ones is left out.

    Args:
        lines: lines of metrics.jsonl in the order of writing.
        kind: "train" or "validation".

    Returns:
        The lines of that kind with strictly rising steps.
    """
    kept: list[Mapping[str, Any]] = []
    for line in lines:
        if line["kind"] == "start":
            begun = number(line.get("step"))
            kept = [earlier for earlier in kept if not earlier["step"] > begun]
        if line["kind"] != kind:
            continue
        while kept and kept[-1]["step"] >= line["step"]:
            kept.pop()
        kept.append(line)
    return tuple(kept)


def read_evaluation(folder: Path) -> Evaluation | None:
    """Reads a run folder's evaluation.

    Args:
        folder: the run folder; relative paths in `evaluation/cases.json` are relative to it.

    Returns:
        The evaluation, or None without `evaluation/table.json`.

    Raises:
        UserError: a file is damaged.
    """
    table = folder / "evaluation" / "table.json"
    if not table.is_file():
        return None
    rows = read_json(table)
    about = files.read_json(table).get("about")
    return Evaluation(
        summarise(rows).convention, tuple(rows), about if isinstance(about, dict) else {}, _read_files(folder)
    )


def _read_files(folder: Path) -> dict[str, dict[str, Path]]:
    path = folder / "evaluation" / "cases.json"
    if not path.is_file():
        return {}
    try:
        entries = files.read_json(path)
        kinds = ("image", "prediction", "reference")
        return {str(entry["case"]): {kind: folder / entry[kind] for kind in kinds} for entry in entries}
    except (KeyError, TypeError) as error:
        wanted = 'a list of {"case", "image", "prediction", "reference"}'
        raise UserError(path, found=error, wanted=wanted, fix=f"ars-jax evaluate {folder}") from error


def position(line: Mapping[str, Any]) -> float:
    """Where a line of metrics.jsonl lies on the time axis.

    Args:
        line: a "train" or "validation" line.

    Returns:
        Its epoch, or its step where no epoch was written.
    """
    epoch = number(line.get("epoch"))
    return float(line["step"]) if math.isnan(epoch) else epoch


def number(value: object) -> float:
    """Turns a recorded value into a number.

    Args:
        value: anything that JSON may hold.

    Returns:
        The number, or NaN for null, text and whatever else is none.
    """
    with suppress(OverflowError):
        return float(value) if isinstance(value, int | float) else math.nan
    return math.nan


def mean_dsc(line: Mapping[str, Any]) -> float:
    """The mean DSC of a validation line.

    Args:
        line: a "validation" line of metrics.jsonl.

    Returns:
        The recorded mean, in 0 to 1; NaN where none was recorded.
    """
    return number(line.get("mean_dsc"))


def organs_of(runs: Sequence[Run]) -> tuple[str, ...]:
    """Lists the organs of all runs, each once, in the order of the first run that knows it.

    Args:
        runs: the runs of one page.

    Returns:
        Organ names; the index of an organ decides its colour.
    """
    return tuple(dict.fromkeys(organ for run in runs for organ in run.plan.labels))
