"""The V-Net's layers; how a convolution is computed is chosen without changing a parameter's name or shape."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from ars_jax.models.convolution import Form, convolve

CONVOLVED = "convolved"
"""Name of what convolutions of any kind return, by which rematerialisation policies know it."""


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
        y = checkpoint_name(convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.form), CONVOLVED)
        if self.use_bias:
            y = (_wide(y) + self.param("bias", self.bias_init, (self.features,))).astype(self.dtype)
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
        return checkpoint_name(jnp.einsum("bzpyqxrc,pqrcf->bzyxf", blocks, kernel.astype(self.dtype)), CONVOLVED)


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
        return checkpoint_name(blocks.reshape(b, 2 * z, 2 * y, 2 * w, self.features), CONVOLVED)


class PReLU(nn.Module):
    """The rectifier with one learnt negative slope per channel, 0.25 at the start (He et al. 2015)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns x where positive, slope times x elsewhere, in the shape and type of `x`."""
        slope = self.param("slope", nn.initializers.constant(0.25), (x.shape[-1],))
        return jnp.where(x >= 0, x, (slope * _wide(x)).astype(x.dtype))


def _wide(x: jax.Array) -> jax.Array:
    """Returns `x` in float32 at least: a parameter's gradient is a sum over all voxels, too long for bfloat16."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
