"""The configuration's schema as frozen dataclasses, and how it is written; `options` reads it, `ranges` checks it."""

import dataclasses
from pathlib import Path
from typing import Literal

import yaml

from ars_jax.data.plan import Plan
from ars_jax.losses import Objective

Layout = Literal["auto", "msd", "folders", "btcv", "lits", "pddca", "dicom"]
Convention = Literal["paper-boundary", "paper-volume", "monai", "medpy", "deepmind"]
TOLERANCE_MM = 2.0
Role = Literal["validation", "test"]
Remat = Literal["none", "convolutions", "stages"]
Sides = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the cases are and which of them train.

    Args:
        root: folder of the data set.
        layout: how it is arranged; auto recognises the known ones.
        labels: organs and their values on disk; null takes the data set's own table.
        pairs: names of left and right organs, exchanged when the left-right axis is flipped.
        split: JSON file {"train": [...], "validation": [...]}, relative to the data set, and maybe "test" cases, which
            training never sees; null draws a split.
        split_sizes: cases drawn for training, validation and test; exclusive with split and folds.
        folds: parts of a cross-validation, into which the cases are shuffled; exclusive with split and split_sizes.
        fold: the part, from 0, that validates; the others train.
        validation_fraction: part of the cases kept for validation where none of these is given.
        split_seed: decides which cases are drawn.
        cache: folder of the prepared cases; null is the folder "cache" of the run.
    """

    root: Path
    layout: Layout = "auto"
    labels: dict[str, int] | None = None
    pairs: tuple[tuple[str, str], ...] = ()
    split: Path | None = None
    split_sizes: tuple[int, int, int] | None = None
    folds: int | None = None
    fold: int = 0
    validation_fraction: float = 0.2
    split_seed: int = 0
    cache: Path | None = None


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """What is done to every volume before the network sees it; sides are z, y, x.

    Args:
        crop: keep the body, the box of the voxels that are not 0, or everything.
        crop_threshold: lowest image value of the body (HU for CT).
        crop_margin_mm: kept around the crop.
        spacing: mm to resample to; null keeps the image's own.
        shape: voxels to resample the crop to, as the paper does; exclusive with spacing.
        intensity: map a window to [-1, 1], or subtract the mean and divide by the standard deviation.
        window: lowest and highest value of the window.
        canvas: voxels of a training sample; null holds every training case whole.
        patch: voxels of the sliding window at prediction; null predicts the volume at once.
    """

    crop: Literal["none", "body", "nonzero"] = "none"
    crop_threshold: float = -400.0
    crop_margin_mm: float = 5.0
    spacing: tuple[float, float, float] | None = None
    shape: Sides | None = None
    intensity: Literal["window", "zscore"] = "zscore"
    window: tuple[float, float] | None = None
    canvas: Sides | None = None
    patch: Sides | None = None


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Random changes of the training samples.

    Args:
        flip: axes z, y, x flipped in half of the draws.
        translate: largest shift, as a fraction of the canvas side.
        scale: smallest and largest magnification.
        intensity_shift: largest value added to the normalised image.
        intensity_scale: largest relative change of the normalised values.
        device: the accelerator makes the drawn changes, for machines whose processors are too slow for it; the same
            changes, images but for rounding.
    """

    flip: tuple[bool, bool, bool] = (False, False, False)
    translate: float = 0.05
    scale: tuple[float, float] = (0.9, 1.1)
    intensity_shift: float = 0.0
    intensity_scale: float = 0.0
    device: bool = False


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The V-Net.

    Args:
        variant: the published figure's network, the one that its authors released, or MONAI's.
        base_channels: channels of the first stage (the paper: 16).
        kernel_size: side of the convolutions (the paper: 5).
        dropout: the share of channels dropped at depth.
        dtype: type of the computation; parameters and losses are float32, kernels' gradients are rounded to it once.
        remat: what the backward pass computes again to save memory: nothing, all but the convolutions, or whole stages.
    """

    variant: Literal["figure", "released", "monai"] = "figure"
    base_channels: int = 16
    kernel_size: int = 5
    dropout: float = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Adam and its learning rate.

    Args:
        learning_rate: the highest.
        schedule: constant, or down to zero along half a cosine.
        warmup: part of the steps over which the rate rises from zero.
        clip_norm: largest norm of the gradient; null does not clip.
    """

    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup: float = 0.02
    clip_norm: float | None = None


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The length and rhythm of a training.

    Args:
        epochs: passes over the training cases.
        batch_size: cases of a step, over all devices.
        accumulate: parts of a batch that are computed one after another, to save memory; their gradients are averaged.
        validate_every: epochs between validations; each is followed by a checkpoint.
        maps_every: epochs between the regional maps of the first validation case, maps/epoch_NNNN.npz of the run's
            folder; 0 writes none.
        stall_s: seconds without progress after which it is told where the training stands, then after twice, four
            times, ... as long; 0 never tells.
        seed: decides the parameters at the start, the order, the augmentation and the dropout.
    """

    epochs: int = 100
    batch_size: int = 1
    accumulate: int = 1
    validate_every: int = 10
    maps_every: int = 0
    stall_s: float = 600.0
    seed: int = 0


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How the devices share the work; a run may go on with another mesh.

    Args:
        data: devices, or groups of them, that share a batch; null takes all that there are.
        space: devices that share every volume, each a part of its depth.
        parameters: whole on every device, or, to save memory, divided over data with the optimiser's moments.
    """

    data: int | None = None
    space: int = 1
    parameters: Literal["replicated", "sharded"] = "replicated"


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Where results go.

    Args:
        dir: folder of the run.
    """

    dir: Path


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that decides a run.

    Args:
        data: where the cases are and which of them train.
        run: where results go.
        prepare: what is done to every volume.
        augment: random changes of the training samples.
        model: the V-Net.
        loss: the objective, see ars_jax.losses.Objective.
        optim: Adam.
        train: length and rhythm.
        mesh: how the devices share the work.
    """

    data: DataConfig
    run: RunConfig
    prepare: PrepareConfig = PrepareConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    loss: Objective = Objective()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    mesh: MeshConfig = MeshConfig()


def make_plan(config: Config, labels: tuple[str, ...], multiple: int) -> Plan:
    """Joins the configuration and the data set's organs to a preparation plan.

    Args:
        config: the configuration.
        labels: organ names in channel order.
        multiple: what the network wants every side to be a multiple of.

    Returns:
        The plan; its canvas is still null if the configuration leaves it out.

    Raises:
        UserError: values that contradict each other.
    """
    return Plan(labels=labels, pairs=config.data.pairs, multiple=multiple, **dataclasses.asdict(config.prepare))


def with_absolute_paths(config: Config) -> Config:
    """Makes the paths of a configuration independent of the working folder, so that a run is found from anywhere."""
    cache = config.data.cache and config.data.cache.absolute()
    data = dataclasses.replace(config.data, root=config.data.root.absolute(), cache=cache)
    return dataclasses.replace(config, data=data, run=RunConfig(config.run.dir.absolute()))


def to_dict(config: object) -> object:
    """Turns a configuration into plain dictionaries, lists, strings and numbers, for YAML and JSON."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, dict):
        return {str(key): to_dict(value) for key, value in config.items()}
    if isinstance(config, tuple | list):
        return [to_dict(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def to_yaml(config: Config) -> str:
    """Writes a configuration as YAML that `ars-jax train --config` takes again."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)
