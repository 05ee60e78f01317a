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
from ars_jax.models.layers import CONVOLVED, BatchNorm, Convolution, Downsampling, PReLU, Upsampling
from ars_jax.models.packing import (
    PLAIN,
    Layout,
    change_slabs,
    lay,
    lay_plain,
    repeat_channels,
    spread_volumes,
    stage_layouts,
)

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
    activation: Callable[[Layout], Activation]
    twice: bool
    dropped: frozenset[str]


_DEPTH = frozenset({"encoder_3", "below_3", "below_2"})
_MONAI = frozenset({"branch_3", "branch_4", "below_3", "below_2", "skip_3", "skip_2", "skip_1", "skip_0"})
_DESIGNS = {
    "figure": _Design((1, 2, 3, 3, 3), (3, 3, 2, 1), PReLU, twice=False, dropped=_DEPTH),
    "released": _Design((1, 1, 2, 3, 3), (3, 2, 1, 1), PReLU, twice=False, dropped=_DEPTH),
    "monai": _Design((1, 1, 2, 3, 2), (2, 2, 1, 1), lambda layout: nn.elu, twice=True, dropped=_MONAI),
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
            returned logits are float32. Gradients are float32 too; those of kernels, as in flax and under PyTorch's
            autocast, are summed in float32 and then may be rounded to this type once.
        remat: what the backward pass finds in memory. `"none"`: everything that it needs. `"convolutions"`: what
            enters a stage, what convolutions return and the sums of the batch statistics; normalisations and
            activations are computed again. `"stages"`: only what enters a stage; its convolutions too are computed
            again, a third more work for the least memory. Parameters and gradients are the same.
        packed: lays volumes out for a TPU, see `packing`; parameters, logits and gradients are the same but for
            rounding.
    """

    classes: int
    variant: Variant = "figure"
    base_channels: int = 16
    kernel_size: int = 5
    dropout: float = 0.0
    form: Form = "auto"
    dtype: DTypeLike = jnp.float32
    remat: Remat = "none"
    packed: bool = False

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
        layouts = stage_layouts(x.shape[3], self.base_channels, 5) if self.packed else (PLAIN,) * 5
        x = self._stage(VNet._first, train, layouts[0])(x.astype(self.dtype))
        skips = []
        for number in (1, 2, 3, 4):
            skips.append(x)
            x = self._stage(VNet._encode, train, number, layouts[number - 1 : number + 1])(x)
        for number in (3, 2, 1, 0):
            x = self._stage(VNet._decode, train, number, layouts[number : number + 2])(x, skips[number])
        return self._stage(VNet._head, train, layouts[0])(x)

    def _stage(self, function: Callable[..., jax.Array], *static: Any) -> Callable[..., jax.Array]:
        """Binds a stage's static arguments, and has it computed again where the policy says so."""
        if self.remat == "none":
            return partial(function, self, *static)
        policy = _keep_convolutions if self.remat == "convolutions" else None
        again = nn.remat(function, policy=policy, static_argnums=tuple(range(1, 1 + len(static))))
        return partial(again, self, *static)

    def _first(self, train: bool, layout: Layout, x: jax.Array) -> jax.Array:
        x = lay(x, layout)
        return self._block(train, layout, 1, name="encoder_0")(x, repeat_channels(x, self.base_channels, layout))

    def _encode(self, train: bool, number: int, layouts: tuple[Layout, ...], x: jax.Array) -> jax.Array:
        before, layout = layouts
        features = 2 * x.shape[-1] // before.voxels
        x = Downsampling(features, self.dtype, before, layout, name=f"down_{number}")(x)
        x = change_slabs(x, before.slabs, layout.slabs)
        x = self._activation(layout)(self._norm(train, layout)(name=f"down_{number}_norm")(x))
        branch = self._drop(train, layout, x, f"branch_{number}")
        x = self._block(train, layout, self._design.down[number], name=f"encoder_{number}")(branch, x)
        return self._drop(train, layout, x, f"encoder_{number}")

    def _decode(
        self, train: bool, number: int, layouts: tuple[Layout, ...], x: jax.Array, skip: jax.Array
    ) -> jax.Array:
        layout, below = layouts
        x, skip = self._drop(train, below, x, f"below_{number}"), self._drop(train, layout, skip, f"skip_{number}")
        x = change_slabs(x, below.slabs, layout.slabs)
        x = Upsampling(skip.shape[-1] // layout.voxels, self.dtype, below, layout, name=f"up_{number}")(x)
        x = self._activation(layout)(self._norm(train, layout)(name=f"up_{number}_norm")(x))
        x = jnp.concatenate([x, skip], axis=-1)
        return self._block(train, layout, self._design.up[3 - number], name=f"decoder_{number}")(x, x)

    def _head(self, train: bool, layout: Layout, x: jax.Array) -> jax.Array:
        convolution = self._convolution(layout)
        x = self._norm(train, layout)(name="head_norm")(convolution(self.classes, name="head")(x))
        x = self._activation(layout)(x)
        logits = convolution(self.classes, kernel_size=1, use_bias=True, bias_init=_prior_bias, name="logits")(x)
        return lay_plain(logits, layout).astype(jnp.float32)

    @property
    def _design(self) -> _Design:
        return _DESIGNS[self.variant]

    def _activation(self, layout: Layout) -> Activation:
        return self._design.activation(layout)

    def _convolution(self, layout: Layout) -> Callable[..., Convolution]:
        return partial(Convolution, kernel_size=self.kernel_size, form=self.form, dtype=self.dtype, layout=layout)

    def _norm(self, train: bool, layout: Layout) -> Callable[..., BatchNorm]:
        return partial(BatchNorm, use_running_average=not train, momentum=0.9, dtype=self.dtype, layout=layout)

    def _drop(self, train: bool, layout: Layout, x: jax.Array, place: str) -> jax.Array:
        if place not in self._design.dropped or not train or self.dropout == 0:
            return x
        dropout = nn.Dropout(self.dropout, broadcast_dims=(1, 2, 3), deterministic=False)
        if layout == PLAIN:
            return dropout(x)
        # A channel of a volume is dropped whole, wherever its slabs and blocks lie.
        volumes, channels = x.shape[0] // layout.slabs, x.shape[-1] // layout.voxels
        return x * spread_volumes(dropout(jnp.ones((volumes, 1, 1, 1, channels), x.dtype)), layout)

    def _block(self, train: bool, layout: Layout, count: int, name: str) -> "Block":
        twice = self._design.twice and name != "encoder_0"
        activation = partial(self._design.activation, layout)
        return Block(
            count, self._convolution(layout), self._norm(train, layout), activation, twice, layout.voxels, name=name
        )


class Block(nn.Module):
    """Convolutions, each with norm and activation; the residual is added before the last activation.

    Attributes:
        count: number of convolutions.
        convolution: makes a convolution of the given features.
        norm: makes a normalisation.
        activation: makes an activation.
        twice: whether the last convolution has an activation of its own, in front of the sum.
        voxels: of a block, see `packing`.
    """

    count: int
    convolution: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    activation: Callable[[], Activation] = PReLU
    twice: bool = False
    voxels: int = 1

    @nn.compact
    def __call__(self, x: jax.Array, residual: jax.Array) -> jax.Array:
        """Maps `x` `[b, z, y, x, c]` to the shape of `residual` `[b, z, y, x, features]`."""
        for index in range(self.count):
            x = self.norm()(self.convolution(residual.shape[-1] // self.voxels)(x))
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
