"""What `ars-jax plan` says of a step, and of what cannot be planned."""

import dataclasses
import importlib.util
import io
import json
import os
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast, get_args

import jax
import numpy as np
import pytest
from rich.console import Console

from ars_jax.cli import main
from ars_jax.config import Config, DataConfig, MeshConfig, RunConfig
from ars_jax.errors import UserError
from ars_jax.hlo import COLLECTIVES, Counts
from ars_jax.memory import find_memory, parse_memory
from ars_jax.models.vnet import Remat
from ars_jax.plan import (
    NOT_COUNTED,
    POLICIES,
    UNKNOWN_OF_A_GPU,
    StepCost,
    make_task,
    plan_step,
    remarks,
    render,
)
from ars_jax.topology import GPUS
from tests.small_runs import quick_compilation

SMALL = ("--model.base_channels", "2", "--model.kernel_size", "3", "--loss.regions", "2", "--remat", "none")
PLACE = ("--canvas", "[32,16,16]", "--classes", "3", "--mesh.data", "1", "--mesh.space", "2")
COUNTS = Counts(5e12, 3e9, 1234, (48, 48), dict.fromkeys(COLLECTIVES, 0), None, ())
COST = StepCost("none", 700, 300, COUNTS, 2.0)


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Any], str]]:
    """What is written and shown, in an empty folder, for a small network whose volumes lie on two devices."""
    base, shown = tmp_path_factory.mktemp("plan"), io.StringIO()
    words = ["plan", *SMALL, *PLACE, "--memory", "1GB", "--json", str(base / "plan.json")]
    (base / "here").mkdir()
    with quick_compilation(base), redirect_stdout(shown), chdir(base / "here"):
        assert main(words) == 0
    assert not list((base / "here").iterdir())
    yield json.loads((base / "plan.json").read_text(encoding="utf-8")), shown.getvalue()


def test_arguments_are_the_state_and_a_share_of_the_batch(planned: tuple[dict[str, Any], str]) -> None:
    """Parameters and two moments, and half of the image (float32) and of its labels (bytes)."""
    parameters, (step,) = planned[0]["parameters"], planned[0]["steps"]
    at_least = 3 * 4 * parameters + (4 + 1) * 32 * 16 * 16 // 2
    assert at_least < step["argument_bytes"] < at_least + 20_000  # running statistics, counters, the key
    assert step["temporary_bytes"] > 0 and step["flops"] > 0 and step["launches"] > 0
    assert step["bytes_accessed"] > at_least and step["not_counted"] == [] and step["cycles"] is None
    assert step["total_bytes"] == step["argument_bytes"] + step["temporary_bytes"]
    assert step["fits"] is True
    assert (planned[0]["accumulate"], planned[0]["packed"], planned[0]["platform"]) == (1, False, "cpu")
    assert "remat" not in planned[0]["model"]


def test_a_divided_volume_exchanges_borders_and_gathers_nothing(planned: tuple[dict[str, Any], str]) -> None:
    counts = planned[0]["steps"][0]["collectives"]
    assert counts["all-gather"] == counts["all-to-all"] == 0
    assert counts["collective-permute"] > 0 and counts["all-reduce"] > 0
    assert f"{counts['collective-permute']} collective-permute" in planned[1]


def test_the_table_fits_eighty_columns_and_names_what_is_planned(planned: tuple[dict[str, Any], str]) -> None:
    shown = planned[1].split("none: 0 all-gather")[0]
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    headings = ("arguments", "temporary", "together", "fits", "1.0 GB", "TFLOP", "moved", "launches", "compile")
    assert all(text in shown for text in ("batch of 1 x 32 x 16 x 16", "3 classes", "none", *headings))


def test_no_data_set_is_needed(planned: tuple[dict[str, Any], str]) -> None:
    """And nothing is written but what is asked for, see `planned`."""
    assert planned[0]["classes"] == 3


@pytest.mark.parametrize(("memory", "fits"), [(1000, True), (999, False), (None, None)])
def test_a_step_fits_a_memory_that_holds_arguments_and_temporaries(memory: int | None, fits: bool | None) -> None:
    assert COST.fits(memory) is fits


