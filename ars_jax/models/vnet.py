"""V-Net (Milletari et al. 2016) with batch normalisation and dropout, as the paper trains it."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ars_jax.models.layers import Convolution, Downsampling, Form, PReLU, Upsampling

Variant = Literal["figure"]

STRIDE = 16
"""Every side of the input must be a multiple of this: four halvings."""

BACKGROUND_PRIOR = 0.9
"""Probability of background that the logits' bias starts from; organs share the rest.

From equal probabilities the false positives of small organs fill the volume, and with Adam the bias needs hundreds of
steps to take them back.
"""

_CONVOLUTIONS = {"figure": ((1, 2, 3, 3, 3), (3, 3, 2, 1))}
"""Convolutions per stage on the way down and on the way up."""


class VNet(nn.Module):
    """A V-Net: five stages down, four up, each a residual block of convolutions.

    Channels double at every stage down. A stage up doubles the sides, comes to as many channels as its skip
    connection has, and is concatenated with it; the concatenation is its residual. Convolutions in front of batch
    normalisation carry no bias. The paper names batch normalisation and dropout but neither places nor rate: here
    whole channels are dropped after the two deepest stages down and the deepest stage up.

    Attributes:
        classes: output channels, background included.
        variant: `"figure"`: the published figure's 1, 2, 3, 3, 3 convolutions down and 3, 3, 2, 1 up, 65.2 million
            parameters with one input channel, two classes and the other defaults.
        base_channels: channels of the first stage; the paper has 16.
        kernel_size: odd side of the stages' convolutions; the paper has 5.
        dropout: the share of channels dropped, within [0, 1).
        form: how convolutions are computed, see `layers.convolve`.
        dtype: type of the computation; parameters, running statistics and the returned logits are float32.
    """

    classes: int
    variant: Variant = "figure"
    base_channels: int = 16
    kernel_size: int = 5
    dropout: float = 0.0
    form: Form = "auto"
    dtype: DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """Maps volumes to logits.

        Args:
            x: `[b, z, y, x, channels]`, every side a multiple of 16.
            train: normalises by the batch and drops channels (needs the random stream `dropout` if the rate is not 0).

        Returns:
            Logits `[b, z, y, x, classes]`, float32.

        Raises:
            ValueError: a side that is no multiple of 16; nothing is cropped.
        """
        if any(side % STRIDE for side in x.shape[1:4]):
            raise ValueError(f"V-Net sides must be multiples of {STRIDE}; the input is {x.shape}: pad it first")
        convolution = partial(Convolution, kernel_size=self.kernel_size, form=self.form, dtype=self.dtype)
        norm = partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, dtype=self.dtype)
        block = partial(Block, convolution=convolution, norm=norm)
        drop = nn.Dropout(self.dropout, broadcast_dims=(1, 2, 3), deterministic=not train)
        down, up = _CONVOLUTIONS[self.variant]

        x = x.astype(self.dtype)
        x = block(down[0], name="encoder_0")(x, _repeat_channels(x, self.base_channels))
        skips = []
        for stage, count in enumerate(down[1:], start=1):
            skips.append(x)
            x = Downsampling(2 * x.shape[-1], dtype=self.dtype, name=f"down_{stage}")(x)
            x = PReLU()(norm(name=f"down_{stage}_norm")(x))
            x = block(count, name=f"encoder_{stage}")(x, x)
            x = drop(x) if stage >= 3 else x
        for stage, count in zip((3, 2, 1, 0), up, strict=True):
            skip = skips[stage]
            x = Upsampling(skip.shape[-1], dtype=self.dtype, name=f"up_{stage}")(x)
            x = PReLU()(norm(name=f"up_{stage}_norm")(x))
            x = jnp.concatenate([x, skip], axis=-1)
            x = block(count, name=f"decoder_{stage}")(x, x)
            x = drop(x) if stage == 3 else x
        x = PReLU()(norm(name="head_norm")(convolution(self.classes, name="head")(x)))
        logits = convolution(self.classes, kernel_size=1, use_bias=True, bias_init=_prior_bias, name="logits")(x)
        return logits.astype(jnp.float32)


class Block(nn.Module):
    """Convolutions, each with norm and PReLU; the residual is added before the last activation.

    Attributes:
        count: number of convolutions.
        convolution: makes a convolution of the given features.
        norm: makes a normalisation.
    """

    count: int
    convolution: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: jax.Array, residual: jax.Array) -> jax.Array:
        """Maps `x` `[b, z, y, x, c]` to the shape of `residual` `[b, z, y, x, features]`."""
        for index in range(self.count):
            x = self.norm()(self.convolution(residual.shape[-1])(x))
            x = PReLU()(x + residual if index == self.count - 1 else x)
        return x


def _prior_bias(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """Returns the logarithm of the odds of background in its channel, 0 elsewhere."""
    del key
    (classes,) = shape
    odds = BACKGROUND_PRIOR / (1 - BACKGROUND_PRIOR) * max(classes - 1, 1)
    return jnp.zeros(shape, dtype).at[0].set(math.log(odds))


def _repeat_channels(x: jax.Array, features: int) -> jax.Array:
    """Repeats the input's channels up to `features`; broadcast, because tiling compiles slowly."""
    copies = -(-features // x.shape[-1])
    repeated = jnp.broadcast_to(x[..., None, :], (*x.shape[:-1], copies, x.shape[-1]))
    return repeated.reshape(*x.shape[:-1], -1)[..., :features]
