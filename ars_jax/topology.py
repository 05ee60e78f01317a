"""Accelerators that need not be there: compilers make programs for them all the same."""

import importlib.util
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax

from ars_jax.errors import UserError


class Gpu(NamedTuple):
    """What the compiler has to know of a GPU.

    Attributes:
        kind: its name, as its driver gives it.
        generation: the major number of its compute capability.
        cores: multiprocessors.
        lanes: float32 units of each.
        shared_memory: bytes of each that programs share.
        block_memory: bytes of these that one block may take.
        cache: bytes of the second level.
        clock_ghz: at most.
        bandwidth: bytes per second of its memory.
        memory: bytes of its memory.
    """

    kind: str
    generation: int
    cores: int
    lanes: int
    shared_memory: int
    block_memory: int
    cache: int
    clock_ghz: float
    bandwidth: int
    memory: int

    def target(self) -> str:
        """Writes it as the compiler's text proto `stream_executor.GpuTargetConfigProto`, for CUDA 12.9 and cuDNN 9."""
        return f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152 shared_memory_per_block_optin: {self.block_memory}
  shared_memory_per_core: {self.shared_memory}
  core_count: {self.cores} fpus_per_core: {self.lanes} clock_rate_ghz: {self.clock_ghz}
  memory_bandwidth: {self.bandwidth} l2_cache_size: {self.cache} device_memory_size: {self.memory}
  cuda_compute_capability {{ major: {self.generation} }}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 12 }}
runtime_version {{ major: 12 minor: 9 patch: 0 }}
device_description_str: "{self.kind}"
"""


GPUS: Mapping[str, Gpu] = {
    "a100": Gpu("NVIDIA A100-SXM4-80GB", 8, 108, 64, 167936, 166912, 41943040, 1.41, 2_039_040_000_000, 85_100_068_864),
    "h100": Gpu(
        "NVIDIA H100 80GB HBM3", 9, 132, 128, 233472, 232448, 52428800, 1.98, 3_352_320_000_000, 84_929_347_584
    ),
    "h200": Gpu("NVIDIA H200", 9, 132, 128, 233472, 232448, 52428800, 1.98, 4_800_000_000_000, 151_397_597_184),
}
"""GPUs by their short names, the SXM forms."""

_TPU_COMPILER_ONLY = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
"""Has libtpu look for no TPU, and mind no other process that does; the topology is named apart."""


def find_devices(topology: str | None) -> Sequence[Any]:
    """Finds the devices to compile for.

    Name a topology before JAX is used: from then on JAX uses no accelerator of this machine.

    Args:
        topology: accelerators that need not be there: a TPU and its chips, such as "v5e:2x2", or a GPU of `GPUS`, and
            after a colon how many of them, such as "h100" or "h100:4"; None takes this machine's devices.

    Returns:
        The devices.

    Raises:
        UserError: the compiler is not installed, or there is no such topology.
    """
    if topology is None:
        return jax.devices()
    name, _, number = topology.partition(":")
    if gpu := GPUS.get(name.lower()):
        return _find_gpus(topology, gpu, number or "1")
    return _find_tpus(topology, [int(side) for side in re.findall(r"\d+", number)])


def is_absent(device: Any) -> bool:
    """Says whether a device is only compiled for.

    Args:
        device: of this machine, or of a topology.

    Returns:
        Whether it belongs to a topology, where nothing runs.
    """
    try:
        device.memory_stats()
    except RuntimeError:
        return True
    return False


def _find_tpus(topology: str, chips: list[int]) -> Sequence[Any]:
    if not chips:
        raise _unknown(topology, topology)
    _check_package("the TPU compiler", "tpu", "libtpu")
    for name, value in _TPU_COMPILER_ONLY.items():
        os.environ.setdefault(name, value)
    try:
        return _describe("tpu", topology_name=topology)
    except RuntimeError:
        pass
    try:  # as fewer chips than a whole host has
        return _describe("tpu", topology_name=topology, chips_per_host_bounds=[*chips, 1, 1][:3])
    except RuntimeError as error:
        raise _unknown(topology, f"{topology} ({error})") from error


def _find_gpus(topology: str, gpu: Gpu, number: str) -> Sequence[Any]:
    if not re.fullmatch(r"[1-9]\d*", number):
        raise _unknown(topology, topology)
    _check_package("the GPU compiler", "plan-gpu", "jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")
    try:  # partitions x hosts x GPUs of each
        return _describe("cuda", topology=f"1x1x{number}", target_config=gpu.target())
    except RuntimeError as error:
        raise _unknown(topology, f"{topology} ({error})") from error


def _unknown(topology: str, found: str) -> UserError:
    wanted = f"a TPU's such as v5e:1x1, v5p:2x2x1 or v6e:4x4, or a GPU's: {', '.join(GPUS)}, h100:4"
    return UserError("--topology", found=found, wanted=wanted, fix=f"correct {topology}, or leave --topology out")


def _check_package(wanted: str, extra: str, *packages: str) -> None:
    if not any(map(_is_installed, packages)):
        fix = f"pip install 'ars_jax[{extra}]', or leave --topology out"
        raise UserError("--topology", found=f"no {packages[0]}", wanted=wanted, fix=fix)


def _is_installed(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # nor is the package around it
        return False


def _describe(platform: str, **options: Any) -> Sequence[Any]:
    from jax.experimental.topologies import get_topology_desc

    # Else JAX looks for accelerators of this machine, and a CUDA plugin without CUDA logs an error.
    jax.config.update("jax_platforms", "cpu")
    return get_topology_desc(platform=platform, **options).devices
