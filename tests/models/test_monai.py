"""The variant "monai" is MONAI's `VNet`: the same logits and gradients from the same weights."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")
pytest.importorskip("monai", reason="MONAI is not installed")

import torch
from monai.networks.nets.vnet import VNet as MonaiVNet

from ars_jax.models import VNet
from tests.models.monai_vnet import UP, narrow_vnet, params_of, statistics_of

SHAPE = (2, 32, 16, 32)
"""At the deepest stage 2 x 2 x 1 x 2 voxels are left for the batch statistics."""


pytestmark = pytest.mark.usefixtures("quick")


class DropEveryThird(torch.nn.Module):
    """Stands in for dropout: what is dropped is known, so that its places can be compared."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        kept = torch.arange(x.shape[1]) % 3 > 0
        return x * kept[:, None, None, None] * 1.5


def drop_every_third(x: jax.Array) -> jax.Array:
    return x * jnp.where(jnp.arange(x.shape[-1]) % 3 > 0, 1.5, 0.0)


def theirs(train: bool) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """MONAI's network with random numbers everywhere, and two volumes of two channels."""
    torch.manual_seed(0)
    model = narrow_vnet(width=2, inputs=2, classes=3, dropout=0.5).train(train)
    for name, tensor in model.named_parameters():
        if tensor.ndim == 1:
            torch.nn.init.uniform_(tensor, *((0.5, 1.5) if name.endswith("weight") else (-0.5, 0.5)))
    for name, tensor in model.named_buffers():
        if "running" in name:
            torch.nn.init.uniform_(tensor, 0.5, 1.5)
    for name, module in list(model.named_modules()):
        if isinstance(module, torch.nn.Dropout3d):
            model.set_submodule(name, DropEveryThird() if train else module)
    return model, torch.randn(SHAPE[0], 2, *SHAPE[1:]), torch.randn(SHAPE[0], 3, *SHAPE[1:])


def channels_last(x: torch.Tensor) -> np.ndarray:
    return x.detach().numpy().transpose(0, 2, 3, 4, 1)


def replaced_dropout(call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
    if isinstance(context.module, nn.Dropout) and context.method_name == "__call__":
        return drop_every_third(args[0])
    return call(*args, **kwargs)


MODEL = VNet(classes=3, variant="monai", base_channels=2, dropout=0.5, form="native")


def test_the_same_weights_predict_the_same_logits() -> None:
    """With the running statistics, and with dropout that does nothing."""
    monai, volumes, _ = theirs(train=False)
    variables = {"params": params_of(monai), "batch_stats": statistics_of(monai)}
    found = jax.jit(partial(MODEL.apply, train=False))(variables, channels_last(volumes))
    np.testing.assert_allclose(found, channels_last(monai(volumes)), atol=1e-4)


def test_the_same_weights_have_the_same_gradients_in_training() -> None:
    """By the volumes and by every parameter, with batch statistics and with dropout at MONAI's places."""
    monai, volumes, slope = theirs(train=True)
    volumes.requires_grad_()
    params, batch_stats = params_of(monai), statistics_of(monai)
    expected = monai(volumes)
    (expected * slope).sum().backward()

    @jax.jit
    def run(params: Any, x: jax.Array) -> tuple[jax.Array, tuple[Any, Any], Any]:
        def logits(params: Any, x: jax.Array) -> tuple[jax.Array, Any]:
            variables = {"params": params, "batch_stats": batch_stats}
            with nn.intercept_methods(replaced_dropout):
                return MODEL.apply(variables, x, train=True, mutable=["batch_stats"])

        y, pull, updated = jax.vjp(logits, params, x, has_aux=True)
        return y, pull(channels_last(slope)), updated["batch_stats"]

    found, (by_params, by_volumes), statistics = run(params, channels_last(volumes))
    np.testing.assert_allclose(found, channels_last(expected), atol=1e-4)
    assert volumes.grad is not None
    close(by_volumes, channels_last(volumes.grad))
    jax.tree.map(close, by_params, params_of(monai, lambda parameter: parameter.grad))
    jax.tree.map(close, means(statistics), means(statistics_of(monai)))


def means(statistics: Any) -> list[Any]:
    """The running means; of the variances MONAI keeps the unbiased ones."""
    return [leaf for path, leaf in jax.tree_util.tree_leaves_with_path(statistics) if path[-1].key == "mean"]


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def test_the_parameters_are_those_of_monai_but_the_biases_in_front_of_normalisation() -> None:
    """Of MONAI's own network, with its fixed 16 base channels and its defaults; nothing is allocated."""
    with torch.device("meta"):
        monai = MonaiVNet(in_channels=1, out_channels=2)
    superfluous = sum(monai.get_parameter(f"{name}.up_conv.bias").numel() for name in UP.values())
    assert superfluous == 128 + 64 + 32 + 16
    ours = jax.eval_shape(
        lambda: VNet(2, variant="monai", form="native").init(
            jax.random.key(0), jnp.zeros((1, 16, 16, 16, 1)), train=False
        )
    )
    found = sum(leaf.size for leaf in jax.tree.leaves(ours["params"]))
    assert found == sum(leaf.numel() for leaf in monai.parameters()) - superfluous
