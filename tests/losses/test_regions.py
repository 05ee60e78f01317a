"""Divisions of a volume: boxes that cover it once, maps of any shape, and sums over both."""

from typing import Any

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ars_jax import losses
from ars_jax.losses._checks import ArgumentError
from ars_jax.losses._statistics import sum_slabs
from tests.losses.cases import FIELDS, SPACE, loss, random_case, random_mask, region_map, statistics
from tests.oracles import losses as oracle
from tests.oracles import partitions

COUNT = 5
SIDES = st.integers(1, 300)


def random_ids(seed: int) -> np.ndarray:
    """Region numbers of two samples, some of them in no region: -1, COUNT, and a number far outside."""
    return np.random.default_rng(seed).choice([*range(COUNT), -1, COUNT, 1000], (2, *SPACE)).astype(np.int32)


def grid_ids(grid: tuple[int, ...]) -> np.ndarray:
    """The regions of a grid as a map."""
    return np.argmax(partitions.grid((2, *SPACE), *grid), axis=0).astype(np.int32)


def assert_same(found: losses.OverlapStatistics, wanted: losses.OverlapStatistics, tolerance: float = 1e-5) -> None:
    for name in FIELDS:
        a, b = np.asarray(getattr(found, name)), np.asarray(getattr(wanted, name))
        np.testing.assert_allclose(a.reshape(b.shape), b, rtol=tolerance, atol=tolerance, err_msg=name)


# --- boxes -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None, derandomize=True)
@given(SIDES, st.data())
def test_a_grid_covers_every_voxel_once_with_regions_alike_within_a_voxel(side: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, side))
    (bounds,) = losses.region_bounds([side], regions=count)
    assert [voxel for start, stop in bounds for voxel in range(start, stop)] == list(range(side))
    lengths = {stop - start for start, stop in bounds}
    assert len(bounds) == count and max(lengths) - min(lengths) <= 1


@settings(max_examples=60, deadline=None, derandomize=True)
@given(SIDES, st.integers(1, 400))
def test_no_region_is_larger_than_the_region_size_and_none_fewer_would_do(side: int, size: int) -> None:
    (bounds,) = losses.region_bounds([side], regions=losses.RegionSize(size))
    assert [voxel for start, stop in bounds for voxel in range(start, stop)] == list(range(side))
    assert max(stop - start for start, stop in bounds) <= size
    assert (len(bounds) - 1) * size < side


