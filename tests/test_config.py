"""The configuration: files, presets and options give the same schema, and every fault names its key."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from ars_jax.config import (
    TOLERANCE_MM,
    AugmentConfig,
    Config,
    Convention,
    DataConfig,
    Layout,
    MeshConfig,
    ModelConfig,
    OptimConfig,
    PrepareConfig,
    RunConfig,
    TrainConfig,
    make_plan,
    to_dict,
    to_yaml,
)
from ars_jax.data import finders
from ars_jax.data.phantom import PHANTOM_PAIRS
from ars_jax.errors import UserError
from ars_jax.losses import Objective, RegionSize
from ars_jax.losses._objective import BASELINE, REGIONAL_TERMS, VOLUME_TERMS
from ars_jax.metrics import surface
from ars_jax.options import preset, read_config
from ars_jax.ranges import check_config

TERMS = (BASELINE, *VOLUME_TERMS, *REGIONAL_TERMS)

PRESETS = ("btcv", "ct", "demo", "headneck", "hippocampus", "lits", "openkbp", "pddca")
CONFIGS = Path(__file__).parents[1] / "configs"
PLACES: dict[str, Any] = {"data": {"root": "somewhere"}, "run": {"dir": "run"}}
SMALLEST = Config(DataConfig(Path("somewhere")), RunConfig(Path("run")))
OTHER = Config(
    data=DataConfig(
        root=Path("/data/a set: 1"),
        layout="pddca",
        labels={"Yes": 1, "null": 2, "1": 3, "a: b": 4, "Niere": 5, "été": 6},
        pairs=(("Yes", "null"), ("1", "a: b")),
        split=Path("split.json"),
        validation_fraction=0.25,
        split_seed=3,
        cache=Path("cache"),
    ),
    run=RunConfig(Path("runs/new")),
    prepare=PrepareConfig(
        crop="body",
        crop_threshold=-300.5,
        crop_margin_mm=0.0,
        spacing=(2.5, 1.0, 1.0),
        intensity="window",
        window=(-200.0, 400.0),
        canvas=(32, 48, 64),
        patch=(16, 16, 16),
    ),
    augment=AugmentConfig((True, False, True), 0.1, (0.5, 2.0), 0.3, 0.2, device=True),
    model=ModelConfig("monai", base_channels=4, kernel_size=3, dropout=0.5, dtype="bfloat16", remat="stages"),
    loss=Objective(
        {"baseline": 1.0, "region_specific": 1e-5},
        ignore_label=255,
        regions=RegionSize((8, 9, 10)),
        levels=2,
        absent_classes="include",
        include_background=False,
        class_weights=(1.0, 0.5),
        batch_dice=True,
        reduction="sum",
        squared=False,
        min_penalty=0.0,
        penalty_range=1.0,
        exponent=2.0,
        adaptive_gradient="through",
        cross_entropy_weight=0.0,
        cross_entropy_reduction="sum",
        cross_entropy_class_weights=(1.0, 2.0, 3.0),
        fp_weight=0.5,
        fn_weight=0.5,
        gamma=2.0,
        sensitivity_weight=0.1,
        eps=1e-12,
    ),
    optim=OptimConfig(learning_rate=1e-4, schedule="constant", warmup=0.0, clip_norm=1.0),
    train=TrainConfig(epochs=3, batch_size=2, accumulate=2, validate_every=1, maps_every=4, stall_s=5.0, seed=7),
    mesh=MeshConfig(data=2, space=4, parameters="sharded"),
)


def written(folder: Path, content: object) -> Path:
    path = folder / "config.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def test_a_file_needs_only_the_places(tmp_path: Path) -> None:
    assert read_config(written(tmp_path, PLACES)) == SMALLEST


def test_numbers_may_be_written_with_an_exponent(tmp_path: Path) -> None:
    """PyYAML alone reads 1e-3 as text."""
    assert yaml.safe_load("1e-3") == "1e-3"
    text = "{data: {root: a}, run: {dir: b}, optim: {learning_rate: 1e-3}, loss: {eps: 1E-6, gamma: 2}}"
    config = read_config(written(tmp_path, text))
    found = (config.optim.learning_rate, config.loss.eps, config.loss.gamma)
    assert found == (0.001, 1e-6, 2.0)
    assert all(type(number) is float for number in found)
    assert read_config(written(tmp_path, PLACES), ["--optim.learning_rate=1e-3"]).optim.learning_rate == 0.001


SIZES = dataclasses.replace(SMALLEST, data=dataclasses.replace(SMALLEST.data, split_sizes=(3, 2, 0)))
FOLDS = dataclasses.replace(SMALLEST, data=dataclasses.replace(SMALLEST.data, folds=3, fold=2))
EVERY = {"defaults": SMALLEST, "nothing at its default": OTHER, "sizes": SIZES, "folds": FOLDS}

every_config = pytest.mark.parametrize("config", EVERY.values(), ids=EVERY)


@every_config
def test_what_is_written_is_read_again(tmp_path: Path, config: Config) -> None:
    assert read_config(written(tmp_path, to_yaml(config))) == config


def test_the_other_configuration_has_no_default() -> None:
    """Else the test above would not see a key that is lost."""
    for section in dataclasses.fields(Config):
        values, defaults = getattr(OTHER, section.name), getattr(SMALLEST, section.name)
        for field in dataclasses.fields(values):
            single = section.name == "prepare" and field.name == "shape"  # exclusive with spacing
            single = single or field.name in ("split_sizes", "folds", "fold")  # exclusive with split
            single = single or field.name in ("spatial_dims", "from_probabilities", "depth_shards")  # a training's own
            assert single or getattr(values, field.name) != getattr(defaults, field.name), field.name


def test_a_plain_copy_holds_what_json_holds() -> None:
    def plain(value: object) -> bool:
        if isinstance(value, dict):
            return all(isinstance(key, str) and plain(item) for key, item in value.items())
        return all(map(plain, value)) if isinstance(value, list) else isinstance(value, str | int | float | None)

    assert plain(to_dict(OTHER))


def test_options_win_over_the_file_and_later_options_over_earlier_ones(tmp_path: Path) -> None:
    path = written(tmp_path, PLACES | {"train": {"epochs": 5, "seed": 2}, "loss": {"regions": [1, 2, 3]}})
    options = ["--train.epochs=6", "--train.epochs", "7", "--loss.regions={voxels: [4,5,6]}"]
    config = read_config(path, [*options, "--augment.flip=[true,false,true]", "--data.labels={A: 3}"])
    assert (config.train.epochs, config.train.seed) == (7, 2)
    assert config.loss.regions == RegionSize((4, 5, 6))
    assert (config.augment.flip, config.data.labels) == ((True, False, True), {"A": 3})


@pytest.mark.parametrize("term", TERMS)
def test_a_term_is_one_word(term: str) -> None:
    config = preset("demo", ["--data.root=a", "--run.dir=b", f"--loss.terms={{{term}: 0.5}}"])
    assert config.loss.terms == {term: 0.5}
    assert config.loss.name == term


@pytest.mark.parametrize("name", PRESETS)
def test_presets_take_every_objective(name: str) -> None:
    config = preset(name, ["--data.root=a", "--run.dir=b"])
    for term in TERMS:
        check_config(dataclasses.replace(config, loss=dataclasses.replace(config.loss, terms={term: 1.0})))
    assert config.data.root == Path("a")
    organs = tuple(config.data.labels or {organ: 1 for pair in config.data.pairs for organ in pair}) or ("Organ",)
    plan = make_plan(config, organs, 16)
    assert (plan.labels, plan.pairs, plan.canvas) == (organs, config.data.pairs, config.prepare.canvas)


def test_every_file_of_the_folder_is_a_preset() -> None:
    """Or describes an experiment, which `ars-jax train` does not take."""
    contents = {path.stem: yaml.safe_load(path.read_text(encoding="utf-8")) for path in CONFIGS.glob("*.yaml")}
    assert sorted(name for name, content in contents.items() if "experiment" not in content) == sorted(PRESETS)


FAULTS = {
    "unknown key": ({"loss": {"grids": 2}}, "loss.grids", "did you mean"),
    "key of version 0.1": ({"loss": {"region_size": 2}}, "loss.region_size", "did you mean loss.regions?"),
    "another library's key": ({"loss": {"alpha": 2}}, "loss.alpha", "did you mean loss.fp_weight?"),
    "unknown section": ({"los": {"regions": 2}}, "los.regions", "did you mean loss.regions?"),
    "text for a number": ({"train": {"epochs": "many"}}, "train.epochs", "found many; wanted int;"),
    "fraction for a whole number": ({"train": {"seed": 1.5}}, "train.seed", "found 1.5; wanted int;"),
    "text for a float": ({"optim": {"learning_rate": "fast"}}, "optim.learning_rate", "found fast; wanted float;"),
    "wrong choice": ({"loss": {"reduction": "max"}}, "loss.reduction", "'class_mean'"),
    "wrong kind": ({"loss": {"regions": "many"}}, "loss.regions", "wanted one of int, tuple[int, ...]"),
    "wrong item": ({"augment": {"flip": [True, 2, False]}}, "augment.flip", "bool"),
    "list for a table": ({"data": {"root": "a", "labels": [1, 2]}}, "data.labels", "found [1, 2]"),
}


def assert_one_line(error: UserError, key: str, part: str) -> None:
    text = str(error)
    assert text.startswith(f"{key}: found "), text
    assert part in text
    assert "\n" not in text
    assert "ars-jax train --help" in text


@pytest.mark.parametrize(("content", "key", "part"), FAULTS.values(), ids=FAULTS)
def test_faults_in_a_file_name_their_key(tmp_path: Path, content: dict, key: str, part: str) -> None:
    with pytest.raises(UserError) as caught:
        read_config(written(tmp_path, PLACES | content))
    assert_one_line(caught.value, key, part)


@pytest.mark.parametrize(("content", "key", "part"), FAULTS.values(), ids=FAULTS)
def test_faults_in_an_option_name_their_key(tmp_path: Path, content: dict, key: str, part: str) -> None:
    (section,) = content
    ((name, value),) = [item for item in content[section].items() if item[0] != "root"]
    option = (
        f"--{section}.{name}={yaml.safe_dump(value, default_flow_style=True).removesuffix('...' + chr(10)).strip()}"
    )
    with pytest.raises(UserError) as caught:
        read_config(written(tmp_path, PLACES), [option])
    unknown = name in ("grids", "region_size", "alpha") or section == "los"
    assert_one_line(caught.value, f"--{key}" if unknown else key, part)


@pytest.mark.parametrize("text", ["data: [1,", "- 1\n- 2", "hello", "", "data:\n\troot: a"])
def test_a_file_that_is_no_configuration_is_named(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(UserError) as caught:
        read_config(path)
    assert str(caught.value).startswith(f"{path}: found ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("value", "found"), [(None, "None"), (3, "3"), ([1], "[1]")])
def test_a_section_has_to_be_a_table(tmp_path: Path, value: object, found: str) -> None:
    with pytest.raises(UserError, match=r"^loss: ") as caught:
        read_config(written(tmp_path, PLACES | {"loss": value}))
    assert f"found {found}; wanted a table" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nowhere\.yaml.*no such file"):
        read_config(tmp_path / "nowhere.yaml")


def test_the_places_are_needed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^data\.root: found nothing"):
        read_config(written(tmp_path, {"run": {"dir": "a"}}))
    with pytest.raises(UserError, match=r"^data\.root, run\.dir: found nothing"):
        read_config(written(tmp_path, {"loss": {"regions": 2}}))


RANGES: dict[str, Sequence[str]] = {
    "data.validation_fraction": ("0", "1", "-0.1"),
    "data.split_seed": ("-1",),
    "data.split_sizes": ("[0,1,1]", "[1,0,1]", "[1,1,-1]"),
    "data.folds": ("1", "0"),
    "data.fold": ("1", "-1"),
    "augment.translate": ("-0.1", "1"),
    "augment.scale": ("[0,1]", "[1.1,0.9]", "[0.001,1]", "[1,1000]"),
    "augment.intensity_scale": ("1", "-0.1"),
    "augment.intensity_shift": ("-1", "1e30"),
    "model.base_channels": ("0", "5000"),
    "model.kernel_size": ("4", "0", "-1"),
    "model.dropout": ("1", "-0.1"),
    "loss.terms": ("{dice: -1}", "{dice: .inf}", "{}", "{lovasz: 1}"),
    "loss.regions": ("0", "[4, 0, 4]", "[2, 2]", "{voxels: 0}", "{voxels: [8, 8]}"),
    "loss.levels": ("0",),
    "loss.exponent": ("-1",),
    "loss.spatial_dims": ("2",),
    "loss.depth_shards": ("0", "2"),
    "loss.from_probabilities": ("true",),
    "loss.min_penalty": ("-0.1",),
    "loss.cross_entropy_weight": ("-1",),
    "loss.gamma": ("0", "-1", ".inf", ".nan"),
    "loss.sensitivity_weight": ("-0.1", "1.1"),
    "loss.eps": ("0",),
    "optim.learning_rate": ("0", "-1"),
    "optim.warmup": ("1", "-0.1"),
    "optim.clip_norm": ("0", ".nan"),
    "train.epochs": ("0", "1000001"),
    "train.batch_size": ("0",),
    "train.accumulate": ("0",),
    "train.validate_every": ("0",),
    "train.stall_s": ("-1", "1e10", ".inf"),
    "train.seed": ("-1",),
    "mesh.data": ("0",),
    "mesh.space": ("0", "-2"),
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in RANGES.items() for value in values])
def test_values_out_of_range_name_their_key_and_option(tmp_path: Path, key: str, value: str) -> None:
    with pytest.raises(UserError) as caught:
        read_config(written(tmp_path, PLACES), [f"--{key}={value}"])
    assert str(caught.value).startswith(key)
    assert ": found " in str(caught.value)
    assert f"--{key}" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        (["--data.folds=3", "--data.split=split.json"], "data.split, data.split_sizes, data.folds"),
        (["--data.folds=3", "--data.split_sizes=[1,1,1]"], "data.split, data.split_sizes, data.folds"),
        (["--data.folds=3", "--data.fold=3"], "data.fold"),
        (["--loss.min_penalty=0", "--loss.penalty_range=0"], "loss.min_penalty, loss.penalty_range"),
        (["--prepare.spacing=[1, .inf, 1]"], "prepare.spacing"),
        (["--loss.fp_weight=0", "--loss.fn_weight=0"], "loss.fp_weight, loss.fn_weight"),
    ],
)
def test_values_that_contradict_each_other_name_both_keys(tmp_path: Path, options: list[str], keys: str) -> None:
    with pytest.raises(UserError, match=f"^{keys}: found "):
        read_config(written(tmp_path, PLACES), options)


SECTIONS = "data: {root: d}\nrun: {dir: r}\n"
LAUGHS = "a0: &a0 [ha, ha]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
DECEIVING = {
    "aliases that stand for more than all memory": (LAUGHS + "model: *a59", "the alias *a0 instead of the values"),
    "a value within itself": ("train: &a {epochs: *a}", "the alias *a instead"),
    "a call": ("model: !!python/object/apply:os.getcwd []", "the tag tag:yaml.org,2002:python/object/apply:os.getcwd"),
    "another type": ("train: {epochs: !!int abc}", "the tag tag:yaml.org,2002:int"),
    "a class": ("model: {class_path: this.code}", "the Python name this.code"),
    "a class by its name alone": ("model: this.code", "the Python name this.code"),
    "a key twice": ("train: {epochs: 1, epochs: 2}", "the key epochs twice"),
    "a section twice": ("train: {epochs: 1}\ntrain: {seed: 2}", "the key train twice"),
    "a table for a key": ("? {a: 1}\n: 2", "a list or a table for a key"),
    "a number for a key": ("1: 2", "the key 1"),
    "lists in lists": (f"train: {'[' * 30}{']' * 30}", "in each other 21 deep"),
    "too many values": (f"data: {{pairs: [{'1,' * 20000}]}}", "more than 10000 values"),
    "too long a number": (f"train: {{epochs: {'9' * 5000}}}", "Exceeds the limit"),
    "too long a text": ("#" * 1_000_001, "1000031 letters"),
    "nothing for a value": ("train: {epochs: null}", "train.epochs: found null; wanted a value"),
    "a seed that JAX cannot take": ("train: {seed: 4294967296}", "train.seed: found 4294967296; wanted a number below"),
    "text of another coding": ("# \udcff", "bytes that are no text"),
}


@pytest.mark.parametrize(("text", "found"), DECEIVING.values(), ids=DECEIVING)
def test_yaml_that_is_not_what_it_seems_is_refused_and_nothing_is_imported(tmp_path: Path, text, found) -> None:
    path = tmp_path / "config.yaml"
    path.write_bytes((SECTIONS + text).encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError) as caught:
        read_config(path)
    assert found in str(caught.value)
    assert "this" not in sys.modules


@every_config
def test_values_in_range_pass(config: Config) -> None:
    check_config(config)


def test_words_that_stand_in_two_rooms_agree() -> None:
    """The configuration repeats some, so that help need not load what they belong to."""
    assert get_args(Convention) == tuple(surface.CONVENTIONS)
    assert TOLERANCE_MM == surface.TOLERANCE_MM
    assert set(get_args(Layout)) == {"auto", *finders.LAYOUTS}
    demo = preset("demo", ["--data.root=a", "--run.dir=b"])
    assert demo.data.pairs == PHANTOM_PAIRS
