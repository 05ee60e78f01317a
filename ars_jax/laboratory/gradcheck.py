"""The gradient check as a command: a case in, a table and JSON out."""

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby, zip_longest
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from ars_jax.errors import UserError
from ars_jax.files import write_json
from ars_jax.gradients.crosscheck import LOSSES, PRESETS, Comparison, Dtype, crosscheck
from ars_jax.laboratory.cases import Case
from ars_jax.losses import region_bounds

_SHORT = {"closed_form": "closed form", "finite_differences": "differences", "pytorch": "PyTorch"}


def check_gradients(
    case: Case,
    *,
    names: Sequence[str] | None = None,
    regions: int | Sequence[int] | None = None,
    dtype: Dtype = "float64",
    options: Mapping[str, Any] | None = None,
    tolerance: float | None = None,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[Comparison]:
    """Compares losses of a case with every oracle, see `crosscheck`.

    Args:
        case: the prediction and its reference.
        names: losses and presets; all unless given.
        regions: number per axis; unless given the paper's 16, or the side where that is smaller.
        dtype: what the losses are computed in.
        options: further ones by name, for the losses that have them, see `crosscheck`.
        tolerance: what the errors may be; one for each oracle and type unless given.
        seed: decides the directions of finite differences.
        progress: called before each loss with the number done, the number of all and a name.

    Returns:
        One row per loss and oracle.

    Raises:
        UserError: no such loss, regions that do not fit the case, an option that none of the losses has or that
            does not fit, a tolerance or seed below 0, or nothing that could be compared.
    """
    names = LOSSES + PRESETS if names is None else names
    _check_names(names)
    if tolerance is not None and not tolerance >= 0:
        raise UserError("tolerance", found=tolerance, wanted="a number from 0 on", fix="give another or leave it out")
    if seed < 0:
        raise UserError("seed", found=seed, wanted="a number from 0 on", fix="give another seed")
    regions = fitting_regions(case, regions)
    how = {"where": case.where, "tolerance": tolerance, "seed": seed, "progress": progress}
    names = tuple(dict.fromkeys(names))
    try:
        rows = crosscheck(case.logits, case.labels, names=names, regions=regions, dtype=dtype, options=options, **how)
    except (ValueError, TypeError) as error:
        if not options:
            raise
        wanted, fix = "options of the chosen losses with fitting values", "correct them or leave them out"
        raise UserError("options", found=f"{dict(options)}: {error}", wanted=wanted, fix=fix) from error
    if all(row.passed is None for row in rows):
        found = "; ".join(dict.fromkeys(row.reason for row in rows))
        raise UserError(case.source, found=found, wanted="something to compare", fix="take other losses or arrays")
    return rows


def fitting_regions(case: Case, regions: int | Sequence[int] | None) -> tuple[int, ...]:
    """Returns the regions of each axis.

    Args:
        case: whose volume is divided.
        regions: one number or one per axis; None for the paper's 16, or the side where that is smaller.

    Returns:
        One number per spatial axis.

    Raises:
        UserError: the regions do not fit the case.
    """
    space = case.logits.shape[1:-1]
    if regions is None:
        return tuple(min(16, side) for side in space)
    try:
        return tuple(len(bounds) for bounds in region_bounds(space, regions))
    except ValueError as error:
        wanted, fix = f"regions that divide {_by(space)} voxels", "give one number or one per axis, none above the side"
        raise UserError("regions", found=regions, wanted=wanted, fix=fix) from error


def render(rows: Sequence[Comparison], title: str) -> Table:
    """Makes the table for the screen, of the rows that were compared.

    Args:
        rows: of `check_gradients`.
        title: what was checked.

    Returns:
        A table with a group of lines per loss.
    """
    compared = [row for row in rows if row.passed is not None]
    allowed = {_SHORT[row.against]: row.tolerance for row in compared}
    tolerances = ", ".join(f"{oracle} {tolerance:.0e}" for oracle, tolerance in allowed.items())
    table = Table(
        title=title,
        caption=f"differences are relative, of gradients to the largest entry\ntolerances: {tolerances}",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )
    table.add_column("loss", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("against", no_wrap=True)
    for heading, width in (("value differs", 7), ("gradient differs", 8), ("cosine", 7)):
        table.add_column(heading, justify="right", min_width=width)
    table.add_column("", no_wrap=True)
    for name, group in groupby(compared, lambda row: row.loss):
        for word, row in zip_longest(name.split(), group):
            table.add_row(word, *_cells(row, with_value=word == name.split()[0]), style=_style(row))
    return table


def remarks(rows: Sequence[Comparison]) -> Iterator[str]:
    """Yields what the table does not say: reasons, each once, and the outcome.

    Args:
        rows: of `check_gradients`.

    Yields:
        Lines of text.
    """
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.reason:
            outcome = "failed" if row.passed is False else "not compared"
            reasons.setdefault(f"{outcome} with {_SHORT[row.against]} ({row.reason})", []).append(row.loss)
    losses = len({row.loss for row in rows})
    for reason, names in reasons.items():
        yield f"{reason}: {', '.join(names) if len(names) < losses else 'all'}"
    compared = [row for row in rows if row.passed is not None]
    beyond = sum(not row.passed for row in compared)
    yield f"{len(compared)} comparisons, {f'{beyond} beyond' if beyond else 'all within'} tolerance"


def write_comparisons(path: Path, rows: Sequence[Comparison], about: Mapping[str, object]) -> None:
    """Writes the comparisons as JSON.

    Args:
        path: the file.
        rows: of `check_gradients`.
        about: what was checked and how.

    Raises:
        UserError: the place cannot be written.
    """
    write_json(path, {"about": dict(about), "comparisons": [asdict(row) for row in rows]})


def describe(case: Case, regions: Sequence[int], dtype: Dtype) -> str:
    """Returns a title: what was checked and how."""
    counted = "" if case.where is None else f" ({case.where.mean():.0%} of the voxels)"
    return f"{case.source}: logits {_by(case.logits.shape)}{counted}, regions {_by(regions)}, {dtype}"


def _check_names(names: Sequence[str]) -> None:
    known = LOSSES + PRESETS
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1, 0.4)
            fix = f"did you mean {close[0]}?" if close else "choose some of these"
            raise UserError(f"loss {name!r}", found="no such loss", wanted=f"some of {', '.join(known)}", fix=fix)
    if not names:
        raise UserError("losses", found="nothing", wanted=f"some of {', '.join(known)}", fix="name one")


def _cells(row: Comparison | None, *, with_value: bool) -> list[str]:
    """Returns what stands behind the name of a loss, whose further words and rows go on below it."""
    if row is None:
        return []
    value = _number(row.value, ".6g") if with_value else ""
    errors = (_number(row.value_error, ".1e"), _number(row.gradient_error, ".1e"), _number(row.cosine, ".5f"))
    return [value, _SHORT[row.against], *errors, "ok" if row.passed else "beyond"]


def _style(row: Comparison | None) -> str | None:
    return "bold red" if row is not None and row.passed is False else None


def _by(numbers: Sequence[int]) -> str:
    return "x".join(map(str, numbers))


def _number(value: float | None, form: str) -> str:
    if value is None:
        return "-"
    return f"{value:{form}}" if value else "0"
