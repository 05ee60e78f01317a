"""Accelerators that are not there: which are known, and what their compilers make, where these are installed."""

import importlib.util
import json
import os
import subprocess
import sys
from typing import Any

import jax
import jax.experimental.topologies
import pytest

from ars_jax.errors import UserError
from ars_jax.topology import GPUS, find_devices, is_absent

COMPILE = """
import json, sys
import jax, jax.numpy as jnp
from ars_jax.hlo import count_program
from ars_jax.topology import find_devices, is_absent

device = find_devices(sys.argv[1])[0]
here = jax.sharding.SingleDeviceSharding(device)

def product(x, k):
    scanned, _ = jax.lax.scan(lambda c, _: (c @ k, None), x, length=9)
    return jnp.sum(scanned)

def convolution(x, k):
    labels = ("NDHWC", "DHWIO", "NDHWC")
    y = jax.lax.conv_general_dilated(x.reshape(1, 16, 16, 16, 16), k.reshape(2, 2, 2, 16, 16), (2, 2, 2), "VALID",
                                     dimension_numbers=labels)
    return jnp.sum(y**2)

counted = []
for function in (product, jax.grad(convolution, argnums=(0, 1))):
    given = (jax.ShapeDtypeStruct((16 * 16 * 16, 16), jnp.bfloat16, sharding=here),
             jax.ShapeDtypeStruct((16 if function is product else 128, 16), jnp.bfloat16, sharding=here))
    program = jax.jit(function).lower(*given).compile()
    counts = count_program(program.as_text())
    counted.append([counts.flops, counts.loops, counts.launches, counts.cycles])
json.dump({"kind": device.device_kind, "absent": is_absent(device), "counted": counted}, sys.stdout)
"""


def packages(*names: str) -> bool:
    try:
        return any(importlib.util.find_spec(name) for name in names)
    except ModuleNotFoundError:
        return False


gpu = pytest.mark.skipif(
    not packages("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13"), reason="the GPU compiler is not installed"
)
tpu = pytest.mark.skipif(not packages("libtpu"), reason="the TPU compiler is not installed")


@pytest.mark.parametrize(
    ("topology", "kind"),
    [
        *(pytest.param(name, gpu_.kind, marks=gpu) for name, gpu_ in GPUS.items()),
        pytest.param("v5e:1x1", "TPU v5 lite", marks=tpu),
    ],
)
def test_a_program_for_an_absent_accelerator_is_counted_with_its_loops(topology: str, kind: str) -> None:
    """Nine products in a loop, and a convolution of stride 2 beside the gradients of its input and its kernel.

    A fresh process has no setting but those that `find_devices` makes.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "TPU_"))}
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, topology], capture_output=True, text=True, check=True, env=environment
    )
    assert "Traceback" not in done.stderr
    found = json.loads(done.stdout)
    assert (found["kind"], found["absent"]) == (kind, True)
    (flops, loops, launches, cycles), (of_convolution, no_loops, *_) = found["counted"]
    assert loops == [9] and no_loops == []
    assert 9 * 2 * 4096 * 16 * 16 <= flops < 1.1 * 9 * 2 * 4096 * 16 * 16
    assert launches > 9
    assert (cycles is not None) == (topology == "v5e:1x1")
    most = 5 if topology == "v5e:1x1" else 3.1  # a TPU convolves elements that it adds
    once = 2 * 8**3 * 8 * 16 * 16
    assert 3 * once <= of_convolution < most * once


def test_no_topology_is_this_machine() -> None:
    assert find_devices(None) == jax.devices()
    assert not is_absent(jax.devices()[0])


def test_the_compilers_target_names_the_gpu() -> None:
    target = GPUS["a100"].target()
    for line in ("core_count: 108", "cuda_compute_capability { major: 8 }", 'device_description_str: "NVIDIA A100'):
        assert line in target


def test_an_unknown_topology_is_told_with_what_the_compiler_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(**options: Any) -> None:
        raise RuntimeError(f"no {options['topology_name']}")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(jax.experimental.topologies, "get_topology_desc", unknown)
    monkeypatch.setattr(os, "environ", {})
    with pytest.raises(UserError, match=r"--topology: found v9:9x9 \(no v9:9x9\); wanted a TPU's such as v5e:1x1"):
        find_devices("v9:9x9")


def test_several_gpus_and_part_of_a_host_of_tpus_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def describe(platform: str, **options: Any) -> Any:
        asked.append((platform, options))
        if platform == "tpu" and "chips_per_host_bounds" not in options:
            raise RuntimeError("not divisible")
        return SimpleDevices()

    class SimpleDevices:
        devices = ("device",)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(jax.experimental.topologies, "get_topology_desc", describe)
    monkeypatch.setattr(os, "environ", {})
    assert find_devices("H100:4") == find_devices("v5e:1x1") == ("device",)
    assert asked[0] == ("cuda", {"topology": "1x1x4", "target_config": GPUS["h100"].target()})
    assert asked[-1] == ("tpu", {"topology_name": "v5e:1x1", "chips_per_host_bounds": [1, 1, 1]})
