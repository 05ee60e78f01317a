"""Layers whose implementation can be chosen without changing a parameter's name or shape.

All forms of a layer are the same sum in another order, so that parameters move freely between them. XLA's native 3-D
convolution is slow on a CPU; on GPU and TPU it is the one to use.
"""

import functools
import itertools
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

Form = Literal["auto", "native", "depth_sum", "depth_fold", "matmul"]

MATMUL_VOXELS = 200
"""On a CPU, volumes up to this many voxels run fastest as one matrix product over gathered patches."""
FOLD_CHANNELS = 4
"""On a CPU, inputs of up to this many channels run fastest with the kernel's depth folded into them."""


class Convolution(nn.Module):
    """A 3-D convolution with stride 1 and zero padding that keeps the shape, without bias unless asked for.

    Attributes:
        features: output channels.
        kernel_size: odd side of the kernel.
        use_bias: adds a bias; a bias in front of batch normalisation has no gradient but rounding noise.
        bias_init: what the bias starts from.
        form: how it is computed; `"auto"` chooses by device and shape.
        dtype: type of the computation; parameters are float32.
    """

    features: int
    kernel_size: int = 5
    use_bias: bool = False
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    form: Form = "auto"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves `x` `[b, z, y, x, c]` to `[b, z, y, x, features]`."""
        shape = (*(self.kernel_size,) * 3, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape)
        y = convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.form)
        if self.use_bias:
            y = y + self.param("bias", self.bias_init, (self.features,)).astype(self.dtype)
        return y


class Downsampling(nn.Module):
    """A 2 x 2 x 2 convolution with stride 2, written as space-to-depth and one matrix product.

    Attributes:
        features: output channels.
        dtype: type of the computation; parameters are float32.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Halves the sides of `x` `[b, z, y, x, c]`, all of them even."""
        kernel = self.param("kernel", nn.initializers.he_normal(), (2, 2, 2, x.shape[-1], self.features))
        b, z, y, w, c = x.shape
        blocks = x.astype(self.dtype).reshape(b, z // 2, 2, y // 2, 2, w // 2, 2, c)
        return jnp.einsum("bzpyqxrc,pqrcf->bzyxf", blocks, kernel.astype(self.dtype))


class Upsampling(nn.Module):
    """A transposed 2 x 2 x 2 convolution with stride 2, written as one matrix product and depth-to-space.

    Attributes:
        features: output channels.
        dtype: type of the computation; parameters are float32.
    """

    features: int
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Doubles the sides of `x` `[b, z, y, x, c]`."""
        # One output voxel meets one tap, so the fan-in is that of a 1 x 1 x 1 kernel.
        init = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal", batch_axis=(0, 1, 2))
        kernel = self.param("kernel", init, (2, 2, 2, x.shape[-1], self.features))
        blocks = jnp.einsum("bzyxc,pqrcf->bzpyqxrf", x.astype(self.dtype), kernel.astype(self.dtype))
        b, z, y, w, _ = x.shape
        return blocks.reshape(b, 2 * z, 2 * y, 2 * w, self.features)


class PReLU(nn.Module):
    """The rectifier with one learnt negative slope per channel, 0.25 at the start (He et al. 2015)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns x where positive, slope times x elsewhere, in the shape and type of `x`."""
        slope = self.param("slope", nn.initializers.constant(0.25), (x.shape[-1],)).astype(x.dtype)
        return jnp.where(x >= 0, x, slope * x)


def convolve(x: jax.Array, kernel: jax.Array, form: Form = "auto") -> jax.Array:
    """Convolves with stride 1 and zero padding that keeps the shape.

    Args:
        x: `[b, z, y, x, c]`.
        kernel: `[k, k, k, c, f]` with odd k.
        form: `"native"` (XLA's 3-D convolution), `"depth_sum"` (a sum over the kernel's depth of 2-D convolutions),
            `"depth_fold"` (one 2-D convolution of the input's depth-shifted copies), `"matmul"` (gathered patches times
            the kernel), or `"auto"`: native but on a CPU, where it is `"matmul"` for the smallest volumes,
            `"depth_fold"` for few channels and `"depth_sum"` for all others.

    Returns:
        `[b, z, y, x, f]`, in the type of `x`.
    """
    if form == "auto":
        form = _fastest_on_cpu(x) if jax.default_backend() == "cpu" else "native"
    return {"native": _native, "depth_sum": _depth_sum, "depth_fold": _depth_fold, "matmul": _matmul}[form](x, kernel)


def _fastest_on_cpu(x: jax.Array) -> Form:
    if x.shape[1] * x.shape[2] * x.shape[3] <= MATMUL_VOXELS:
        return "matmul"
    return "depth_fold" if x.shape[-1] <= FOLD_CHANNELS else "depth_sum"


def _native(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1, 1), "SAME", dimension_numbers=("NDHWC", "DHWIO", "NDHWC"))


def _depth_sum(x: jax.Array, kernel: jax.Array) -> jax.Array:
    planes = [_convolve_planes(y, k) for y, k in zip(_depth_shifts(x, kernel), kernel, strict=True)]
    return functools.reduce(jnp.add, planes).reshape(*x.shape[:-1], -1)


def _depth_fold(x: jax.Array, kernel: jax.Array) -> jax.Array:
    folded = jnp.concatenate(_depth_shifts(x, kernel), -1)
    taps = jnp.moveaxis(kernel, 0, 2).reshape(*kernel.shape[1:3], -1, kernel.shape[-1])
    return _convolve_planes(folded, taps).reshape(*x.shape[:-1], -1)


def _depth_shifts(x: jax.Array, kernel: jax.Array) -> list[jax.Array]:
    """Returns for every depth of the kernel the planes `[b z, y, x, c]` that it meets."""
    b, depth, *plane = x.shape
    padded = _pad(x, (kernel.shape[0], 1, 1))
    return [padded[:, tap : tap + depth].reshape(b * depth, *plane) for tap in range(kernel.shape[0])]


def _convolve_planes(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _matmul(x: jax.Array, kernel: jax.Array) -> jax.Array:
    depth, height, width = x.shape[1:4]
    padded = _pad(x, kernel.shape[:3])
    taps = itertools.product(*map(range, kernel.shape[:3]))
    patches = [padded[:, i : i + depth, j : j + height, k : k + width] for i, j, k in taps]
    return jnp.concatenate(patches, -1) @ kernel.reshape(-1, kernel.shape[-1])


def _pad(x: jax.Array, sides: tuple[int, ...]) -> jax.Array:
    return jnp.pad(x, ((0, 0), *((side // 2, side // 2) for side in sides), (0, 0)))
