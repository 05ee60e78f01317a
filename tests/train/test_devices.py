"""Meshes that cannot train are refused in one line."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ars_jax.config import Config, DataConfig, MeshConfig, RunConfig, TrainConfig
from ars_jax.errors import UserError
from ars_jax.train.devices import check_depth, training_mesh

CONFIG = Config(DataConfig(Path("nowhere")), RunConfig(Path("nowhere")), train=TrainConfig(batch_size=8))


@dataclass(frozen=True)
class Device:
    """What is asked of a device before a mesh is made of it."""

    process_index: int


def refused(config: Config, devices: Any = None) -> str:
    with pytest.raises(UserError) as caught:
        training_mesh(config, devices)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_devices_share_the_batch_unless_they_share_volumes() -> None:
    assert dict(training_mesh(CONFIG).shape) == {"data": 8, "space": 1}
    assert dict(training_mesh(replace(CONFIG, mesh=MeshConfig(space=4))).shape) == {"data": 2, "space": 4}
    assert dict(training_mesh(replace(CONFIG, mesh=MeshConfig(2, 2))).shape) == {"data": 2, "space": 2}


@pytest.mark.parametrize(("data", "space", "found"), [(9, 1, "9 x 1"), (4, 4, "4 x 4"), (None, 9, "1 x 9")])
def test_more_devices_than_there_are_are_refused(data: int | None, space: int, found: str) -> None:
    line = refused(replace(CONFIG, mesh=MeshConfig(data, space)))
    assert line.startswith(f"mesh.data, mesh.space: found {found}; wanted at most the 8 devices")


def test_a_batch_has_to_divide_by_data_and_parts() -> None:
    mesh = MeshConfig(2, 4)
    line = refused(replace(CONFIG, mesh=mesh, train=TrainConfig(batch_size=6, accumulate=2)))
    assert line.startswith("train.batch_size: found 6; wanted a multiple of the 2 groups of devices along mesh.data")
    assert "times train.accumulate 2" in line and "for example 4" in line
    assert dict(training_mesh(replace(CONFIG, mesh=mesh, train=TrainConfig(batch_size=6))).shape)["data"] == 2


def test_no_process_is_left_without_a_device() -> None:
    devices = [Device(number // 2) for number in range(4)]
    line = refused(replace(CONFIG, mesh=MeshConfig(2, 1)), devices)
    assert line.startswith("mesh.data, mesh.space: found 2 x 1, which leave process 1 without a device; wanted all 4")


@pytest.mark.parametrize(("depth", "space", "fits"), [(32, 2, True), (48, 3, True), (48, 2, False), (16, 8, False)])
def test_the_depth_of_the_canvas_divides_into_parts_that_can_be_halved(depth: int, space: int, fits: bool) -> None:
    if fits:
        return check_depth((depth, 16, 16), space)
    with pytest.raises(UserError, match=rf"^prepare.canvas: found \({depth}, 16, 16\); .* a multiple of {16 * space}"):
        check_depth((depth, 16, 16), space)
