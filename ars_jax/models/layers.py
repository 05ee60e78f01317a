"""The V-Net's layers; how a convolution is computed is chosen without changing a parameter's name or shape."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from ars_jax.models.convolution import Form, convolve
from ars_jax.models.packing import PLAIN, Layout, convolve_laid_out, pack_halving, spread

CONVOLVED = "convolved"
"""Name of what convolutions of any kind return, by which rematerialisation policies know it."""


class Convolution(nn.Module):
    """A 3-D convolution with stride 1 and zero padding that keeps the shape, without bias unless asked for.

    Attributes:
        features: output channels.
        kernel_size: odd side of the kernel.
        use_bias: adds a bias; a bias in front of batch normalisation has no gradient but rounding noise.
        bias_init: what the bias starts from.
        form: how plain volumes are convolved; `"auto"` chooses by device and shape.
        dtype: type of the computation; parameters are float32.
        layout: how input and output lie.
    """

    features: int
    kernel_size: int = 5
    use_bias: bool = False
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    form: Form = "auto"
    dtype: DTypeLike = jnp.float32
    layout: Layout = PLAIN

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Convolves `x` `[b, z, y, x, c]` to `[b, z, y, x, features]`."""
        shape = (*(self.kernel_size,) * 3, x.shape[-1] // self.layout.voxels, self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape).astype(self.dtype)
        x = x.astype(self.dtype)
        y = convolve(x, kernel, self.form) if self.layout == PLAIN else convolve_laid_out(x, kernel, self.layout)
        y = checkpoint_name(y, CONVOLVED)
        if self.use_bias:
            bias = spread(self.param("bias", self.bias_init, (self.features,)), self.layout)
            y = (_wide(y) + bias).astype(self.dtype)
        return y


class Downsampling(nn.Module):
    """A 2 x 2 x 2 convolution with stride 2, written as space-to-depth and one matrix product.

    Attributes:
        features: output channels.
        dtype: type of the computation; parameters are float32.
        before: how the input lies.
        after: how the output lies, but for its slabs, which are the input's.
    """

    features: int
    dtype: DTypeLike = jnp.float32
    before: Layout = PLAIN
    after: Layout = PLAIN

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Halves the sides of `x` `[b, z, y, x, c]`, all of them even."""
        channels = x.shape[-1] // self.before.voxels
        kernel = self.param("kernel", nn.initializers.he_normal(), (2, 2, 2, channels, self.features))
        kernel = pack_halving(kernel.astype(self.dtype), self.before.pack, self.after.pack)
        (p, q, r), (b, z, y, w, c) = kernel.shape[:3], x.shape
        blocks = x.astype(self.dtype).reshape(b, z // p, p, y // q, q, w // r, r, c)
        return checkpoint_name(jnp.einsum("bzpyqxrc,pqrcf->bzyxf", blocks, kernel), CONVOLVED)


class Upsampling(nn.Module):
    """A transposed 2 x 2 x 2 convolution with stride 2, written as one matrix product and depth-to-space.

    Attributes:
        features: output channels.
        dtype: type of the computation; parameters are float32.
        before: how the input lies, but for its slabs, which are the output's.
        after: how the output lies.
    """

    features: int
    dtype: DTypeLike = jnp.float32
    before: Layout = PLAIN
    after: Layout = PLAIN

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Doubles the sides of `x` `[b, z, y, x, c]`."""
        # One output voxel meets one tap, so the fan-in is that of a 1 x 1 x 1 kernel.
        init = nn.initializers.variance_scaling(2.0, "fan_in", "truncated_normal", batch_axis=(0, 1, 2))
        kernel = self.param("kernel", init, (2, 2, 2, x.shape[-1] // self.before.voxels, self.features))
        # Going up is the transpose of going down.
        kernel = pack_halving(kernel.astype(self.dtype).swapaxes(3, 4), self.after.pack, self.before.pack)
        (p, q, r), (b, z, y, w, _) = kernel.shape[:3], x.shape
        blocks = jnp.einsum("bzyxc,pqrfc->bzpyqxrf", x.astype(self.dtype), kernel)
        return checkpoint_name(blocks.reshape(b, p * z, q * y, r * w, -1), CONVOLVED)


class BatchNorm(nn.Module):
    """Batch normalisation with sums in float32 (Ioffe and Szegedy 2015), as flax has it, of any layout.

    Attributes:
        use_running_average: normalises by the running statistics instead of the batch's.
        momentum: of the running statistics.
        epsilon: added to the variance.
        dtype: type of the result; parameters and statistics are float32.
        layout: how input and output lie.
    """

    use_running_average: bool
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32
    layout: Layout = PLAIN

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises every channel of `x` `[b, z, y, x, c]`."""
        channels = (x.shape[-1] // self.layout.voxels,)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, channels)
        running_var = self.variable("batch_stats", "var", jnp.ones, channels)
        scale = self.param("scale", nn.initializers.ones, channels)
        bias = self.param("bias", nn.initializers.zeros, channels)
        mean, var = running_mean.value, running_var.value
        if not self.use_running_average:
            mean, var = _batch_statistics(x, self.layout)
            if not self.is_initializing():
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * var
        return _normalised(x, mean, scale * jax.lax.rsqrt(var + self.epsilon), bias, self.layout).astype(self.dtype)


# Both are traced once for all normalisations of one shape, of which a network has dozens.
@partial(jax.jit, static_argnums=1)
def _batch_statistics(x: jax.Array, layout: Layout) -> tuple[jax.Array, jax.Array]:
    """Returns every channel's mean and variance, `[c]`, in float32."""

    def mean(values: jax.Array) -> jax.Array:
        return values.mean((0, 1, 2, 3)).reshape(-1, layout.voxels).mean(1)

    x = x.astype(jnp.float32)
    average = mean(x)
    return average, jnp.maximum(mean(jnp.square(x)) - jnp.square(average), 0.0)


@partial(jax.jit, static_argnums=4)
def _normalised(x: jax.Array, mean: jax.Array, factor: jax.Array, bias: jax.Array, layout: Layout) -> jax.Array:
    mean, factor, bias = (spread(vector, layout) for vector in (mean, factor, bias))
    return (x.astype(jnp.float32) - mean) * factor + bias


class PReLU(nn.Module):
    """The rectifier with one learnt negative slope per channel, 0.25 at the start (He et al. 2015).

    Attributes:
        layout: how input and output lie.
    """

    layout: Layout = PLAIN

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns x where positive, slope times x elsewhere, in the shape and type of `x`."""
        slope = self.param("slope", nn.initializers.constant(0.25), (x.shape[-1] // self.layout.voxels,))
        return jnp.where(x >= 0, x, (spread(slope, self.layout) * _wide(x)).astype(x.dtype))


def _wide(x: jax.Array) -> jax.Array:
    """Returns `x` in float32 at least: a parameter's gradient is a sum over all voxels, too long for bfloat16."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
