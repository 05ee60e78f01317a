"""The facts about the runs that head the page."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from ars_jax.report.runs import Run, mean_dsc, number, position
from ars_jax.report.tables import NONE, TIMES

REGIONAL = ("regions", "reduction")
ADAPTIVE = ("min_penalty", "penalty_range", "adaptive_gradient")
NETWORK = ("variant", "base_channels", "kernel_size", "dtype")


@dataclass(frozen=True)
class Fact:
    """One row of the table that heads the page.

    Args:
        name: what it is about.
        texts: one text per run.
    """

    name: str
    texts: tuple[str, ...]


def facts(runs: Sequence[Run]) -> list[Fact]:
    """Collects what a reader must know before looking at a curve.

    Args:
        runs: the runs of one page.

    Returns:
        Data set, objective, preparation, network, device, training, versions; rows that nobody recorded are left out.
    """
    about = {
        "Data set": _data_set,
        "Objective": _objective,
        "Preparation": _preparation,
        "Network": _network,
        "Optimisation": _optimisation,
        "Device": _device,
        "Training": _training,
        "Best validation": _best_validation,
        "Scored on": _scored_on,
        "Software": _software,
    }
    rows = [Fact(name, tuple(text(run) for run in runs)) for name, text in about.items()]
    return [row for row in rows if any(text != NONE for text in row.texts)]


def duration(seconds: float) -> str:
    """Writes a duration as people say it.

    Args:
        seconds: how long, 0 or more.

    Returns:
        Text such as "2 h 05 min", "12 min 30 s" or "8.4 s", which does not break across lines.
    """
    if seconds < 59.95:
        text = f"{seconds:.1f} s"
    else:
        minutes, rest = divmod(round(seconds), 60)
        text = f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
    return text.replace(" ", "\N{NO-BREAK SPACE}")


def _start(run: Run) -> Mapping[str, Any]:
    """What the sessions wrote at their start; a later session adds to an earlier one."""
    return {key: value for line in run.sessions for key, value in line.items()}


def _section(run: Run, name: str) -> Mapping[str, Any]:
    section = run.config.get(name)
    return section if isinstance(section, dict) else {}


def _data_set(run: Run) -> str:
    start = _start(run)
    root = start.get("dataset") or _section(run, "data").get("root")
    cases = [
        f"{start[key]} {word}"
        for key, word in (("training_cases", "training"), ("validation_cases", "validation"))
        if key in start
    ]
    organs = len(run.plan.labels)
    parts = [PurePath(str(root)).name] if root else []
    if cases:
        parts.append(" and ".join(cases) + " cases")
    return ", ".join([*parts, f"{organs} organ{'s' * (organs != 1)}"])


def _objective(run: Run) -> str:
    """The terms with their weights and, where one is regional, the settings that decide it."""
    loss = _section(run, "loss")
    terms = loss.get("terms")
    if not isinstance(terms, dict) or not terms:
        return NONE
    name = "+".join(str(term) if weight == 1 else f"{_words(weight)} {term}" for term, weight in terms.items())
    regional, adaptive = "region_specific" in terms, "adaptive_region_specific" in terms
    keys = (*(REGIONAL if regional or adaptive else ()), *(ADAPTIVE if adaptive else ()))
    return ", ".join(
        [name, *(f"{key.replace('_', ' ')} {_words(loss[key])}" for key in keys if loss.get(key) is not None)]
    )


def _network(run: Run) -> str:
    model, count = _section(run, "model"), number(_start(run).get("parameters"))
    parts = [f"{key.replace('_', ' ')} {_words(model[key])}" for key in NETWORK if key in model]
    if math.isfinite(count):
        parts.append(f"{count:,.0f}".replace(",", "\N{NARROW NO-BREAK SPACE}") + " parameters")
    return ", ".join(parts) or NONE


def _optimisation(run: Run) -> str:
    optim, train = _section(run, "optim"), _section(run, "train")
    texts = [f"Adam, learning rate {_words(optim['learning_rate'])}"] if "learning_rate" in optim else []
    texts += [f"{key.replace('_', ' ')} {_words(train[key])}" for key in ("batch_size", "seed") if key in train]
    return ", ".join(texts) or NONE


def _words(value: Any) -> str:
    """Writes a configuration value in one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_words(inner)}" for key, inner in value.items() if inner is not None)
    if isinstance(value, list | tuple):
        return (
            TIMES.join(map(_words, value))
            if all(type(part) is int for part in value)
            else ", ".join(map(_words, value))
        )
    return f"{value:g}" if isinstance(value, float) else str(value)


def _preparation(run: Run) -> str:
    plan = run.plan
    size = f"{_words(list(plan.shape))} voxels" if plan.shape else "own spacing"
    if plan.spacing:
        size = f" {TIMES} ".join(f"{side:g}" for side in plan.spacing) + " mm (z, y, x)"
    low, high = plan.window or (math.nan, math.nan)
    intensity = f"window {low:g} to {high:g}" if plan.intensity == "window" else "z-score"
    return f"{size}, {intensity}"


def _device(run: Run) -> str:
    start = _start(run)
    device = start.get("device", start.get("devices"))
    return _words(device) if device is not None else NONE


def _training(run: Run) -> str:
    """Steps, epochs and the time of all sessions, with a word on sessions that never came to their end."""
    parts = []
    if run.training:
        last = run.training[-1]
        epochs = [f"{position(last):g} epochs"] if "epoch" in last else []
        parts.append(", ".join([f"{last['step']} steps", *epochs]))
    seconds = sum(number(line.get("seconds")) for line in run.ends)
    if run.ends and math.isfinite(seconds):
        parts.append(duration(seconds))
    if len(run.sessions) > 1:
        parts.append(f"{len(run.sessions)} sessions")
    if len(run.ends) < len(run.sessions):
        parts.append("not finished" if not run.ends else "time of the sessions that ended")
    return ", ".join(parts) or NONE


def _best_validation(run: Run) -> str:
    lines = [line for line in run.validation if math.isfinite(mean_dsc(line))]
    if not lines:
        return NONE
    best = max(lines, key=mean_dsc)
    epoch = number(best.get("epoch"))
    when = f"epoch {epoch:g}" if math.isfinite(epoch) else f"step {best['step']}"
    return f"mean DSC {mean_dsc(best):.3f} at {when}"


def _scored_on(run: Run) -> str:
    """What the tables are about: validation cases chose the best checkpoint, others did not."""
    if run.evaluation is None or "data" not in run.evaluation.about:
        return NONE
    about = run.evaluation.about
    count = len({row.case for row in run.evaluation.rows})
    name = PurePath(str(about["data"])).name
    return f"{count} {about.get('cases', '')} cases of {name}, {about.get('checkpoint', '')} checkpoint"


def _software(run: Run) -> str:
    versions = _start(run).get("versions")
    return _words(versions) if versions else NONE


def start_text(run: Run) -> str:
    """Writes the last "start" line in full.

    Args:
        run: the run.

    Returns:
        Indented JSON, or nothing where no start was recorded.
    """
    return json.dumps(run.sessions[-1], indent=2, ensure_ascii=False) if run.sessions else ""
