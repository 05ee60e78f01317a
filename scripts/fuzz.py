#!/usr/bin/env python
"""Does any bad input end in a traceback, a half-written output or a command that hangs?

Draws inputs of the kinds that the tests draw, as many as asked for, gives each to a command in this process and counts
what became of them. Exit status 1 if one was not refused in one line or taken whole; each fault is shown once.
"""

import argparse
import collections
import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from hypothesis import HealthCheck, Phase, given, seed, settings
from rich.console import Console
from rich.table import Table

from tests.bad.attempts import kinds
from tests.bad.judge import Attempt, Outcome, outcome, quick_network, running_short, write_base

FAULTS = ("untold", "traceback", "hung")


def main() -> int:
    """Runs the attempts and shows the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--examples", type=int, default=5000, help="inputs, over all kinds")
    parser.add_argument("--seed", type=int, default=0, help="decides which")
    parser.add_argument("--kind", action="append", help="only this kind; may be given again")
    parser.add_argument("--json", type=Path, help="file for the counts")
    arguments = parser.parse_args()
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    warnings.simplefilter("error")
    counts: dict[str, collections.Counter[str]] = {}
    faults: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        base = write_base(Path(name) / "base")
        chosen = {
            kind: drawn for kind, drawn in kinds(base).items() if arguments.kind is None or kind in arguments.kind
        }
        for kind, strategy in chosen.items():
            started = time.perf_counter()
            quick = quick_network(base) if kind in ("volumes", "names") else contextlib.nullcontext()
            with quick, running_short():
                counts[kind] = _count(strategy, arguments.examples // len(chosen), arguments.seed, base, faults)
            counts[kind]["seconds"] = round(time.perf_counter() - started)
            print(kind, dict(counts[kind]), file=sys.stderr, flush=True)
    Console().print(_table(counts))
    for text in faults.values():
        print(text, end="\n\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
    return 1 if faults else 0


def _count(strategy, examples: int, number: int, base: Path, faults: dict[str, str]) -> collections.Counter[str]:
    counted: collections.Counter[str] = collections.Counter()

    @seed(number)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(strategy)
    def attempt(drawn: Attempt) -> None:
        tmp = Path(tempfile.mkdtemp(dir=base.parent))
        found = outcome(drawn, base, tmp)
        shutil.rmtree(tmp)
        counted.update(["inputs", found.kind, *["half-written"] * bool(found.half)])
        if found.kind in FAULTS or found.half:
            faults.setdefault(
                _place(found), f"{str(drawn)[:1500]}\n{found.text[:200]} ...\n{found.text[-1200:]}\n{found.half}"
            )

    attempt()
    return counted


def _place(found: Outcome) -> str:
    """What makes two faults the same: where the traceback ends, or what was left."""
    lines = [line.strip() for line in found.text.splitlines() if line.strip().startswith("File")]
    return f"{found.kind} {lines[-3:] or found.text[:60]} {[part.split()[0] for part in found.half]}"


def _table(counts: dict[str, collections.Counter[str]]) -> Table:
    columns = ("inputs", "refused", "taken", *FAULTS, "half-written", "seconds")
    table = Table("kind", *columns)
    total: collections.Counter[str] = sum(counts.values(), collections.Counter())
    for kind, counted in {**counts, "all": total}.items():
        table.add_row(kind, *(str(counted[column]) for column in columns))
    return table


if __name__ == "__main__":
    raise SystemExit(main())
