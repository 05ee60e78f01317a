#!/usr/bin/env python
"""Does any bad input end in a traceback, a half-written output, a file outside of the output or a hang?

Draws inputs of the kinds that the tests draw and gives each to a command in this process, in rounds, until so many were
refused as asked for; counts what became of them. Exit status 1 if one was not refused in one line or taken whole, or if
fewer were refused than asked for. Each fault is shown once, with its round's seed and place, and the first input of it
in full: `--kind KIND --seed SEED --rounds 1 --examples N` draws it again.
"""

import argparse
import collections
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy
from rich.console import Console
from rich.table import Table

from tests.bad.attempts import kinds
from tests.bad.judge import FAULTS, Attempt, Outcome, outcome, quickly, write_base

ENDS = ("refused", "taken", *FAULTS)
COLUMNS = ("inputs", *ENDS, "half-written", "outside", "seconds")


def main() -> int:
    """Runs the attempts and shows the counts."""
    arguments = _parse()
    os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
    warnings.simplefilter("error")
    counts: dict[str, Counter[str]] = collections.defaultdict(Counter)
    faults: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        base = write_base(Path(name) / "base")
        chosen = {kind: drawn for kind, drawn in kinds(base).items() if kind in (arguments.kind or kinds(base))}
        for number in range(arguments.seed, arguments.seed + arguments.rounds):
            for kind, strategy in chosen.items():
                started, examples = time.perf_counter(), -(-arguments.examples // len(chosen))
                with quickly(kind, base):
                    counted = _count(kind, strategy, examples, number, base, faults)
                counts[kind] += counted + Counter(seconds=round(time.perf_counter() - started))
                print(f"seed {number}, {kind}:", dict(counted), file=sys.stderr, flush=True)
            if _total(counts)["refused"] >= arguments.refused:
                break
    Console(width=120).print(_table(counts))
    for text in faults.values():
        print(text, end="\n\n")
    if arguments.json:
        arguments.json.write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
    return 1 if faults or _total(counts)["refused"] < arguments.refused else 0


def _count(
    kind: str, strategy: SearchStrategy[Attempt], examples: int, number: int, base: Path, faults: dict[str, str]
) -> Counter[str]:
    """What became of attempts of one kind; new faults are added."""
    counted: Counter[str] = Counter()

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
        counted.update(["inputs", found.kind, *["half-written"] * bool(found.half), *["outside"] * bool(found.outside)])
        if found.faulty and (place := _place(found)) not in faults:
            faults[place] = f"{kind}, seed {number}, input {counted['inputs']} of {examples}:\n{drawn}\n{found}"
            print(faults[place], file=sys.stderr, flush=True)

    attempt()
    assert counted["inputs"] == sum(counted[end] for end in ENDS), f"inputs of {kind} that became nothing: {counted}"
    return counted


def _place(found: Outcome) -> str:
    """What makes two faults the same: where the traceback ends, or what was left."""
    lines = [line.strip() for line in found.text.splitlines() if line.strip().startswith("File")]
    where = lines[-3:] or found.text[:60] if found.kind in FAULTS else ""
    return f"{found.kind} {where} {[part.split()[0] for part in (*found.half, *found.outside)]}"


def _total(counts: dict[str, Counter[str]]) -> Counter[str]:
    return sum(counts.values(), Counter())


def _table(counts: dict[str, Counter[str]]) -> Table:
    table = Table("kind", *COLUMNS)
    for kind, counted in {**counts, "all": _total(counts)}.items():
        table.add_row(kind, *(str(counted[column]) for column in COLUMNS))
    return table


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=1000, help="inputs of a round, over all kinds")
    parser.add_argument("--refused", type=int, default=500, help="how many have to be refused")
    parser.add_argument("--rounds", type=int, default=10, help="at most so many, each with the next seed")
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    parser.add_argument("--kind", action="append", help="only this kind; may be given again")
    parser.add_argument("--json", type=Path, help="file for the counts")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
