"""The walls of the house: which room may import which, read from the sources without running them."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "ars_jax"
SOURCES = sorted(PACKAGE.rglob("*.py"))

MAY_IMPORT = {
    "errors": set(),
    "files": {"errors"},
    "locks": {"errors"},
    "losses": set(),
    "models": set(),
    "mesh": set(),
    "resample": set(),
    "allocator": set(),
    "compiled": {"errors"},
    "processes": {"errors"},
    "data": {"errors", "files", "locks"},
    "metrics": {"errors", "files"},
    "gradients": {"errors", "losses"},
    "config": {"data", "losses"},
    "ranges": {"errors", "config", "losses"},
    "matrix": {"errors", "config", "ranges", "losses"},
    "options": {"errors", "files", "config", "ranges", "matrix", "losses"},
    "arguments": {"config", "options"},
    "checkpoint": {"errors", "processes"},
    "predict": {"errors", "files", "data", "models", "mesh", "config", "checkpoint"},
    "evaluate": {"errors", "files", "data", "metrics", "predict"},
    "hlo": set(),
    "topology": {"errors"},
    "memory": {"errors", "topology"},
    "plan": {"errors", "hlo", "data", "models", "mesh", "config", "predict", "topology", "train"},
    "report": {"errors", "files", "data", "metrics"},
    "score": {"config", "metrics", "predict", "evaluate", "train"},
    "experiment": {"errors", "files", "locks", "metrics", "config", "matrix", "checkpoint", "report", "train", "score"},
    "laboratory": {
        "errors",
        "files",
        "data",
        "losses",
        "gradients",
        "models",
        "mesh",
        "config",
        "checkpoint",
        "predict",
        "report",
    },
    "train": {
        "errors",
        "locks",
        "compiled",
        "files",
        "data",
        "losses",
        "gradients",
        "metrics",
        "models",
        "mesh",
        "config",
        "ranges",
        "options",
        "checkpoint",
        "predict",
        "processes",
        "resample",
    },
}
"""For each room (a file or folder of the package) the other rooms it may import; a new room is entered here."""

LIVES_IN = {
    "SimpleITK": "data/volumes.py",
    "flax": "models/",
    "orbax": "checkpoint.py",
    "grain": "data/loader.py",
    "matplotlib": "report/",
    "jinja2": "report/",
    "pydicom": "data/rtstruct.py",
}
"""Libraries that one place of the package hides from the others."""

WITHOUT_JAX = (
    "data/",
    "metrics/",
    "report/",
    "config.py",
    "ranges.py",
    "matrix.py",
    "options.py",
    "arguments.py",
    "errors.py",
    "locks.py",
    "__init__.py",
)
SHARDING_NAMES = {"Mesh", "PartitionSpec", "NamedSharding", "P", "make_mesh"}


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[tuple[str, ast.stmt]]:
    """Every dotted name that is imported anywhere in a source; `from a import b` gives `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative imports hide which room is meant"
            yield from ((f"{node.module}.{alias.name}", node) for alias in node.names)


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


every_source = pytest.mark.parametrize("path", SOURCES, ids=name_of)


def test_the_sources_are_found() -> None:
    assert {"errors", "losses", "models", "data", "metrics", "cli"} <= {room_of(path) for path in SOURCES}


@every_source
def test_imports_go_down_only(path: Path) -> None:
    room = room_of(path)
    if room in ("cli", "commands", "__init__", "__main__"):
        return
    assert room in MAY_IMPORT, f"{room} is a new room: say in MAY_IMPORT which others it may import"
    for name, node in imported(parse(path)):
        parts = name.split(".")
        if parts[0] == "ars_jax" and parts[1] != room:
            assert parts[1] in MAY_IMPORT[room], f"line {node.lineno}: {room} must not import {name}"


@every_source
def test_libraries_stay_in_their_place(path: Path) -> None:
    for name, node in imported(parse(path)):
        place = LIVES_IN.get(name.split(".")[0])
        assert place is None or name_of(path).startswith(place), f"line {node.lineno}: {name} belongs in {place} only"


@every_source
def test_the_rooms_of_data_and_tables_do_not_import_jax(path: Path) -> None:
    if not name_of(path).startswith(WITHOUT_JAX):
        return
    for name, node in imported(parse(path)):
        assert name.split(".")[0] not in ("jax", "jaxlib", "flax", "optax", "orbax"), f"line {node.lineno}: {name}"


@pytest.mark.parametrize("name", ["cli.py", "commands.py"])
def test_the_command_line_imports_jax_only_inside_its_commands(name: str) -> None:
    """Nor anything of ours that does, so that help is instant."""
    light = {"errors", "config", "ranges", "options", "arguments", "commands", "losses"}
    for statement in parse(PACKAGE / name).body:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            for name, node in imported(statement):
                parts = name.split(".")
                assert parts[0] not in ("jax", "flax", "optax", "orbax", "grain"), f"line {node.lineno}: {name}"
                assert parts[0] != "ars_jax" or set(parts[1:2]) <= light, f"line {node.lineno}: {name} at module level"


@every_source
def test_shardings_are_made_in_one_file(path: Path) -> None:
    """Other files may take a mesh as an argument and name its type from `ars_jax.mesh`, but make none."""
    if name_of(path) in ("mesh.py", "losses/_shardings.py"):  # the losses stand alone
        return
    tree = parse(path)
    for name, node in imported(tree):
        parts = name.split(".")
        assert parts[0] != "jax" or parts[-1] not in SHARDING_NAMES, f"line {node.lineno}: {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            assert not (node.attr in SHARDING_NAMES and ast.unparse(node).startswith("jax.")), f"line {node.lineno}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            made = node.func.id in SHARDING_NAMES - {"make_mesh"}
            assert not made, f"line {node.lineno}: {node.func.id} is made outside mesh.py"


@every_source
def test_nothing_is_printed_past_the_console(path: Path) -> None:
    for node in ast.walk(parse(path)):
        printed = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        assert not printed, f"line {getattr(node, 'lineno', 0)}: print"


def modules_after(statement: str) -> set[str]:
    """Top-level modules that a fresh Python has loaded after a statement."""
    code = f"import sys\n{statement}\nsys.stdout.write(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_help_needs_no_jax() -> None:
    assert not modules_after("import ars_jax.cli") & {"jax", "flax", "orbax", "optax", "grain", "matplotlib"}


def test_losses_alone_bring_nothing_but_jax() -> None:
    """A training script that wants one loss loads no file format, no network library and no configuration."""
    loaded = modules_after("import ars_jax; ars_jax.losses.dice")
    assert "jax" in loaded
    assert not loaded & {"SimpleITK", "flax", "orbax", "grain", "matplotlib", "rich", "jsonargparse"}
