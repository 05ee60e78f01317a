"""V-Net (Milletari et al. 2016) with batch normalisation and dropout, as the paper trains it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from ars_jax.models.convolution import Form
from ars_jax.models.layers import CONVOLVED, Convolution, Downsampling, PReLU, Upsampling

Variant = Literal["figure", "released", "monai"]
Remat = Literal["none", "convolutions", "stages"]
Activation = Callable[[jax.Array], jax.Array]

STRIDE = 16
"""Every side of the input must be a multiple of this: four halvings."""

BACKGROUND_PRIOR = 0.9
"""Probability of background that the logits' bias starts from; organs share the rest.

From equal probabilities the false positives of small organs fill the volume, and with Adam the bias needs hundreds of
steps to take them back.
"""


@dataclass(frozen=True)
class _Design:
    """What the variants differ in.

    Attributes:
        down: convolutions of the stages on the way down.
        up: convolutions of the stages on the way up, from the deepest.
        activation: makes an activation.
        twice: whether a stage's last convolution has an activation of its own in front of the sum, besides that of the
            sum; the first stage's never has.
        dropped: places where whole channels are dropped: "encoder_i" is what leaves stage i on the way down, "branch_i"
            what its convolutions see but not its residual, "skip_i" what the stage up gets of it by the skip
            connection, "below_i" what the stage up gets from below.
    """

    down: tuple[int, ...]
    up: tuple[int, ...]
    activation: Callable[[], Activation]
    twice: bool
    dropped: frozenset[str]


_DEPTH = frozenset({"encoder_3", "below_3", "below_2"})
_MONAI = frozenset({"branch_3", "branch_4", "below_3", "below_2", "skip_3", "skip_2", "skip_1", "skip_0"})
_DESIGNS = {
    "figure": _Design((1, 2, 3, 3, 3), (3, 3, 2, 1), PReLU, twice=False, dropped=_DEPTH),
    "released": _Design((1, 1, 2, 3, 3), (3, 2, 1, 1), PReLU, twice=False, dropped=_DEPTH),
    "monai": _Design((1, 1, 2, 3, 2), (2, 2, 1, 1), lambda: nn.elu, twice=True, dropped=_MONAI),
}


class VNet(nn.Module):
    """A V-Net: five stages down, four up, each a residual block of convolutions.

    Channels double at every stage down. A stage up doubles the sides, comes to as many channels as its skip
    connection has, and is concatenated with it; the concatenation is its residual. Convolutions in front of batch
    normalisation carry no bias. The paper names batch normalisation and dropout but neither places nor rate: here
    whole channels are dropped after the two deepest stages down and the deepest stage up.

    The variants, with their parameters for one input channel, two classes and the other defaults:

    - `"figure"`: the published figure's 1, 2, 3, 3, 3 convolutions down and 3, 3, 2, 1 up; 65.2 million.
    - `"released"`: the authors' released network's 1, 1, 2, 3, 3 and 3, 2, 1, 1; 62.0 million.
    - `"monai"`: the network of MONAI's `VNet` with 1, 1, 2, 3, 2 and 2, 2, 1, 1, ELU instead of PReLU, activations in
      front of each sum and after it, and dropout of its own places (MONAI's default rate is 0.5); 45.6 million. MONAI's
      upsampling also has biases, 240 numbers, which the batch normalisation behind them takes out again.

    Attributes:
        classes: output channels, background included.
        variant: `"figure"`, `"released"` or `"monai"`.
        base_channels: channels of the first stage; the paper has 16.
        kernel_size: odd side of the stages' convolutions; the paper has 5.
        dropout: the share of channels dropped, within [0, 1).
        form: how convolutions are computed, see `convolution.convolve`.
        dtype: type of the computation; parameters, running statistics, the sums of the batch statistics and the
            returned logits are float32.
        remat: what the backward pass finds in memory. `"none"`: everything that it needs. `"convolutions"`: what
            enters a stage, what convolutions return and the sums of the batch statistics; normalisations and
            activations are computed again. `"stages"`: only what enters a stage; its convolutions too are computed
            again, a third more work for the least memory. Parameters and gradients are the same.
    """

    classes: int
    variant: Variant = "figure"
    base_channels: int = 16
    kernel_size: int = 5
    dropout: float = 0.0
    form: Form = "auto"
    dtype: DTypeLike = jnp.float32
    remat: Remat = "none"

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
        x = self._stage(VNet._first, train)(x.astype(self.dtype))
        skips = []
        for number in (1, 2, 3, 4):
            skips.append(x)
            x = self._stage(VNet._encode, train, number)(x)
        for number in (3, 2, 1, 0):
            x = self._stage(VNet._decode, train, number)(x, skips[number])
        return self._stage(VNet._head, train)(x)

    def _stage(self, function: Callable[..., jax.Array], *static: Any) -> Callable[..., jax.Array]:
        """Binds a stage's static arguments, and has it computed again where the policy says so."""
        if self.remat == "none":
            return partial(function, self, *static)
        policy = _keep_convolutions if self.remat == "convolutions" else None
        again = nn.remat(function, policy=policy, static_argnums=tuple(range(1, 1 + len(static))))
        return partial(again, self, *static)

    def _first(self, train: bool, x: jax.Array) -> jax.Array:
        return self._block(train, 1, name="encoder_0")(x, _repeat_channels(x, self.base_channels))

    def _encode(self, train: bool, number: int, x: jax.Array) -> jax.Array:
        x = Downsampling(2 * x.shape[-1], dtype=self.dtype, name=f"down_{number}")(x)
        x = self._activation()(self._norm(train)(name=f"down_{number}_norm")(x))
        branch = self._drop(train, x, f"branch_{number}")
        x = self._block(train, self._design.down[number], name=f"encoder_{number}")(branch, x)
        return self._drop(train, x, f"encoder_{number}")

    def _decode(self, train: bool, number: int, x: jax.Array, skip: jax.Array) -> jax.Array:
        x, skip = self._drop(train, x, f"below_{number}"), self._drop(train, skip, f"skip_{number}")
        x = Upsampling(skip.shape[-1], dtype=self.dtype, name=f"up_{number}")(x)
        x = self._activation()(self._norm(train)(name=f"up_{number}_norm")(x))
        x = jnp.concatenate([x, skip], axis=-1)
        return self._block(train, self._design.up[3 - number], name=f"decoder_{number}")(x, x)

    def _head(self, train: bool, x: jax.Array) -> jax.Array:
        convolution = self._convolution()
        x = self._norm(train)(name="head_norm")(convolution(self.classes, name="head")(x))
        x = self._activation()(x)
        logits = convolution(self.classes, kernel_size=1, use_bias=True, bias_init=_prior_bias, name="logits")(x)
        return logits.astype(jnp.float32)

    @property
    def _design(self) -> _Design:
        return _DESIGNS[self.variant]

    def _activation(self) -> Activation:
        return self._design.activation()

    def _convolution(self) -> Callable[..., Convolution]:
        return partial(Convolution, kernel_size=self.kernel_size, form=self.form, dtype=self.dtype)

    def _norm(self, train: bool) -> Callable[..., nn.BatchNorm]:
        return partial(nn.BatchNorm, use_running_average=not train, momentum=0.9, dtype=self.dtype)

    def _drop(self, train: bool, x: jax.Array, place: str) -> jax.Array:
        if place not in self._design.dropped:
            return x
        return nn.Dropout(self.dropout, broadcast_dims=(1, 2, 3), deterministic=not train)(x)

    def _block(self, train: bool, count: int, name: str) -> "Block":
        twice = self._design.twice and name != "encoder_0"
        activation = self._design.activation
        return Block(count, self._convolution(), self._norm(train), activation, twice, name=name)


class Block(nn.Module):
    """Convolutions, each with norm and activation; the residual is added before the last activation.

    Attributes:
        count: number of convolutions.
        convolution: makes a convolution of the given features.
        norm: makes a normalisation.
        activation: makes an activation.
        twice: whether the last convolution has an activation of its own, in front of the sum.
    """

    count: int
    convolution: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    activation: Callable[[], Activation] = PReLU
    twice: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, residual: jax.Array) -> jax.Array:
        """Maps `x` `[b, z, y, x, c]` to the shape of `residual` `[b, z, y, x, features]`."""
        for index in range(self.count):
            x = self.norm()(self.convolution(residual.shape[-1])(x))
            if self.twice or index < self.count - 1:
                x = self.activation()(x)
        return self.activation()(x + residual)


def _keep_convolutions(primitive: Any, *shapes: Any, **params: Any) -> Any:
    """Keeps what convolutions return and every sum, which is small: batch statistics need no second look."""
    named = jax.checkpoint_policies.save_only_these_names(CONVOLVED)
    return primitive is jax.lax.reduce_sum_p or named(primitive, *shapes, **params)


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
