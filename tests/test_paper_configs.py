"""The configurations of the paper's data sets: against its own table, and on cases of their layouts."""

import dataclasses
import functools
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ars_jax.config import Config, make_plan
from ars_jax.data.cases import Case, Dataset
from ars_jax.data.layouts import find_dataset
from ars_jax.data.plan import Plan, Sample
from ars_jax.data.prepare import prepare_case
from ars_jax.data.splits import split_cases
from ars_jax.data.volumes import Volume, write_volume
from ars_jax.files import write_json
from ars_jax.models import STRIDE
from ars_jax.options import preset
from ars_jax.predict import make_model
from ars_jax.ranges import check_config
from ars_jax.train.inputs import make_augmentation
from tests.data.synthetic import LABELS, ct, grid
from tests.objectives import ARS
from tests.realdata import real_data

PAPER: dict[str, dict[str, Any]] = {
    "pddca": {"cases": 48, "organs": 9, "spacing": (1.5, 1.5, 1.5), "window": (-200, 400), "split": (32, 6, 10)},
    "headneck": {"cases": 67, "organs": 14, "shape": (128, 144, 256), "window": (-160, 240), "split": (49, 8, 10)},
    "btcv": {"cases": 30, "organs": 8, "shape": (112, 96, 144), "window": (-500, 800), "split": (20, 10, 0)},
    "lits": {"cases": 131, "organs": 2, "shape": (80, 144, 192), "window": (-250, 250), "split": (86, 15, 30)},
}
"""Section 5 of the method: what each data set has and how the paper prepares it; sides are z, y, x as taken here."""

every_set = pytest.mark.parametrize("name", PAPER)


@functools.cache
def configured(name: str) -> Config:
    config = preset(name, ["--data.root=root", "--run.dir=run"])
    check_config(config)
    return config


def plan_of(config: Config) -> Plan:
    assert config.data.labels
    return make_plan(config, tuple(config.data.labels), STRIDE)


@every_set
def test_preparation_is_the_papers(name: str) -> None:
    paper, plan = PAPER[name], plan_of(configured(name))
    assert len(plan.labels) == paper["organs"]
    assert (plan.crop, plan.intensity, plan.window) == ("body", "window", paper["window"])
    assert plan.spacing == paper.get("spacing")
    assert plan.shape == paper.get("shape")


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("pddca", ["CASE/img.nrrd", "CASE/structures/{organ}.nrrd"]),
        ("btcv", ["img/img0001.nii.gz", "label/label0001.nii.gz"]),
        ("lits", ["Training Batch 1/volume-0.nii", "Training Batch 1/segmentation-0.nii"]),
    ],
)
def test_the_set_and_its_repaired_copy_are_both_recognised(tmp_path: Path, name: str, files: list[str]) -> None:
    data = configured(name).data
    assert data.labels
    copy = ["images/CASE.nii.gz", "labels/CASE.nii.gz"]
    for root, names in (("set", files), ("copy", copy)):
        for path in (tmp_path / root / text.format(organ=organ) for text in names for organ in data.labels):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    write_json(tmp_path / "copy" / "labels.json", data.labels)
    for root, layout in (("set", name), ("copy", "folders")):
        dataset = find_dataset(tmp_path / root, layout=data.layout, labels=data.labels)
        assert (dataset.layout, dataset.labels, len(dataset.cases)) == (layout, data.labels, 1)
        assert dataset.cases[0].labelled


@every_set
def test_the_split_is_the_papers(name: str) -> None:
    paper, data = PAPER[name], configured(name).data
    cases = tuple(Case(f"case{number:03}", Path("image"), Path("label")) for number in range(paper["cases"]))
    dataset = Dataset(Path("root"), "folders", {"Organ": 1}, cases)
    split = split_cases(dataset, sizes=data.split_sizes, folds=data.folds, fold=data.fold, seed=data.split_seed)
    assert tuple(map(len, split)) == paper["split"]
    assert data.folds == (3 if name == "btcv" else None)


