"""Reading JSON and YAML, and writing files whole or not at all."""

import json
import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import ArrayLike

from ars_jax.errors import UserError

_MOST_LETTERS, _MOST_NODES, _DEEPEST = 1_000_000, 10_000, 20  # of YAML; people write some hundred nodes, four deep
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """Gives a temporary name in the same folder and moves it to its place only if nothing was raised.

    Args:
        path: the file that is to be written; its folder is made.

    Yields:
        The temporary path to write to.

    Raises:
        UserError: the place cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        found, fix = error.strerror or error, "check folder, rights and free space"
        raise UserError(path, found=found, wanted="a place that can be written", fix=fix) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def drop_temporaries(folder: Path) -> None:
    """Deletes what `written_atomically` leaves in a folder when it is killed; not while another process writes there.

    Args:
        folder: the folder.
    """
    for path in folder.glob(".*-*.tmp"):
        if re.fullmatch(r"\..+\.\d+-[0-9a-f]{8}\.tmp", path.name):  # other programs have hidden files as well
            with suppress(OSError):
                path.unlink()


class _Tried(Exception):
    """Ends the trial of a place before anything is moved there."""


def check_place(path: Path) -> None:
    """Tries whether a file can be written, and leaves one that is there as it is.

    Args:
        path: the file; its folder is made.

    Raises:
        UserError: the place cannot be written.
    """
    if path.is_dir():
        raise UserError(path, found="a folder", wanted="a file to write", fix="give the name of a file")
    with suppress(_Tried), written_atomically(path) as temporary:
        temporary.touch()
        raise _Tried


def read_json(path: Path) -> Any:
    """Reads a JSON file.

    Args:
        path: UTF-8 text.

    Returns:
        What it holds.

    Raises:
        UserError: missing, not text or not JSON; with the line.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        found = (error.strerror or str(error)).lower()
        raise UserError(path, found=found, wanted="a JSON file", fix="check the path and your rights") from error
    except json.JSONDecodeError as error:
        found = f"{error.msg.lower()} in column {error.colno}"
        raise UserError(f"{path}, line {error.lineno}", found=found, wanted="JSON", fix="correct the line") from error
    except (ValueError, RecursionError) as error:  # another coding, numbers or nesting beyond what Python reads
        raise UserError(path, found="not JSON text", wanted="JSON in UTF-8", fix="save it as UTF-8") from error


def parse_yaml(text: str, load: Callable[[str], Any] = yaml.safe_load) -> Any:
    """Reads YAML that is what it seems to be and does not grow when it is read.

    Args:
        text: YAML.
        load: builds the values.

    Returns:
        What it holds.

    Raises:
        yaml.YAMLError: not YAML, or YAML with aliases, which can stand for more than fits into memory; with tags, which
            ask for other types than the text shows; with a key twice in one table, of which the last would count; with
            numbers longer than Python reads; or with more or deeper nodes than people write.
    """
    depth = 0
    if len(text) > _MOST_LETTERS:
        raise yaml.YAMLError(f"{len(text)} letters, which no configuration has")
    for count, event in enumerate(yaml.parse(text, Loader=_YAML)):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent):
            raise _yaml_fault(f"the alias *{event.anchor} instead of the values themselves", event)
        if getattr(event, "tag", None):
            raise _yaml_fault(f"the tag {event.tag} instead of a plain value", event)
        if count > _MOST_NODES or depth > _DEEPEST:
            raise _yaml_fault(f"more than {_MOST_NODES} values, or lists and tables in each other {depth} deep", event)
    _check_keys(yaml.compose(text, Loader=_YAML))
    try:
        return load(text)
    except (ValueError, OverflowError) as error:
        raise yaml.YAMLError(str(error)) from error


def _check_keys(node: yaml.Node | None) -> None:
    """Raises where a table has a key twice, or one that is no word."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _yaml_fault("a list or a table for a key", key)
            if key.value in seen:
                raise _yaml_fault(f"the key {key.value} twice", key)
            seen.add(key.value)
            _check_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            _check_keys(value)


def _yaml_fault(problem: str, place: yaml.Event | yaml.Node) -> yaml.YAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


def array_of(file: Mapping[str, object], name: str) -> np.ndarray:
    """Takes an array out of an open .npz file, of which NumPy gives parts of another kind as bytes.

    Args:
        file: from `numpy.load`.
        name: of the array.

    Returns:
        The array.

    Raises:
        KeyError, ValueError: there is none.
    """
    array = file[name]
    if not isinstance(array, np.ndarray):
        raise ValueError(f"{name} is no array")
    return array


def write_json(path: Path, content: object) -> None:
    """Writes strict JSON, whole or not at all.

    Args:
        path: the file; its folder is made.
        content: what JSON takes; NaN and infinity are not JSON.

    Raises:
        UserError: the place cannot be written.
    """
    with written_atomically(path) as temporary:
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def write_arrays(path: Path, arrays: Mapping[str, ArrayLike]) -> None:
    """Writes arrays of numbers and words as a compressed .npz file, whole or not at all.

    Args:
        path: the file; its folder is made.
        arrays: by name; read again by `numpy.load`.

    Raises:
        UserError: the place cannot be written.
    """
    with written_atomically(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **{name: np.asarray(array) for name, array in arrays.items()})
