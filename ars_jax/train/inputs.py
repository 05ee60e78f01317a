"""From the configuration to prepared cases: finding, splitting, preparing, and the plan that fits them."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ars_jax.config import Config, make_plan
from ars_jax.data.augment import Augmentation
from ars_jax.data.cache import load_sample
from ars_jax.data.layouts import Case, Dataset, find_dataset, split_cases
from ars_jax.data.plan import Plan, Sample
from ars_jax.data.prepare import complete_plan, prepare_dataset
from ars_jax.models import STRIDE

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Inputs:
    """What a training trains on.

    Attributes:
        plan: with its canvas.
        training: prepared training cases.
        validation: prepared validation cases.
        partly_labelled: whether some training case says that an organ was not drawn.
    """

    plan: Plan
    training: tuple[Sample, ...]
    validation: tuple[Sample, ...]
    partly_labelled: bool


def find_cases(config: Config) -> tuple[Dataset, tuple[Case, ...], tuple[Case, ...]]:
    """Finds a configuration's data set and splits it; reads names only.

    Args:
        config: the configuration.

    Returns:
        The data set, its training cases and its validation cases.

    Raises:
        UserError: no data set there, or a split that does not fit it.
    """
    data = config.data
    dataset = find_dataset(data.root, layout=data.layout, labels=data.labels)
    training, validation = split_cases(
        dataset, split=data.split, validation_fraction=data.validation_fraction, seed=data.split_seed
    )
    return dataset, training, validation


def cache_folder(config: Config) -> Path:
    """Returns the folder of the prepared cases."""
    return config.data.cache or config.run.dir / "cache"


def prepare_inputs(config: Config, progress: Progress | None = None) -> Inputs:
    """Prepares all cases of a configuration into its cache and loads them.

    Args:
        config: the configuration.
        progress: called after every case with the number done, the number of all and the name.

    Returns:
        The prepared cases.

    Raises:
        UserError: the first faulty file, or values that contradict each other.
    """
    dataset, training, validation = find_cases(config)
    plan = make_plan(config, tuple(dataset.labels), STRIDE)
    paths = prepare_dataset((*training, *validation), dataset.labels, plan, cache_folder(config), progress)
    plan = complete_plan(plan, paths[: len(training)])
    samples = tuple(load_sample(path) for path in paths)
    train_samples, validation_samples = samples[: len(training)], samples[len(training) :]
    partly = not all(np.all(sample.labelled) for sample in train_samples)
    return Inputs(plan, train_samples, validation_samples, partly)


def make_augmentation(config: Config, plan: Plan) -> Augmentation:
    """Joins the configured ranges and the plan's left and right organs.

    Args:
        config: the configuration.
        plan: names the organs and their pairs.

    Returns:
        The augmentation.
    """
    channel = {organ: number for number, organ in enumerate(plan.labels, start=1)}
    swap = tuple((channel[left], channel[right]) for left, right in plan.pairs)
    augment = config.augment
    return Augmentation(
        augment.flip, augment.translate, augment.scale, augment.intensity_shift, augment.intensity_scale, swap
    )
