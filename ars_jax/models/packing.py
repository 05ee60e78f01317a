"""Volumes laid out for a TPU: neighbouring voxels in the channels, parts of the rows in the batch.

A TPU holds arrays in tiles of 8 x 128 numbers, for a convolution batch x channels, and pads what is smaller, in memory
too: one volume of 16 channels takes several times its size, or is copied to and fro. Here a volume `[b, z, y, x, c]`
is cut into slabs along x, which join the batch, and blocks of `(p, q, r)` voxels become channels:
`[b slabs, z / p, y / q, x / (slabs r), c p q r]`, the channel before the position in the block, so that a concatenation
of channels stays one. Kernels are placed among the blocks by fixed maps, so that parameters are those of the plain
network, and so is every sum but for its order.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Pack = tuple[int, int, int]

LANES = 128
"""Channels that a tile holds."""
ROWS = 8
"""Members of the batch that a tile holds."""
NO_PACK: Pack = (1, 1, 1)
_PACKS: dict[int, Pack] = {1: NO_PACK, 2: (1, 2, 1), 4: (2, 2, 1), 8: (2, 2, 2)}
_SLABBED_STAGES = 2
"""Deeper stages are so small that slabs would mostly be borders."""
_SLAB_WIDTH = 4
"""Half of the voxels along x that the deepest slabs must have."""


class Layout(NamedTuple):
    """How a volume lies in memory.

    Attributes:
        pack: voxels z, y, x of a block, whose values are channels.
        slabs: parts of x, which are members of the batch.
    """

    pack: Pack = NO_PACK
    slabs: int = 1

    @property
    def voxels(self) -> int:
        """Voxels of a block."""
        return self.pack[0] * self.pack[1] * self.pack[2]


PLAIN = Layout()


def packs_volumes(platform: str) -> bool:
    """Says whether volumes are packed on a kind of device; on others plain ones are as small and faster."""
    return platform == "tpu"


def stage_layouts(width: int, channels: int, stages: int) -> tuple[Layout, ...]:
    """Chooses how the stages of a V-Net lie.

    Blocks are so large that a stage's way up, twice as wide as its way down, fills the tiles; slabs are as many as fill
    them and divide the volume.

    Args:
        width: voxels of the volume along x, a multiple of 16.
        channels: of the first stage; they double from stage to stage, while the sides halve.
        stages: how many.

    Returns:
        A layout for each stage.
    """
    layouts = []
    for stage in range(stages):
        block = max(n for n in _PACKS if n == 1 or 2 * channels * 2**stage * n <= LANES)
        pack = NO_PACK if stage == stages - 1 else _PACKS[block]
        slabs = max(n for n in (1, 2, 4, ROWS) if n == 1 or (width >> _SLABBED_STAGES) % (n * _SLAB_WIDTH) == 0)
        layouts.append(Layout(pack, slabs if stage < _SLABBED_STAGES else 1))
    return tuple(layouts)


def lay(x: jax.Array, layout: Layout) -> jax.Array:
    """Lays a plain volume `[b, z, y, x, c]` out."""
    b, z, y, w, c = x.shape
    (p, q, r), slabs = layout
    x = x.reshape(b, z // p, p, y // q, q, slabs, w // (slabs * r), r, c).transpose(0, 5, 1, 3, 6, 8, 2, 4, 7)
    return x.reshape(b * slabs, z // p, y // q, w // (slabs * r), c * layout.voxels)


def lay_plain(x: jax.Array, layout: Layout) -> jax.Array:
    """Turns what is laid out back into a plain volume `[b, z, y, x, c]`."""
    n, z, y, w, k = x.shape
    (p, q, r), slabs = layout
    x = x.reshape(n // slabs, slabs, z, y, w, k // layout.voxels, p, q, r).transpose(0, 2, 6, 3, 7, 1, 4, 8, 5)
    return x.reshape(n // slabs, z * p, y * q, slabs * w * r, -1)


def change_slabs(x: jax.Array, before: int, after: int) -> jax.Array:
    """Cuts a volume into another number of slabs; blocks stay as they are."""
    if before == after:
        return x
    n, z, y, w, k = x.shape
    x = jnp.moveaxis(x.reshape(n // before, before, z, y, w, k), 1, 3)
    x = x.reshape(n // before, z, y, after, before * w // after, k)
    return jnp.moveaxis(x, 3, 1).reshape(-1, z, y, before * w // after, k)


def spread(vector: jax.Array, layout: Layout) -> jax.Array:
    """Repeats a number per channel, `[..., c]`, for every voxel of a block: `[..., c p q r]`."""
    return vector if layout.voxels == 1 else jnp.repeat(vector, layout.voxels, axis=-1)


def spread_volumes(values: jax.Array, layout: Layout) -> jax.Array:
    """Repeats a number per volume and channel, `[b, 1, 1, 1, c]`, for every slab and every voxel of a block."""
    return spread(jnp.repeat(values, layout.slabs, axis=0), layout)


def repeat_channels(x: jax.Array, features: int, layout: Layout) -> jax.Array:
    """Repeats a volume's channels up to `features`.

    Plain volumes are broadcast, because tiling compiles slowly; others multiplied by zeros and ones, which is exact and
    keeps the channels together.
    """
    channels = x.shape[-1] // layout.voxels
    copies = -(-features // channels)
    if layout == PLAIN:
        repeated = jnp.broadcast_to(x[..., None, :], (*x.shape[:-1], copies, channels))
        return repeated.reshape(*x.shape[:-1], -1)[..., :features]
    source = np.arange(features)[:, None] % channels * layout.voxels + np.arange(layout.voxels)
    return jnp.matmul(x, jnp.eye(x.shape[-1], dtype=x.dtype)[:, source.ravel()], precision="highest")


def pack_convolution(kernel: jax.Array, pack: Pack) -> jax.Array:
    """Turns the kernel of a convolution into that of the same convolution of blocks.

    Every voxel of an output block meets the kernel at its own place among the blocks around; the rest is zeros.

    Args:
        kernel: `[k, k, k, c, f]` with odd k.
        pack: the block.

    Returns:
        `[i, j, l, c p q r, f p q r]`, i, j and l the odd numbers of blocks that k voxels reach into.
    """
    reach = len(kernel) // 2
    around = [-(-reach // side) for side in pack]
    first = [side * n - reach for side, n in zip(pack, around, strict=True)]
    sides = [side * (2 * n + 1) for side, n in zip(pack, around, strict=True)]
    return _in_blocks(_placed(kernel, pack, first, 1, sides), pack)


def pack_halving(kernel: jax.Array, before: Pack, after: Pack) -> jax.Array:
    """Turns the kernel of a 2 x 2 x 2 convolution with stride 2 into that of blocks.

    Args:
        kernel: `[2, 2, 2, c, f]`.
        before: block of the input.
        after: block of the output.

    Returns:
        `[i, j, l, c voxels(before), f voxels(after)]`: the input blocks i, j, l that make an output block.
    """
    return _in_blocks(_placed(kernel, after, (0, 0, 0), 2, [2 * side for side in after]), before)


def convolve_laid_out(x: jax.Array, kernel: jax.Array, layout: Layout) -> jax.Array:
    """Convolves with stride 1 and zero padding what is laid out.

    Args:
        x: `[b slabs, z / p, y / q, x / (slabs r), c p q r]`.
        kernel: `[k, k, k, c, f]` with odd k.
        layout: of x and of the result.

    Returns:
        `[b slabs, z / p, y / q, x / (slabs r), f p q r]`.

    Raises:
        ValueError: a kernel of an even side, or one that reaches beyond the neighbouring slabs.
    """
    if len(kernel) % 2 == 0:
        raise ValueError(f"kernel: found a side of {len(kernel)}; wanted an odd one, so that the shape is kept")
    packed = pack_convolution(kernel, layout.pack)
    z, y, w = (side // 2 for side in packed.shape[:3])
    if layout.slabs > 1 and w:
        if w > x.shape[3]:
            width = x.shape[3] * layout.pack[2]
            raise ValueError(
                f"kernel: found a side of {len(kernel)}, which reaches beyond the next slab, {width} voxels wide, "
                f"of {layout}; wanted a smaller one, or fewer slabs"
            )
        x, w = _with_borders(x, layout.slabs, w), 0
    pads = ((z, z), (y, y), (w, w))
    return jax.lax.conv_general_dilated(x, packed, (1, 1, 1), pads, dimension_numbers=("NDHWC", "DHWIO", "NDHWC"))


def _with_borders(x: jax.Array, slabs: int, reach: int) -> jax.Array:
    """Adds to every slab what its neighbours have within reach, and zeros at the ends of the volume."""
    parts = x.reshape(-1, slabs, *x.shape[1:])
    none = ((0, 0),) * 4
    before = jnp.pad(parts[:, :-1, :, :, -reach:], ((0, 0), (1, 0), *none))
    behind = jnp.pad(parts[:, 1:, :, :, :reach], ((0, 0), (0, 1), *none))
    whole = jnp.concatenate([before, parts, behind], axis=4)
    return whole.reshape(x.shape[0], *whole.shape[2:])


def _placed(kernel: jax.Array, pack: Pack, first: Sequence[int], stride: int, sides: Sequence[int]) -> jax.Array:
    """Places a kernel in a larger one for every output of a block, `stride` voxels from one output to the next.

    Returns `[*sides, c, f p q r]`.
    """
    if pack == NO_PACK:
        return kernel
    f, count = kernel.shape[-1], pack[0] * pack[1] * pack[2]
    # A product with zeros and ones: repeating along the last axis would leave the compiler a last axis of a few.
    copies = jnp.repeat(jnp.eye(f, dtype=kernel.dtype), count, axis=-1)
    wide = jnp.matmul(kernel, copies, precision="highest")
    placed = jnp.zeros((*sides, *wide.shape[3:]), kernel.dtype)
    for index, position in enumerate(np.ndindex(*pack)):
        here = np.arange(f * count) % count == index
        starts = [start + stride * place for start, place in zip(first, position, strict=True)]
        ends = [side - start - n for side, start, n in zip(sides, starts, kernel.shape[:3], strict=True)]
        pads = (*zip(starts, ends, strict=True), (0, 0), (0, 0))
        placed = placed + jnp.pad(jnp.where(here, wide, 0), pads)
    return placed


def _in_blocks(kernel: jax.Array, pack: Pack) -> jax.Array:
    """Folds the voxels of a kernel `[z, y, x, c, f]` into its input channels, `[z / p, y / q, x / r, c p q r, f]`."""
    z, y, x, c, f = kernel.shape
    p, q, r = pack
    blocks = kernel.reshape(z // p, p, y // q, q, x // r, r, c, f).transpose(0, 2, 4, 6, 1, 3, 5, 7)
    return blocks.reshape(z // p, y // q, x // r, -1, f)
