"""The ranges of a configuration's values, which its types do not hold."""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from types import NoneType
from typing import get_args, get_type_hints

from ars_jax.config import Config, DataConfig, to_dict
from ars_jax.errors import UserError
from ars_jax.losses import Objective, RegionSize

_MOST, _MOST_EPOCHS, _MOST_CHANNELS, _LARGEST_KERNEL = 2**32, 1_000_000, 4096, 31
_MOST_SECONDS = 1_000_000  # a thread waits no longer than some hundred years

Rule = tuple[str, object, bool, str]
"""A key, its value, whether the value is in its range, and the range in words."""


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
            raise UserError(key, found=found, wanted=wanted, fix=f"correct it in the configuration or with {options}")


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


def _loss_rules(loss: Objective) -> tuple[Rule, ...]:
    """What a training fixes; `Objective` checks its own values."""
    counts = loss.regions.voxels if isinstance(loss.regions, RegionSize) else loss.regions
    axes = 3 if isinstance(counts, int | None) else len(counts)
    return (
        ("loss.regions", loss.regions, axes == 3, "one number, or one for each of three axes"),
        ("loss.spatial_dims", loss.spatial_dims, loss.spatial_dims == 3, "3, volumes"),
        ("loss.depth_shards", loss.depth_shards, loss.depth_shards == 1, "1: mesh.space divides the depth"),
        (
            "loss.from_probabilities",
            loss.from_probabilities,
            not loss.from_probabilities,
            "false: networks give logits",
        ),
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
