"""The configuration's schema as frozen dataclasses, its ranges, and how it is written; `options` reads it."""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import NoneType
from typing import Literal, get_args, get_type_hints

import yaml

from ars_jax.data.plan import Plan
from ars_jax.errors import UserError

Objective = Literal[
    "cross_entropy",
    "dice",
    "baseline",
    "baseline+rs",
    "baseline+ars",
    "focal_tversky",
    "generalized_dice",
    "sensitivity_specificity",
]

Layout = Literal["auto", "msd", "folders", "btcv", "lits", "pddca", "dicom"]
Convention = Literal["paper-boundary", "paper-volume", "monai", "medpy", "deepmind"]
TOLERANCE_MM = 2.0
Role = Literal["validation", "test"]
Remat = Literal["none", "convolutions", "stages"]
Sides = tuple[int, int, int]

_MOST, _MOST_EPOCHS, _MOST_CHANNELS, _LARGEST_KERNEL = 2**32, 1_000_000, 4096, 31
_MOST_SECONDS = 1_000_000  # a thread waits no longer than some hundred years

Rule = tuple[str, object, bool, str]
"""A key, its value, whether the value is in its range, and the range in words."""


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
class LossConfig:
    """The objective; see ars_jax.losses.

    Args:
        objective: one of the paper's five (baseline is Dice plus cross-entropy, rs and ars add a regional term), or one
            of the three that it compares with, alone.
        region_weight: weight of the regional term beside the baseline, which the paper does not give.
        cross_entropy_weight: weight of the cross-entropy, the paper's lambda, which it does not give.
        cross_entropy_reduction: mean over voxels, or the paper's literal sum.
        grid: regions per axis (the paper: 16).
        region_size: largest region side in voxels, instead of grid.
        a: smallest adaptive penalty.
        b: range of the adaptive penalty.
        adaptive_gradient: differentiate through the penalties, as the formula is written, or stop there.
        absent: skip pairs of region and class without reference, or count them.
        reduction: of the regional term over regions and classes.
        eps: smoothing in voxels.
        fp_weight: penalty of false positives in focal_tversky.
        fn_weight: penalty of false negatives in focal_tversky.
        gamma: of focal_tversky, whose power is 1 / gamma.
        sensitivity_weight: r of sensitivity_specificity.
    """

    objective: Objective = "baseline+ars"
    region_weight: float = 1.0
    cross_entropy_weight: float = 1.0
    cross_entropy_reduction: Literal["mean", "sum"] = "mean"
    grid: int | Sides | None = 16
    region_size: int | Sides | None = None
    a: float = 0.3
    b: float = 0.4
    adaptive_gradient: Literal["through", "stop"] = "stop"
    absent: Literal["skip", "count"] = "skip"
    reduction: Literal["sum", "mean", "class_mean"] = "class_mean"
    eps: float = 1e-7
    fp_weight: float = 0.3
    fn_weight: float = 0.7
    gamma: float = 4 / 3
    sensitivity_weight: float = 0.05


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
        loss: the objective.
        optim: Adam.
        train: length and rhythm.
        mesh: how the devices share the work.
    """

    data: DataConfig
    run: RunConfig
    prepare: PrepareConfig = PrepareConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    train: TrainConfig = TrainConfig()
    mesh: MeshConfig = MeshConfig()


def check_config(config: Config) -> None:
    """Holds the ranges that types do not hold.

    Args:
        config: the configuration.

    Raises:
        UserError: the first key that is out of its range.
    """
    _hold(_given_rules(config))
    data, augment, model, loss = config.data, config.augment, config.model, config.loss
    optim, train, mesh = config.optim, config.train, config.mesh
    rules: tuple[Rule, ...] = (
        *_split_rules(data),
        ("augment.translate", augment.translate, 0 <= augment.translate < 1, "at least 0 and below 1"),
        (
            "augment.scale",
            augment.scale,
            0.01 <= augment.scale[0] <= augment.scale[1] <= 100,
            "0 < smallest <= largest, from 0.01 to 100",
        ),
        ("augment.intensity_scale", augment.intensity_scale, 0 <= augment.intensity_scale < 1, "0 to below 1"),
        ("augment.intensity_shift", augment.intensity_shift, 0 <= augment.intensity_shift <= 1000, "0 to 1000"),
        (
            "model.base_channels",
            model.base_channels,
            0 < model.base_channels <= _MOST_CHANNELS,
            f"at least 1, at most {_MOST_CHANNELS}",
        ),
        (
            "model.kernel_size",
            model.kernel_size,
            model.kernel_size in range(1, _LARGEST_KERNEL + 1, 2),
            f"an odd side up to {_LARGEST_KERNEL}",
        ),
        ("model.dropout", model.dropout, 0 <= model.dropout < 1, "at least 0 and below 1"),
        *_loss_rules(loss),
        ("optim.learning_rate", optim.learning_rate, optim.learning_rate > 0, "above 0"),
        ("optim.warmup", optim.warmup, 0 <= optim.warmup < 1, "at least 0 and below 1"),
        ("optim.clip_norm", optim.clip_norm, optim.clip_norm is None or optim.clip_norm > 0, "above 0 or null"),
        ("train.epochs", train.epochs, 0 < train.epochs <= _MOST_EPOCHS, f"at least 1, at most {_MOST_EPOCHS}"),
        ("train.batch_size", train.batch_size, train.batch_size > 0, "at least 1"),
        ("train.accumulate", train.accumulate, train.accumulate > 0, "at least 1"),
        ("train.validate_every", train.validate_every, train.validate_every > 0, "at least 1"),
        ("train.maps_every", train.maps_every, train.maps_every >= 0, "at least 0"),
        ("train.stall_s", train.stall_s, 0 <= train.stall_s <= _MOST_SECONDS, f"0 to {_MOST_SECONDS}"),
        ("train.seed", train.seed, train.seed >= 0, "at least 0"),
        ("mesh.data", mesh.data, mesh.data is None or mesh.data > 0, "at least 1, or null"),
        ("mesh.space", mesh.space, mesh.space > 0, "at least 1"),
    )
    _hold((*rules, *_finite_rules(to_dict(config))))


def _hold(rules: Iterable[Rule]) -> None:
    for key, found, holds, wanted in rules:
        if not holds:
            options = " and ".join(f"--{name}" for name in key.split(", "))
            raise UserError(key, found=found, wanted=wanted, fix=f"mend it in the configuration or with {options}")


def _given_rules(value: object, key: str = "") -> Iterator[Rule]:
    """Only what may be null is null; parsers let null through everywhere."""
    hints = get_type_hints(type(value))
    for field in dataclasses.fields(value):  # type: ignore[arg-type]
        item, name = getattr(value, field.name), f"{key}.{field.name}".lstrip(".")
        if dataclasses.is_dataclass(item):
            yield from _given_rules(item, name)
        else:
            yield (name, "null", item is not None or NoneType in get_args(hints[field.name]), "a value")


def _split_rules(data: DataConfig) -> tuple[Rule, ...]:
    ways, sizes, folds = (data.split, data.split_sizes, data.folds), data.split_sizes, data.folds
    one = sum(way is not None for way in ways) <= 1
    drawn = sizes is None or (min(sizes[:2]) >= 1 and sizes[2] >= 0)
    return (
        ("data.split, data.split_sizes, data.folds", ways, one, "at most one of them"),
        ("data.split_sizes", sizes, drawn, "at least 1 training and 1 validation case, and 0 or more test cases"),
        ("data.folds", folds, folds is None or folds >= 2, "at least 2, or null"),
        ("data.fold", data.fold, 0 <= data.fold < (folds or 1), f"0 to {folds - 1}" if folds else "0 without folds"),
        ("data.validation_fraction", data.validation_fraction, 0 < data.validation_fraction < 1, "0 to 1"),
        ("data.split_seed", data.split_seed, data.split_seed >= 0, "at least 0"),
    )


def _loss_rules(loss: LossConfig) -> tuple[Rule, ...]:
    one = (loss.grid is None) != (loss.region_size is None)
    division = loss.region_size if loss.grid is None else loss.grid
    counted = min(division if isinstance(division, tuple) else (division or 0,)) >= 1
    adaptive, fixed = (loss.a, loss.b), (loss.fp_weight, loss.fn_weight)
    weights = "at least 0, not both 0"
    return (
        ("loss.grid, loss.region_size", (loss.grid, loss.region_size), one, "one of them, the other null"),
        ("loss.grid, loss.region_size", division, counted, "at least 1"),
        ("loss.region_weight", loss.region_weight, loss.region_weight >= 0, "at least 0"),
        ("loss.cross_entropy_weight", loss.cross_entropy_weight, loss.cross_entropy_weight >= 0, "at least 0"),
        ("loss.a, loss.b", adaptive, min(adaptive) >= 0 < sum(adaptive), weights),
        ("loss.eps", loss.eps, loss.eps > 0, "above 0"),
        ("loss.fp_weight, loss.fn_weight", fixed, min(fixed) >= 0 < sum(fixed), weights),
        ("loss.gamma", loss.gamma, loss.gamma > 0, "above 0"),
        ("loss.sensitivity_weight", loss.sensitivity_weight, 0 <= loss.sensitivity_weight <= 1, "0 to 1"),
    )


def _finite_rules(value: object, key: str = "") -> Iterator[Rule]:
    """No number may be infinite, NaN or longer than JAX's, and no text may hold what paths cannot."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else ((None, item) for item in value)
        for name, item in items:
            yield from _finite_rules(item, key if name is None else f"{key}.{name}".lstrip("."))
    elif isinstance(value, float):
        yield (key, value, math.isfinite(value), "a finite number")
    elif isinstance(value, int):
        yield (key, value, abs(value) < _MOST, f"a number below {_MOST}")
    elif isinstance(value, str):
        yield (key, value, "\0" not in value, "text without NUL")


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