def test_what_does_not_compile_for_want_of_memory_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    class Large:
        def compile(self) -> None:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in hbm. Used 17.2G of 15.75G hbm.")

    monkeypatch.setattr("ars_jax.plan.lower_step", lambda *arguments, **options: Large())
    task = make_task(config_of(), jax.devices(), canvas=(16, 16, 16), classes=2)
    cost = plan_step(task, "convolutions")
    assert cost.fits(10**12) is False
    assert remarks(task, [cost]) == ["convolutions: the compiler gave up: used 17.2g of 15.75g", NOT_COUNTED]
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(render([cost], None))
    shown = console.export_text()
    assert "convolutions" in shown and " no " in shown and "…" not in shown


def test_a_gpu_compiler_without_its_assembler_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Incomplete:
        def compile(self) -> None:
            raise jax.errors.JaxRuntimeError("INTERNAL: libdevice not found at ./libdevice.10.bc")

    monkeypatch.setattr("ars_jax.plan.lower_step", lambda *arguments, **options: Incomplete())
    task = make_task(config_of(), jax.devices(), canvas=(16, 16, 16), classes=2)
    with pytest.raises(UserError, match=r"found no libdevice .* fix: pip install 'ars_jax\[plan-gpu\]'"):
        plan_step(task, "none")


def test_the_widest_table_fits_eighty_columns() -> None:
    counts = dataclasses.replace(COUNTS, flops=123.45e12, bytes_accessed=987.65e9, launches=98765)
    cost = StepCost("convolutions", 123_450_000_000, 123_450_000_000, counts, 9999)
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(render([cost], GPUS["h200"].memory))
    shown = console.export_text()
    assert all(text in shown for text in ("convolutions", "151 GB", "123.45", "987.65", "98765", "9999", " no "))
    assert "…" not in shown and max(map(len, shown.splitlines())) <= 80


def test_what_a_plan_leaves_open_is_told() -> None:
    task = make_task(config_of(), jax.devices(), canvas=(16, 16, 16), classes=2)
    counts = dataclasses.replace(COUNTS, loops=(48, None), not_counted=("TopK",), cycles=123_400_000)
    assert remarks(task, [dataclasses.replace(COST, counts=counts)]) == [
        "none: loops whose trips are unknown, so that they count once: 1",
        "none: the arithmetic of TopK is not counted",
        NOT_COUNTED,
        "none: 123 million cycles, as the compiler estimates",
    ]


@pytest.mark.parametrize(("absent", "said"), [(True, [NOT_COUNTED, *UNKNOWN_OF_A_GPU]), (False, [NOT_COUNTED])])
def test_the_memory_of_a_gpu_that_is_not_there_is_a_lower_bound(absent: bool, said: list[str]) -> None:
    device = Absent("gpu") if absent else Present("gpu")
    mesh = SimpleNamespace(devices=np.array([device], dtype=object))
    task = make_task(config_of(), jax.devices(), canvas=(16, 16, 16), classes=2)
    assert remarks(task._replace(mesh=cast("Any", mesh)), [COST]) == said


def config_of() -> Config:
    return Config(DataConfig(Path("nowhere")), RunConfig(Path("nowhere")), mesh=MeshConfig(data=1))


@pytest.mark.parametrize(
    ("text", "bytes_"), [("11GB", 11 * 10**9), ("16 GiB", 16 * 2**30), ("1.5tb", 1500 * 10**9), ("8B", 8)]
)
def test_memory_is_read_with_its_unit(text: str, bytes_: int) -> None:
    assert parse_memory(text) == bytes_


@pytest.mark.parametrize("text", ["11", "GB", "-1GB", "11GX", "1e3GB"])
def test_memory_without_a_unit_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="wanted a number with a unit"):
        parse_memory(text)


def test_this_machine_has_memory() -> None:
    memory = find_memory(jax.devices()[0])
    assert memory is not None and memory > 2**28


class Present:
    """A device of this machine."""

    def __init__(self, platform: str, kind: str = "") -> None:
        self.platform, self.device_kind = platform, kind

    def memory_stats(self) -> dict[str, int]:
        return {"bytes_limit": 1000}


