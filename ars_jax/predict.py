"""From a trained run and an image to a label map on the image's own grid."""

import itertools
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ars_jax.checkpoint import Which, checkpoints, find_step, restore
from ars_jax.config import Config, ModelConfig
from ars_jax.data.plan import Plan, read_plan
from ars_jax.data.prepare import fill_value, pad_to, padded_shape, prepare_image, restore_label, unpad
from ars_jax.data.volumes import READABLE, WRITABLE, Volume, read_geometry, read_volume, write_volume
from ars_jax.errors import UserError
from ars_jax.files import write_json
from ars_jax.mesh import make_mesh, replicated
from ars_jax.models import STRIDE, VNet, packs_volumes

WINDOW_OVERLAP = 0.5


@dataclass(frozen=True)
class Network:
    """A network with its parameters, and the plan that its input is prepared by.

    Attributes:
        model: the V-Net.
        params: its parameters.
        batch_stats: its running statistics.
        plan: how volumes are prepared.
    """

    model: VNet
    params: Any
    batch_stats: Any
    plan: Plan


def make_model(config: ModelConfig, classes: int) -> VNet:
    """Makes the configured V-Net.

    Args:
        config: its widths and type.
        classes: output channels, background included.

    Returns:
        The module.
    """
    return VNet(
        classes=classes,
        variant=config.variant,
        base_channels=config.base_channels,
        kernel_size=config.kernel_size,
        dropout=config.dropout,
        dtype=jnp.dtype(config.dtype),
        remat=config.remat,
    )


def load_network(run: Path, config: Config, which: Which = "best") -> Network:
    """Loads a run's network.

    Args:
        run: folder of the run.
        config: the run's configuration, as `ars-jax train` saved it.
        which: the best or the newest checkpoint.

    Returns:
        The network.

    Raises:
        UserError: no checkpoint, or one that does not fit the configuration.
    """
    plan = read_plan(run / "plan.json")
    model = make_model(config.model, len(plan.labels) + 1)
    shape = jax.ShapeDtypeStruct((1, STRIDE, STRIDE, STRIDE, 1), jnp.float32)
    variables = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), shape)
    sharding = replicated(make_mesh(data=1))
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), variables)
    with checkpoints(run / "checkpoints", read_only=True) as manager:
        state = restore(manager, find_step(manager, which), {"model": like})
    return Network(model, state["model"]["params"], state["model"]["batch_stats"], plan)


def predict_volume(network: Network, volume: Volume, name: object = "image") -> Volume:
    """Predicts the label map of an image.

    Args:
        network: from `load_network`.
        volume: the image, in any orientation.
        name: the file, for messages.

    Returns:
        Channel numbers uint8 on exactly the image's grid: organ k of the plan is k + 1, background 0.

    Raises:
        UserError: an image that cannot be prepared.
    """
    array, grid = prepare_image(volume, network.plan, name)
    return restore_label(predict_array(network, array), grid, volume.geometry)


def predict_array(network: Network, image: np.ndarray) -> np.ndarray:
    """Predicts a prepared image, whole or by the plan's sliding window.

    Args:
        network: the network.
        image: float32 `[z, y, x]`, prepared by the network's plan.

    Returns:
        Channel numbers uint8 `[z, y, x]`.
    """
    if network.plan.patch is not None:
        return _window_probabilities(network, image, network.plan.patch).argmax(-1).astype(np.uint8)
    labels = _labels(network.model, network.params, network.batch_stats, _padded(network.plan, image))
    return unpad(np.asarray(labels[0]), image.shape)


def predict_logits(network: Network, image: np.ndarray) -> np.ndarray:
    """Predicts what a loss sees of a prepared image.

    Args:
        network: the network.
        image: float32 `[z, y, x]`, prepared by the network's plan.

    Returns:
        Logits float32 `[z, y, x, c]`; with a sliding window the logarithm of the averaged probabilities, whose softmax
        they are.
    """
    if network.plan.patch is not None:
        total = _window_probabilities(network, image, network.plan.patch)
        return np.log(np.maximum(total / total.sum(-1, keepdims=True), np.finfo(np.float32).tiny))
    logits = _logits(network.model, network.params, network.batch_stats, _padded(network.plan, image))
    return unpad(np.asarray(logits[0], np.float32), image.shape)


def _padded(plan: Plan, image: np.ndarray) -> np.ndarray:
    shape = np.maximum(padded_shape(image.shape, plan.multiple), plan.whole or (1, 1, 1))
    return pad_to(image, tuple(map(int, shape)), fill_value(image))[None, ..., None]


