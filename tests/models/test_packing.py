"""Volumes laid out for a TPU: layers and networks compute what they do with plain ones, from the same parameters."""

from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ars_jax.mesh import by_volume, make_mesh
from ars_jax.models import VNet
from ars_jax.models.layers import BatchNorm, Convolution, Downsampling, PReLU, Upsampling
from ars_jax.models.packing import (
    PLAIN,
    Layout,
    change_slabs,
    convolve_laid_out,
    lay,
    lay_plain,
    pack_convolution,
    repeat_channels,
    spread,
    spread_volumes,
    stage_layouts,
)

LAYOUTS = [Layout((2, 2, 1), 4), Layout((2, 2, 2), 2), Layout((1, 2, 1), 1)]
SHAPE = (2, 4, 8, 16)


pytestmark = pytest.mark.usefixtures("quick")


def volume(shape: tuple[int, ...], seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def convolved(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC"))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_place_holds_the_block_of_its_slab_channel_by_channel(layout: Layout) -> None:
    x = np.asarray(volume((*SHAPE, 3)))
    found = np.asarray(lay(jnp.asarray(x), layout))
    (p, q, r), slabs = layout
    width = SHAPE[3] // slabs
    for volume_, slab, (z, y, w), c in [(0, 0, (0, 0, 0), 0), (1, slabs - 1, (1, 2, 1), 2), (1, 0, (0, 1, 0), 1)]:
        start = slab * width + w * r
        block = x[volume_, z * p : z * p + p, y * q : y * q + q, start : start + r, c].ravel()
        place = found[volume_ * slabs + slab, z, y, w]
        np.testing.assert_array_equal(place[c * layout.voxels : (c + 1) * layout.voxels], block)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_laying_out_loses_nothing(layout: Layout) -> None:
    x = volume((*SHAPE, 3))
    np.testing.assert_array_equal(lay_plain(lay(x, layout), layout), x)
    slabs = 2 if layout.slabs == 1 else layout.slabs // 2
    changed = change_slabs(lay(x, layout), layout.slabs, slabs)
    np.testing.assert_array_equal(changed, lay(x, Layout(layout.pack, slabs)))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_channels_are_joined_repeated_and_scaled_as_plain_ones(layout: Layout) -> None:
    x, y, scale = volume((*SHAPE, 3)), volume((*SHAPE, 2), seed=1), jnp.asarray([2.0, 3.0, 5.0])
    joined = jnp.concatenate([lay(x, layout), lay(y, layout)], -1)
    np.testing.assert_array_equal(joined, lay(jnp.concatenate([x, y], -1), layout))
    np.testing.assert_array_equal(lay(x, layout) * spread(scale, layout), lay(x * scale, layout))
    of_volumes = scale * jnp.arange(1.0, 3).reshape(2, 1, 1, 1, 1)
    np.testing.assert_array_equal(lay(x, layout) * spread_volumes(of_volumes, layout), lay(x * of_volumes, layout))
    repeated = repeat_channels(lay(x, layout), 7, layout)
    np.testing.assert_array_equal(lay_plain(repeated, layout), repeat_channels(x, 7, PLAIN))


@pytest.mark.parametrize(("layout", "side"), [*((layout, 5) for layout in LAYOUTS), (LAYOUTS[0], 1), (LAYOUTS[1], 3)])
def test_a_convolution_of_what_is_laid_out_is_the_plain_one(layout: Layout, side: int) -> None:
    """The same products in another order, across slabs, blocks and the borders of the volume."""
    x, kernel = volume((*SHAPE, 3)), volume((side, side, side, 3, 2), seed=1)
    found = lay_plain(convolve_laid_out(lay(x, layout), kernel, layout), layout)
    np.testing.assert_allclose(found, convolved(x, kernel), rtol=1e-4, atol=1e-4)


def test_a_kernel_that_reaches_beyond_the_next_slab_is_refused() -> None:
    layout = Layout((1, 2, 1), 8)  # slabs of two voxels, three within reach
    with pytest.raises(ValueError, match=r"kernel: found a side of 7, .* 2 voxels wide, of Layout.*slabs=8"):
        convolve_laid_out(lay(volume((*SHAPE, 1)), layout), volume((7, 7, 7, 1, 1)), layout)


def test_an_even_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="kernel: found a side of 4; wanted an odd one"):
        convolve_laid_out(lay(volume((*SHAPE, 1)), LAYOUTS[0]), volume((4, 4, 4, 1, 1)), LAYOUTS[0])


def test_a_kernel_of_blocks_holds_every_number_once_for_each_voxel_of_a_block() -> None:
    kernel = jnp.arange(1.0, 1 + 5**3 * 6).reshape(5, 5, 5, 3, 2)
    packed = np.asarray(pack_convolution(kernel, (2, 2, 2)))
    assert packed.shape == (3, 3, 3, 24, 16)
    np.testing.assert_array_equal(np.sort(packed[packed != 0]), np.repeat(np.arange(1.0, 1 + 5**3 * 6), 8))


FINE, COARSE = Layout((2, 2, 1), 2), Layout((1, 2, 1), 2)
HALF = (2, 2, 4, 8)
MAKERS: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...], Layout, Layout]] = {
    "convolution": (lambda one, _: Convolution(2, 3, use_bias=True, layout=one), SHAPE, FINE, FINE),
    "downsampling": (lambda one, two: Downsampling(4, before=one, after=two), SHAPE, FINE, COARSE),
    "upsampling": (lambda one, two: Upsampling(2, before=one, after=two), HALF, COARSE, FINE),
    "batch norm": (lambda one, _: BatchNorm(use_running_average=False, layout=one), SHAPE, FINE, FINE),
    "prelu": (lambda one, _: PReLU(layout=one), SHAPE, FINE, FINE),
}


