"""Devices as a mesh, and what lies where on it."""

from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from ars_jax.mesh import (
    LEAST_DIVIDED,
    by_batch,
    by_volume,
    local_rows,
    make_mesh,
    on_one_device,
    put_batch,
    replicated,
    state_shardings,
)
from tests.small_runs import DEVICES


@pytest.mark.parametrize("data", [None, 1, 4])
def test_the_batch_axis_holds_the_devices_and_space_is_undivided(data: int | None) -> None:
    mesh = make_mesh(data)
    assert dict(mesh.shape) == {"data": data or DEVICES, "space": 1}
    assert list(mesh.devices.ravel()) == jax.devices()[: data or DEVICES]


def test_shardings_are_left_to_the_compiler() -> None:
    """Explicit axes, the default of jax.make_mesh, refuse to reshape a volume into regions."""
    assert set(make_mesh().axis_types) == {AxisType.Auto}


def test_a_batch_is_divided_and_nothing_of_it_is_lost() -> None:
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.normal(size=(16, 2, 3, 4, 1)).astype(np.float32),
        "label": rng.integers(0, 3, (16, 2, 3, 4)).astype(np.uint8),
        "labelled": rng.random((16, 3)) < 0.5,
    }
    mesh = make_mesh()
    spread = put_batch(mesh, batch)
    assert spread.keys() == batch.keys()
    for name, array in batch.items():
        assert spread[name].dtype == array.dtype
        assert spread[name].sharding.is_equivalent_to(by_batch(mesh), array.ndim)
        np.testing.assert_array_equal(spread[name], array)
        for shard in spread[name].addressable_shards:
            assert shard.data.shape == (2, *array.shape[1:])
            np.testing.assert_array_equal(shard.data, array[shard.index])


def test_replicated_arrays_are_whole_everywhere() -> None:
    array = jax.device_put(np.arange(6.0).reshape(2, 3), replicated(make_mesh()))
    assert len(array.addressable_shards) == DEVICES
    assert {shard.data.shape for shard in array.addressable_shards} == {(2, 3)}


def test_volumes_are_divided_along_their_depth() -> None:
    batch = {"image": np.arange(2 * 8 * 3 * 2.0).reshape(2, 8, 3, 2, 1), "labelled": np.ones((2, 3), bool)}
    mesh = make_mesh(data=2, space=4)
    assert dict(mesh.shape) == {"data": 2, "space": 4}
    spread = put_batch(mesh, batch)
    assert spread["image"].sharding.is_equivalent_to(by_volume(mesh), 5)
    assert spread["labelled"].sharding.is_equivalent_to(by_batch(mesh), 2)
    assert {shard.data.shape for shard in spread["image"].addressable_shards} == {(1, 2, 3, 2, 1)}
    np.testing.assert_array_equal(spread["image"], batch["image"])


def test_devices_that_do_not_share_volumes_share_the_batch() -> None:
    assert dict(make_mesh(space=4).shape) == {"data": DEVICES // 4, "space": 4}
    assert dict(make_mesh(space=2, devices=jax.devices()[:2]).shape) == {"data": 1, "space": 2}


def test_a_mesh_of_more_devices_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="a mesh of 3 x 4 needs more than the 8 devices"):
        make_mesh(3, 4)


def test_volumes_whose_depth_does_not_divide_are_laid_whole() -> None:
    """What is staged for augmentation has the depth of the samples."""
    batch: dict[str, Any] = {"image": np.arange(4 * 7 * 3 * 2.0).reshape(4, 7, 3, 2, 1)}
    spread = put_batch(make_mesh(data=2, space=4), batch, 4, whole_volumes=True)
    assert {shard.data.shape for shard in spread["image"].addressable_shards} == {(2, 7, 3, 2, 1)}
    np.testing.assert_array_equal(spread["image"], batch["image"])


def test_one_process_needs_every_case() -> None:
    for data, space in ((8, 1), (2, 4), (1, 8)):
        assert local_rows(make_mesh(data, space), 16) == range(16)


def test_large_parameters_are_divided_along_their_longest_axis_that_divides() -> None:
    mesh = make_mesh(data=4, space=2)
    state = {
        "kernel": np.zeros((5, 5, 5, 32, 64)),
        "odd": np.zeros((5, 8, 302)),
        "none": np.zeros((75, 75)),
        "small": np.zeros(LEAST_DIVIDED - 4),
    }
    shapes = {name: one.shard_shape(state[name].shape) for name, one in state_shardings(mesh, state, "sharded").items()}
    assert shapes == {
        "kernel": (5, 5, 5, 32, 16),
        "odd": (5, 2, 302),
        "none": (75, 75),
        "small": (LEAST_DIVIDED - 4,),
    }
    assert all(one.is_fully_replicated for one in state_shardings(mesh, state).values())


def test_divided_arrays_come_whole_to_one_device() -> None:
    mesh = make_mesh(data=4, space=2)
    arrays = {"divided": np.arange(16.0).reshape(8, 2), "whole": np.arange(3)}
    placed = {
        "divided": jax.device_put(arrays["divided"], by_batch(mesh)),
        "whole": jax.device_put(arrays["whole"], replicated(mesh)),
    }
    for name, array in on_one_device(placed).items():
        assert array.devices() == {jax.devices()[0]}
        np.testing.assert_array_equal(array, arrays[name])
