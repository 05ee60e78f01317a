"""Reading a configuration from YAML files and dotted options, with one line for every fault."""

import dataclasses
import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import jsonargparse
import yaml
from jsonargparse import ArgumentParser, Namespace, get_loader, set_loader, set_parsing_settings

from ars_jax.config import Config
from ars_jax.errors import UserError
from ars_jax.files import parse_yaml
from ars_jax.losses._checks import OTHER_NAMES, ArgumentError
from ars_jax.matrix import ExperimentConfig
from ars_jax.ranges import check_config

_DATA = ["ars_jax.losses.RegionSize", "ars_jax.losses._objective.RegionSize"]  # plain data, by both of its names
# A value that looks like the path of a class would else be imported, which runs what stands in the module.
set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=_DATA)
set_loader("ars_jax", partial(parse_yaml, load=get_loader("yaml")), (yaml.YAMLError,))


def make_parser(**options: Any) -> ArgumentParser:
    """Makes a parser whose YAML is checked and which raises instead of ending the process."""
    return ArgumentParser(exit_on_error=False, allow_abbrev=False, parser_mode="ars_jax", **options)


def add_config(parser: ArgumentParser) -> None:
    """Adds `--config FILE` and one dotted option for every key of the configuration."""
    parser.add_argument("--config", action="config", help="YAML file with any of the keys below")
    parser.add_class_arguments(Config)
    # The parser changes values in place, which the terms of an objective do not allow.
    parser.set_defaults({"loss.terms": dict(Config.__dataclass_fields__["loss"].default.terms)})


def build_config(arguments: Namespace) -> Config:
    """Makes the configuration from parsed options, and checks its ranges."""
    parser = _config_parser()
    names = [field.name for field in dataclasses.fields(Config)]
    _check_tables(arguments, names)
    try:
        made = parser.instantiate(arguments)
    except ArgumentError as error:  # the objective checks its own values
        key = ", ".join(f"loss.{name}" for name in error.name.split(", "))
        fix = f"correct it in the configuration or with --{key.replace(', ', ' and --')}"
        raise UserError(key, found=error.found, wanted=error.wanted, fix=fix) from error
    config = Config(**{name: made[name] for name in names})
    check_config(config)
    return config


def _check_tables(arguments: Namespace, names: Sequence[str]) -> None:
    for name in names:
        if not isinstance(arguments[name], Namespace):
            raise UserError(name, found=arguments[name], wanted="a table of keys", fix="give it keys or leave it out")


def add_experiment(parser: ArgumentParser) -> None:
    """Adds what `add_config` adds, and the keys of an experiment."""
    add_config(parser)
    parser.add_class_arguments(ExperimentConfig, "experiment")


def build_experiment(arguments: Namespace) -> tuple[Config, ExperimentConfig]:
    """Makes what all runs share, and what differs, from parsed options."""
    parser = make_parser()
    add_experiment(parser)
    _check_tables(arguments, ["experiment"])
    return build_config(arguments), parser.instantiate(arguments)["experiment"]


def read_config(path: Path, options: Sequence[str] = ()) -> Config:
    """Reads a configuration.

    Args:
        path: YAML file.
        options: overrides, such as `["--train.epochs", "10"]`.

    Returns:
        The configuration.

    Raises:
        UserError: a file or key that does not fit, named.
    """
    words = ["--config", str(path), *options]
    with as_user_error(words):
        return build_config(_config_parser().parse_args(words))


def preset(name: str, options: Sequence[str] = ()) -> Config:
    """Reads one of the configurations that come with the package.

    Args:
        name: of the file, without ending.
        options: overrides, such as `["--train.epochs", "10"]`.

    Returns:
        The configuration.

    Raises:
        UserError: an option that does not fit.
    """
    package = Path(__file__).parent
    # In a checkout the presets lie beside the package; a wheel carries them inside.
    folder = next(place for place in (package / "configs", package.parent / "configs") if place.is_dir())
    return read_config(folder / f"{name}.yaml", options)