@every_set
def test_the_loss_and_the_network_are_the_papers(name: str) -> None:
    config = configured(name)
    loss = config.loss
    assert (loss.name, loss.regions, loss.min_penalty, loss.penalty_range) == (ARS, 16, 0.3, 0.4)
    assert (config.model.variant, config.model.base_channels, config.model.kernel_size) == ("figure", 16, 5)


@every_set
def test_left_and_right_are_exchanged_by_a_flip(name: str) -> None:
    """Pairs that the plan lacks would be told here."""
    config = configured(name)
    plan = plan_of(config)
    augmentation = make_augmentation(config, plan)
    sided = {organ for organ in plan.labels if organ.endswith(("_L", "_R"))}
    assert {plan.labels[channel - 1] for pair in augmentation.swap for channel in pair} == sided
    assert config.augment.flip == (False, False, True)


@every_set
def test_the_network_takes_the_training_samples(name: str) -> None:
    """By shapes alone: nothing is computed."""
    config = configured(name)
    plan = plan_of(config)
    canvas = plan.canvas or plan.shape
    assert canvas
    assert not any(side % STRIDE for side in canvas)
    model = make_model(config.model, len(plan.labels) + 1)
    image = jax.ShapeDtypeStruct((1, *canvas, 1), jnp.float32)
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), image)
    logits = jax.eval_shape(partial(model.apply, train=False), variables, image)
    assert logits.shape == (1, *canvas, len(plan.labels) + 1)


def assert_prepared(sample: Sample, plan: Plan, organs: set[str]) -> None:
    """The image fills the window, and the label holds these organs and no other value."""
    low, high = sample.image.min(), sample.image.max()
    assert -1 <= low < -0.9
    assert 0.9 < high <= 1
    assert sample.image.shape == sample.label.shape
    assert {plan.labels[channel - 1] for channel in np.unique(sample.label) if channel} == organs
    if plan.shape is not None:
        assert sample.image.shape == plan.shape


def test_pddca_prepares_a_real_case() -> None:
    """OpenKBP has four of the nine organs in the same layout."""
    organs = {"BrainStem": 1, "Mandible": 3, "Parotid_L": 6, "Parotid_R": 7}
    config = configured("pddca")
    dataset = find_dataset(real_data("openkbp"), layout=config.data.layout, labels=organs)
    case = min(dataset.cases, key=lambda case: case.image.stat().st_size)
    plan = dataclasses.replace(plan_of(config), labels=tuple(organs), pairs=(("Parotid_L", "Parotid_R"),))
    assert_prepared(prepare_case(case, organs, plan), plan, set(organs))


def test_btcv_prepares_a_real_case() -> None:
    config = configured("btcv")
    assert config.data.labels
    dataset = find_dataset(real_data("abdomen_ct"), layout=config.data.layout, labels=config.data.labels)
    plan = plan_of(config)
    assert_prepared(prepare_case(dataset.cases[0], dataset.labels, plan), plan, set(plan.labels))


def test_lits_prepares_a_made_up_case(tmp_path: Path) -> None:
    """Tumour inside of the liver takes its voxels from it."""
    config = configured("lits")
    image, label = ct(grid((40, 40, 40)))
    drawn = np.isin(label.array, list(LABELS.values())).astype(np.uint8)
    drawn[label.array == LABELS["Ball_R"]] = 2
    image.array[label.array > 0] = 600
    write_volume(tmp_path / "volume-0.nii", image)
    write_volume(tmp_path / "segmentation-0.nii", Volume(drawn, label.geometry))
    dataset = find_dataset(tmp_path, layout=config.data.layout, labels=config.data.labels)
    plan = plan_of(config)
    assert_prepared(prepare_case(dataset.cases[0], dataset.labels, plan), plan, {"Liver", "Tumour"})