@pytest.mark.parametrize("name", MAKERS)
def test_a_layer_of_what_is_laid_out_is_the_plain_one(name: str) -> None:
    """Its result, its gradients and its running statistics, from parameters of the same names and shapes."""
    make, shape, before, after = MAKERS[name]
    x, rng = volume((*shape, 3)), np.random.default_rng(1)
    shapes = jax.eval_shape(lambda x: make(PLAIN, PLAIN).init(jax.random.key(0), x), x)
    laid_out = jax.eval_shape(lambda x: make(before, after).init(jax.random.key(0), lay(x, before)), x)
    chex.assert_trees_all_equal_shapes_and_dtypes(laid_out, shapes)
    variables = jax.tree.map(lambda leaf: rng.uniform(0.1, 1, leaf.shape).astype(leaf.dtype), shapes)

    def outcome(one: Layout, two: Layout) -> Any:
        def loss(variables: Any, x: jax.Array) -> Any:
            y, updated = make(one, two).apply(variables, lay(x, one), mutable=["batch_stats"])
            y = lay_plain(y, two)
            return (y * jnp.arange(y.size).reshape(y.shape) / y.size).sum(), (y, updated)

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(variables, x)

    chex.assert_trees_all_close(outcome(before, after), outcome(PLAIN, PLAIN), rtol=1e-4, atol=1e-3)