@contextmanager
def as_user_error(words: Sequence[str]) -> Iterator[None]:
    """Turns what the parser raises into one line with the key, what was found, what was wanted and the fix.

    Args:
        words: the parsed words, whose first is the command or an option.

    Yields:
        Nothing.

    Raises:
        UserError: a word or key that does not fit.
    """
    try:
        yield
    except UnicodeDecodeError as error:
        fix = "save it as UTF-8"
        raise UserError(_config_file(words), found="bytes that are no text", wanted="YAML", fix=fix) from error
    except (jsonargparse.ArgumentError, ImportError) as error:
        text = re.sub(r"<class '([^']+)'>", r"\1", " ".join(str(error).split()))
        text = re.sub(r"Group '([^']+)' does not accept option '", r"does not accept option '\1.", text)
        command = f"ars-jax {words[0]}" if words and not words[0].startswith("-") else "ars-jax train"
        fix = f"see {command} --help"
        if denied := re.search(r"Importing '(.*?)' is not allowed", text):
            found, fix = f"the Python name {denied[1]}", "name no code in a configuration"
            raise UserError(_config_file(words), found=found, wanted="plain values", fix=fix) from error
        if key := re.search(r"Key must be a string, got: (.*)\.$", text):
            found = f"the key {key[1]}"
            raise UserError(
                _config_file(words), found=found, wanted="words for keys", fix="correct the file"
            ) from error
        if missing := re.search(r"File does not exist: '(.*)'", text):
            raise UserError(missing[1], found="no such file", wanted="a YAML file", fix="check the path") from error
        if broken := re.search(r"(?:Problems parsing|Unexpected) config:(.*)", text):
            found, wanted = broken[1].strip() or "an empty file", "YAML with keys of the configuration"
            raise UserError(_config_file(words), found=found, wanted=wanted, fix="correct the file") from error
        if needed := re.search(r"arguments are required: (.*)", text):
            names = needed[1].replace(f"{words[0]}.", "")
            raise UserError(names, found="nothing", wanted="a value", fix=fix) from error
        if value := re.search(r'key "([^"]+)": Expected an? (?:typing\.Literal)?(.+)\. Got value: (.*)', text):
            raise UserError(value[1], found=value[3], wanted=value[2], fix=fix) from error
        if union := re.search(r'key "([^"]+)": Does not validate.*Subtypes: \[(.*)\] Errors.*Given value: (.*)', text):
            raise UserError(union[1], found=union[3], wanted=f"one of {union[2]}", fix=fix) from error
        if unknown := re.search(
            r"(?:does not accept option|Option|[Kk]ey|[Uu]nrecognized arguments:) '?\"?([-\w.]+)", text
        ):
            keys = [*_keys(), *(_keys(ExperimentConfig, "experiment.") if words[:1] == ["experiment"] else [])]
            close = difflib.get_close_matches(unknown[1].lstrip("-"), keys, 1, 0.4)
            section, _, name = unknown[1].lstrip("-").rpartition(".")
            if section == "loss" and f"loss.{OTHER_NAMES.get(name)}" in keys:
                close = [f"loss.{OTHER_NAMES[name]}"]
            hint = f"did you mean {close[0]}? {fix}" if close and close[0] != unknown[1] else fix
            if unknown[1].lstrip("-").startswith("experiment") and words[:1] != ["experiment"]:
                hint = "give it to ars-jax experiment"
            raise UserError(unknown[1], found=text, wanted="a key of the configuration", fix=hint) from error
        raise UserError("ars-jax", found=text, wanted="valid arguments", fix="see ars-jax --help") from error


def _config_file(words: Sequence[str]) -> str:
    """The last file that the words name as configuration."""
    pairs = [f"{first}={second}" for first, second in zip(words, [*words[1:], ""], strict=True) if first == "--config"]
    named = [word for word in (*words, *pairs) if word.startswith("--config=")]
    return named[-1].removeprefix("--config=") if named else "the configuration"


def _config_parser() -> ArgumentParser:
    parser = make_parser()
    add_config(parser)
    return parser


def _keys(kind: Any = Config, prefix: str = "") -> list[str]:
    """Lists the dotted keys of the configuration."""
    keys = []
    for field in dataclasses.fields(kind):
        inner = field.type
        keys += _keys(inner, f"{prefix}{field.name}.") if dataclasses.is_dataclass(inner) else [prefix + field.name]
    return keys