class Absent(Present):
    """A device of a topology."""

    def memory_stats(self) -> dict[str, int]:
        raise RuntimeError("not there")


@pytest.mark.parametrize(
    ("platform", "kind", "memory"),
    [
        ("tpu", "TPU v4", 15.25 * 2**30),
        ("tpu", "TPU v99", None),
        ("gpu", "NVIDIA H100 80GB HBM3", 84_929_347_584 * 3 // 4),
        ("gpu", "NVIDIA H200", 151_397_597_184 * 3 // 4),
        ("gpu", "NVIDIA A100-SXM4-80GB", 85_100_068_864 * 3 // 4),
    ],
)
def test_a_device_that_is_not_there_has_the_memory_of_its_kind(platform: str, kind: str, memory: float | None) -> None:
    assert find_memory(Absent(platform, kind)) == memory
    assert find_memory(Present(platform, kind)) == 1000


@pytest.mark.parametrize(("text", "least"), [("1000\n", 1000), ("max\n", None), (None, None)])
def test_a_cpu_has_no_more_memory_than_its_group(
    text: str | None, least: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (tmp_path / "memory.max").write_text(text)
    monkeypatch.setattr("ars_jax.memory.GROUP_LIMIT", tmp_path / "memory.max")
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert find_memory(jax.devices()[0]) == (least or physical)


@pytest.mark.parametrize("fault", [AssertionError, ValueError, NotImplementedError])
def test_a_part_of_a_topology_that_makes_no_mesh_is_told(fault: type, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise fault("odd part")

    monkeypatch.setattr("ars_jax.train.devices.make_mesh", refuse)
    with pytest.raises(UserError, match=r"mesh.data, mesh.space: found 1 x 1 \(odd part\)"):
        make_task(config_of(), jax.devices(), canvas=(16, 16, 16), classes=2)


def test_policies_are_those_of_the_network() -> None:
    """Which knows no configuration, and so names them itself."""
    assert POLICIES == get_args(Remat)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--mesh.space", "9"), "mesh.data, mesh.space: found 1 x 9; wanted at most the 8 devices"),
        (("--mesh.data", "2"), "train.batch_size: found 1; wanted a multiple of the 2 devices along mesh.data"),
        (("--train.batch_size", "3", "--train.accumulate", "2"), "along mesh.data times train.accumulate 2"),
        (("--canvas", "[16,16,12]"), "--canvas: found (16, 16, 12); wanted sides that are multiples of 16"),
        (("--canvas", "[16,16,16]", "--mesh.space", "2"), "--canvas: found (16, 16, 16); wanted a depth that is a mul"),
        (("--prepare.canvas", "null"), "prepare.canvas: found null; wanted the voxels of a sample"),
        (("--classes", "0"), "--classes: found 0; wanted 2 to 256"),
        (("--classes", "257"), "--classes: found 257; wanted 2 to 256"),
        (("--canvas", "[16,16,16]", "--loss.regions", "32"), "wanted regions that fit the canvas (16, 16, 16)"),
        (("--memory", "much"), "--memory: found much"),
        (("--topology", "v5e:2x2"), "--topology: found no libtpu; wanted the TPU compiler; fix: pip install"),
        (("--topology", "h100:4"), "wanted the GPU compiler; fix: pip install 'ars_jax[plan-gpu]'"),
        (("--topology", "h100:0"), "--topology: found h100:0; wanted a TPU's such as v5e:1x1"),
        (("--topology", "gtx"), "--topology: found gtx; wanted a TPU's such as v5e:1x1"),
    ],
)
def test_what_cannot_be_planned_is_told_in_one_line(
    words: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["plan", "--prepare.canvas", "[32,16,16]", "--classes", "2", "--mesh.data", "1", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and told in lines[0]


def test_an_unknown_data_set_is_told_with_the_way_around_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--canvas", "[16,16,16]", "--mesh.data", "1", "--data.root", "/nowhere"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "/nowhere" in line and "--classes N" in line