@settings(max_examples=40, deadline=None, derandomize=True)
@given(SIDES, st.data())
def test_half_a_grid_has_the_pairs_of_its_regions_also_where_the_side_does_not_divide(
    side: int, data: st.DataObject
) -> None:
    half = data.draw(st.integers(1, max(1, side // 2)))
    (coarse,) = losses.region_bounds([side], regions=half)
    (fine,) = losses.region_bounds([side], regions=min(2 * half, side))
    if len(fine) == 2 * half:
        assert coarse == tuple((fine[r][0], fine[r + 1][1]) for r in range(0, 2 * half, 2))


@pytest.mark.parametrize("counts", [np.int64(2), np.array([2, 2, 2]), (np.int32(2), 2, np.uint8(2))], ids=str)
def test_a_grid_may_be_of_any_integer_type(counts: Any) -> None:
    assert losses.region_bounds(SPACE, regions=counts) == losses.region_bounds(SPACE, regions=2)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_overlapping_boxes_count_their_common_voxels_in_each(axis: int) -> None:
    """Bins of adaptive pooling overlap where a side does not divide; along the axis of the slabs as elsewhere."""
    logits, labels = random_case(1, SPACE)
    bounds = [[(0, side)] for side in SPACE]
    bounds[axis] = [(0, 2), (1, 4), (1, 3), (3, SPACE[axis])]
    found = sum_slabs(tuple(map(tuple, bounds)), False, logits, labels, None, None)
    masks = partitions.boxes((2, *SPACE), *bounds)
    p, g = oracle.softmax(logits), oracle.references(labels, 3, 5)
    for name, values in {"true_positives": p * g, "predicted": p, "reference": g}.items():
        wanted = [[values[i][mask[i]].sum(0) for mask in masks] for i in range(2)]
        np.testing.assert_allclose(np.reshape(getattr(found, name), (2, 4, 3)), wanted, rtol=1e-5, err_msg=name)


# --- maps ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(2, 2, 2), (3, 4, 1)], ids=["dividing", "not dividing"])
def test_a_map_of_a_grids_regions_is_the_grid(grid: tuple[int, ...]) -> None:
    logits, labels = random_case(2, SPACE)
    where = random_mask(3, SPACE)
    by_map = statistics(logits, labels, where=where, regions=region_map(grid_ids(grid), int(np.prod(grid))))
    assert_same(by_map, statistics(logits, labels, where=where, regions=grid))


def test_regions_of_any_shape_are_summed_and_voxels_of_no_region_are_not() -> None:
    logits, labels = random_case(4, SPACE, soft=True)
    ids = random_ids(5)
    found = statistics(logits, labels, regions=region_map(ids, COUNT))
    p, g = oracle.softmax(logits), np.float64(labels)
    values = {
        "true_positives": p * g,
        "predicted": p,
        "reference": g,
        "squared_predicted": p**2,
        "squared_true_positives": p**2 * g,
        "log_loss": -g * np.log(p),
        "voxels": np.ones((*ids.shape, 1)),
    }
    assert set(values) == set(FIELDS)
    for name, voxels in values.items():
        wanted = [[voxels[i][ids[i] == region].sum(0) for region in range(COUNT)] for i in range(2)]
        np.testing.assert_allclose(getattr(found, name), wanted, rtol=1e-5, err_msg=name)


def test_each_sample_has_its_own_map() -> None:
    logits, labels = random_case(6, SPACE)
    ids = random_ids(7)
    both = statistics(logits, labels, regions=region_map(ids, COUNT))
    swapped = statistics(logits[::-1], labels[::-1], regions=region_map(ids[::-1], COUNT))
    for name in FIELDS:
        np.testing.assert_allclose(getattr(both, name), getattr(swapped, name)[::-1], rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
def test_narrow_numbers_of_regions_give_the_same(dtype: Any) -> None:
    """Also where the count itself does not fit the type of the numbers."""
    logits, labels = random_case(8, SPACE)
    ids = np.random.default_rng(9).integers(0, 100, (2, *SPACE))
    if np.issubdtype(dtype, np.signedinteger):
        ids[:, 0] = -1
    count = 300
    found = statistics(logits, labels, regions=region_map(ids.astype(dtype), count))
    assert_same(found, statistics(logits, labels, regions=region_map(ids.astype(np.int32), count)))
    np.testing.assert_array_equal(np.ravel(found.voxels)[:100], np.bincount(ids[0][ids[0] >= 0], minlength=100))


def test_a_map_may_be_traced_mapped_and_changed_without_compiling_anew() -> None:
    logits, labels = random_case(12, SPACE)
    traces = []

    def value(logits: Any, labels: Any, regions: losses.RegionMap) -> jax.Array:
        traces.append(regions.count)
        return losses.adaptive_region_specific(logits, labels, regions=regions)

    maps = [region_map(random_ids(seed), COUNT) for seed in (13, 14)]
    run = jax.jit(jax.value_and_grad(value))
    wanted = []
    for regions in maps:
        found, slopes = run(logits, labels, regions)
        wanted, wanted_slopes = jax.value_and_grad(losses.adaptive_region_specific)(logits, labels, regions=regions)
        np.testing.assert_allclose(found, wanted, rtol=2e-6)
        np.testing.assert_allclose(slopes, wanted_slopes, rtol=1e-5, atol=1e-6)
        outside = np.asarray((regions.ids < 0) | (regions.ids >= COUNT))
        assert not np.asarray(slopes)[outside].any() and np.asarray(slopes)[~outside].any()
    assert len(traces) == 1
    single = jax.vmap(lambda z, y, m: value(z[None], y[None], jax.tree.map(lambda ids: ids[None], m)))
    np.testing.assert_allclose(single(logits, labels, maps[-1]).mean(), wanted, rtol=2e-6)


# --- pyramids --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(4, 2, 4), (4, 4, 2)], ids=["dividing", "not dividing"])
def test_a_coarser_grid_is_the_half_of_the_finer(grid: tuple[int, ...]) -> None:
    logits, labels = random_case(15, SPACE)
    coarser = statistics(logits, labels, regions=grid).coarser()
    half = tuple(regions // 2 for regions in grid)
    assert coarser.predicted.shape == (2, *half, 3)
    assert_same(coarser, statistics(logits, labels, regions=half))


def test_a_pyramid_is_the_mean_of_its_grids() -> None:
    logits, labels = random_case(16, SPACE)
    run = loss("region_specific", reduction="mean")
    grids = [run(logits, labels, regions=grid) for grid in (2, 1)]
    np.testing.assert_allclose(run(logits, labels, regions=2, levels=2), np.mean(grids), rtol=2e-6)
    assert run(logits, labels, regions=2, levels=1) == grids[0]


@pytest.mark.parametrize(("grid", "levels"), [(3, 2), (2, 3), ((2, 2, 1), 2)], ids=str)
def test_a_grid_that_cannot_be_halved_is_refused(grid: Any, levels: int) -> None:
    with pytest.raises(ArgumentError) as caught:
        loss("region_specific", regions=grid, levels=levels)(*random_case(17, SPACE))
    assert caught.value.name == "levels"


def test_a_pyramid_without_levels_is_refused() -> None:
    with pytest.raises(ArgumentError) as caught:
        loss("region_specific", regions=2, levels=0)(*random_case(17, SPACE))
    assert (caught.value.name, caught.value.found) == ("levels", 0)
