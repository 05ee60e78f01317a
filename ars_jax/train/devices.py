"""Which devices train, held against the batch and the canvas that they share."""

from collections.abc import Sequence
from typing import Any

import jax

from ars_jax.config import Config
from ars_jax.errors import UserError
from ars_jax.mesh import Mesh, make_mesh
from ars_jax.models import STRIDE


def training_mesh(config: Config, devices: Sequence[Any] | None = None) -> Mesh:
    """Makes the configured mesh.

    Args:
        config: the mesh and the batch.
        devices: to choose from; those of all processes by default.

    Returns:
        The mesh.

    Raises:
        UserError: more devices than there are, a process without any, a batch that does not divide, or devices that
            JAX makes no mesh of.
    """
    devices = jax.devices() if devices is None else devices
    data, space = _sides(config, len(devices))
    if data * space > len(devices):
        wanted = f"at most the {len(devices)} devices that there are"
        raise UserError("mesh.data, mesh.space", found=f"{data} x {space}", wanted=wanted, fix="ask for fewer")
    _check_batch(config, data)
    processes = {device.process_index for device in devices[: data * space]}
    if missing := {device.process_index for device in devices} - processes:
        found = f"{data} x {space}, which leave process {min(missing)} without a device"
        wanted, fix = f"all {len(devices)} devices", "ask for all of them, or start fewer processes"
        raise UserError("mesh.data, mesh.space", found=found, wanted=wanted, fix=fix)
    try:
        return make_mesh(data, space, devices)
    except (AssertionError, ValueError, NotImplementedError) as error:
        wanted, fix = "devices that JAX makes a mesh of", f"for example 1 x 1, or all {len(devices)}"
        found = " ".join(f"{data} x {space} ({error})".split())
        raise UserError("mesh.data, mesh.space", found=found, wanted=wanted, fix=fix) from error


def _sides(config: Config, count: int) -> tuple[int, int]:
    data, space = config.mesh.data, config.mesh.space
    return max(count // space, 1) if data is None else data, space


def _check_batch(config: Config, data: int) -> None:
    size, parts = config.train.batch_size, config.train.accumulate
    if size % (data * parts):
        devices = f"the {data} {'devices' if config.mesh.space == 1 else 'groups of devices'} along mesh.data"
        wanted = f"a multiple of {devices}" + (f" times train.accumulate {parts}" if parts > 1 else "")
        fix = f"for example {data * parts}, or fewer devices by --mesh.data"
        raise UserError("train.batch_size", found=size, wanted=wanted, fix=fix)


def check_depth(canvas: Sequence[int], space: int, key: str = "prepare.canvas") -> None:
    """Holds the canvas against the devices that share its depth, if there are several.

    Args:
        canvas: voxels z, y, x.
        space: devices along the depth.
        key: what names the canvas.

    Raises:
        UserError: the depth does not divide into equal parts that can be halved as often as the network does.
    """
    multiple = STRIDE * space
    if space > 1 and canvas[0] % multiple:
        wanted = f"a depth that is a multiple of {multiple}, {STRIDE} for each of the {space} devices along mesh.space"
        deeper = -(-canvas[0] // multiple) * multiple
        fix = f"for example a depth of {deeper}, or a smaller mesh.space"
        raise UserError(key, found=f"{tuple(canvas)}", wanted=wanted, fix=fix)