def test_the_layouts_of_the_papers_stages_follow_each_other() -> None:
    """Down from blocks of 4 to blocks of 2 to plain volumes and up again, in 8 slabs: result and gradients."""
    x, rng = volume((1, 4, 8, 32, 2)), np.random.default_rng(1)
    shapes = {"first": (5, 5, 5, 2, 2), "down": (2, 2, 2, 2, 4), "second": (5, 5, 5, 4, 4), "deep": (2, 2, 2, 4, 8)}
    shapes |= {"up": (2, 2, 2, 8, 4), "last": (2, 2, 2, 4, 2)}
    kernels = {name: jnp.asarray(rng.normal(0, 0.1, shape), jnp.float32) for name, shape in shapes.items()}

    def apply(layer: nn.Module, name: str, kernels: Any, x: jax.Array) -> Any:
        return layer.apply({"params": {"kernel": kernels[name]}}, x)

    def outcome(fine: Layout, coarse: Layout) -> Any:
        def loss(kernels: Any, x: jax.Array) -> Any:
            y = apply(Convolution(2, 5, form="native", layout=fine), "first", kernels, lay(x, fine))
            y = apply(Downsampling(4, before=fine, after=coarse), "down", kernels, y)
            skip = apply(Convolution(4, 5, form="native", layout=coarse), "second", kernels, y)
            y = change_slabs(apply(Downsampling(8, before=coarse), "deep", kernels, skip), coarse.slabs, 1)
            y = apply(Upsampling(4, after=coarse), "up", kernels, change_slabs(y, 1, coarse.slabs))
            y = lay_plain(apply(Upsampling(2, before=coarse, after=fine), "last", kernels, y + skip), fine)
            return (y * volume(y.shape, seed=3)).sum(), y

        return jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))(kernels, x)

    fine, coarse, deep, *_ = stage_layouts(256, 16, 5)
    assert (fine.slabs, coarse.slabs, deep) == (8, 8, PLAIN)
    chex.assert_trees_all_close(outcome(fine, coarse), outcome(PLAIN, PLAIN), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("train", [True, False])
def test_batch_normalisation_is_that_of_flax(train: bool) -> None:
    x = volume((*SHAPE, 3)) + 2
    ours = BatchNorm(use_running_average=not train, momentum=0.8, epsilon=1e-3)
    theirs = nn.BatchNorm(use_running_average=not train, momentum=0.8, epsilon=1e-3)
    variables = theirs.init(jax.random.key(0), x)
    variables = jax.tree.map(lambda leaf: leaf + jnp.arange(1.0, 4), variables)
    chex.assert_trees_all_equal_shapes_and_dtypes(ours.init(jax.random.key(0), x), variables)
    found, wanted = (norm.apply(variables, x, mutable=["batch_stats"]) for norm in (ours, theirs))
    chex.assert_trees_all_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_stages_fill_the_tiles_where_they_can() -> None:
    """The paper's network: twice 16 x 4 and twice 32 x 2 channels are 128; from 64 channels on none are needed."""
    deep = Layout((1, 1, 1), 1)
    assert stage_layouts(256, 16, 5) == (Layout((2, 2, 1), 8), Layout((1, 2, 1), 8), deep, deep, deep)
    assert stage_layouts(16, 16, 2) == (Layout((2, 2, 1), 1), deep)
    assert stage_layouts(96, 8, 3) == (Layout((2, 2, 2), 2), Layout((2, 2, 1), 2), deep)


def run(packed: bool, **where: Any) -> Any:
    """Logits and statistics of a small network in training, with dropout; gradients are the layers'."""
    model = VNet(3, "monai", 2, 3, 0.5, form="native", packed=packed)
    x, rng = volume((1, 32, 32, 64, 1)), np.random.default_rng(2)
    shapes = jax.eval_shape(lambda x: VNet(3, "monai", 2, 3).init(jax.random.key(0), x, train=False), x)
    variables = jax.tree.map(lambda leaf: rng.uniform(-0.5, 1, leaf.shape).astype(leaf.dtype), shapes)

    def forward(variables: Any, x: jax.Array) -> Any:
        return model.apply(variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(1)})

    return jax.jit(forward, **where)(variables, x)


def test_a_packed_network_divided_by_depth_is_the_plain_one() -> None:
    """The parameters of the plain network fit, and whole channels are dropped in every slab and block alike."""
    divided = run(packed=True, in_shardings=(None, by_volume(make_mesh(1, 2))))
    chex.assert_trees_all_close(divided, run(packed=False), rtol=1e-3, atol=1e-4)