def _window_probabilities(network: Network, image: np.ndarray, patch: tuple[int, int, int]) -> np.ndarray:
    """Sums the probabilities of overlapping windows, each weighted towards its middle, `[z, y, x, c]`."""
    padded = pad_to(image, tuple(int(side) for side in np.maximum(image.shape, patch)), fill_value(image))
    weight = _window_weight(patch)[..., None]
    classes = len(network.plan.labels) + 1
    total = np.zeros((*padded.shape, classes), np.float32)
    for corner in itertools.product(*map(window_starts, padded.shape, patch)):
        window = tuple(slice(start, start + side) for start, side in zip(corner, patch, strict=True))
        inputs = padded[window][None, ..., None]
        total[window] += weight * np.asarray(
            _probabilities(network.model, network.params, network.batch_stats, inputs)[0]
        )
    return unpad(total, image.shape)


def window_starts(side: int, window: int) -> list[int]:
    """Spreads windows evenly over a side so that they cover it and overlap by at least half.

    Args:
        side: voxels to cover, at least `window`.
        window: voxels of a window.

    Returns:
        The first voxel of each window, rising; the last window ends with the side.
    """
    count = math.ceil((side - window) / (window * (1 - WINDOW_OVERLAP))) + 1
    return np.linspace(0, side - window, count).round().astype(int).tolist()


def _window_weight(patch: tuple[int, int, int]) -> np.ndarray:
    """The product over axes of a triangle that is highest in the middle and nowhere 0."""
    lines = [1 - np.abs(np.arange(side) - (side - 1) / 2) / (side / 2 + 0.5) for side in patch]
    return np.einsum("i,j,k->ijk", *lines).astype(np.float32)


@partial(jax.jit, static_argnums=0)
def _labels(model: VNet, params: Any, batch_stats: Any, image: jax.Array) -> jax.Array:
    return jnp.argmax(_logits(model, params, batch_stats, image), axis=-1).astype(jnp.uint8)


@partial(jax.jit, static_argnums=0)
def _probabilities(model: VNet, params: Any, batch_stats: Any, image: jax.Array) -> jax.Array:
    return jax.nn.softmax(_logits(model, params, batch_stats, image))


@partial(jax.jit, static_argnums=0)
def _logits(model: VNet, params: Any, batch_stats: Any, image: jax.Array) -> jax.Array:
    model = model.clone(packed=packs_volumes(jax.default_backend()))  # as in training
    logits = model.apply({"params": params, "batch_stats": batch_stats}, image, train=False)
    return jnp.asarray(logits)


def predict_files(
    network: Network, images: Sequence[Path], out: Path, progress: Callable[[int, int, str], None] | None = None
) -> list[Path]:
    """Predicts image files into a folder, with the table of label values beside them.

    Args:
        network: from `load_network`.
        images: volume files or folders of a DICOM series.
        out: gets `NAME.nii.gz` (or the image's own format) for each, and `labels.json`.
        progress: called after every image with the number done, the number of all and the name.

    Returns:
        The written label maps, in the order of the images.

    Raises:
        UserError: two images of one name, an image that cannot be read or prepared, or one that lies where its label
            map would be written; all headers are read before anything is written.
    """
    paths = [out / f"{name}{_output_suffix(image)}" for image, name in zip(images, output_names(images), strict=True)]
    for image, path in zip(images, paths, strict=True):
        read_geometry(image)
        place = Path(
            os.path.realpath(path)
        )  # a folder that is not there yet, left again by "..", hides an existing file
        if place.exists() and any(place.samefile(other) for other in images):
            fix = "choose another folder for --out"
            raise UserError(path, found="an image to predict", wanted="a place for its label map", fix=fix)
    write_labels(out, network.plan.labels)
    for done, (image, path) in enumerate(zip(images, paths, strict=True), start=1):
        write_volume(path, predict_volume(network, read_volume(image), image))
        if progress is not None:
            progress(done, len(images), image.name)
    return paths


def _output_suffix(image: Path) -> str:
    return next((end for end in WRITABLE if image.name.lower().endswith(end)), ".nii.gz")


def write_labels(folder: Path, organs: Sequence[str]) -> None:
    """Writes `labels.json`, the names of the channel numbers in a folder of label maps."""
    write_json(folder / "labels.json", {organ: number for number, organ in enumerate(organs, start=1)})


def output_names(images: Sequence[Path]) -> list[str]:
    """Names the outputs: the file's name without its format, or its folder's where files share a name.

    Args:
        images: the input paths.

    Returns:
        One different name for each.

    Raises:
        UserError: files that share both names.
    """
    stems = [_stem(image) for image in images]
    names = [
        stem if stems.count(stem) == 1 else image.absolute().parent.name
        for stem, image in zip(stems, images, strict=True)
    ]
    for name, image in zip(names, images, strict=True):
        if names.count(name) > 1:
            raise UserError(
                image, found=f"another image named {name}", wanted="names that differ", fix="run them apart"
            )
    return names


def _stem(path: Path) -> str:
    name = path.absolute().name
    return next((name[: -len(end)] for end in READABLE if name.lower().endswith(end)), name)
