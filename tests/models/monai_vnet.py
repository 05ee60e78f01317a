"""MONAI's V-Net of any width, and its numbers in the shape of ours."""

from collections.abc import Callable
from typing import Any

import numpy as np
from monai.networks.nets import vnet
from torch import nn

ACT = ("elu", {"inplace": True})
"""MONAI's default."""
UP = {3: "up_tr256", 2: "up_tr128", 1: "up_tr64", 0: "up_tr32"}
DOWN = {1: "down_tr32", 2: "down_tr64", 3: "down_tr128", 4: "down_tr256"}


def narrow_vnet(width: int, inputs: int, classes: int, dropout: float) -> vnet.VNet:
    """MONAI's `VNet` with another number of base channels than its fixed 16; the way through it is MONAI's own."""
    model = vnet.VNet.__new__(vnet.VNet)
    nn.Module.__init__(model)
    half = (dropout, dropout)
    model.in_tr = vnet.InputTransition(3, inputs, width, ACT)
    model.down_tr32 = vnet.DownTransition(3, width, 1, ACT)
    model.down_tr64 = vnet.DownTransition(3, 2 * width, 2, ACT)
    model.down_tr128 = vnet.DownTransition(3, 4 * width, 3, ACT, dropout_prob=dropout)
    model.down_tr256 = vnet.DownTransition(3, 8 * width, 2, ACT, dropout_prob=dropout)
    model.up_tr256 = vnet.UpTransition(3, 16 * width, 16 * width, 2, ACT, dropout_prob=half)
    model.up_tr128 = vnet.UpTransition(3, 16 * width, 8 * width, 2, ACT, dropout_prob=half)
    model.up_tr64 = vnet.UpTransition(3, 8 * width, 4 * width, 1, ACT, dropout_prob=(None, dropout))
    model.up_tr32 = vnet.UpTransition(3, 4 * width, 2 * width, 1, ACT, dropout_prob=(None, dropout))
    model.out_tr = vnet.OutputTransition(3, 2 * width, classes, ACT)
    return model


def params_of(model: nn.Module, take: Callable[[Any], Any] = lambda parameter: parameter) -> dict[str, Any]:
    """Our parameters from those of MONAI's network, or from their gradients with `take`.

    The biases of the upsampling are left out: batch normalisation takes them out again.
    """

    def numbers(parameter: Any) -> np.ndarray:
        return take(parameter).detach().numpy().copy()

    def kernel(layer: Any, *order: int) -> np.ndarray:
        return numbers(layer.weight).transpose(order)

    def conv(layer: Any) -> dict[str, np.ndarray]:
        return {"kernel": kernel(layer, 2, 3, 4, 1, 0)}

    def up(layer: Any) -> dict[str, np.ndarray]:
        return {"kernel": kernel(layer, 2, 3, 4, 0, 1)}

    def norm(layer: Any) -> dict[str, np.ndarray]:
        return {"scale": numbers(layer.weight), "bias": numbers(layer.bias)}

    last = model.get_submodule("out_tr.conv2")
    return {**_mapped(model, conv, up, norm), "logits": {**conv(last), "bias": numbers(last.bias)}}


def statistics_of(model: nn.Module) -> dict[str, Any]:
    """Our running statistics from those of MONAI's network, without the biases of its upsampling."""

    def norm(layer: Any) -> dict[str, np.ndarray]:
        return {"mean": layer.running_mean.numpy().copy(), "var": layer.running_var.numpy().copy()}

    statistics = _mapped(model, None, None, norm)
    for stage, name in UP.items():
        statistics[f"up_{stage}_norm"]["mean"] -= model.get_parameter(f"{name}.up_conv.bias").detach().numpy()
    return statistics


def _mapped(model: nn.Module, conv: Any, up: Any, norm: Any) -> dict[str, Any]:
    """Applies a function to every layer of its kind, under our names; None leaves a kind out."""

    def block(layers: list[Any]) -> dict[str, Any]:
        tree = {}
        for index, layer in enumerate(layers):
            tree |= {f"Convolution_{index}": conv(layer.conv)} if conv else {}
            tree |= {f"BatchNorm_{index}": norm(layer.adn.N)}
        return tree

    part = model.get_submodule
    tree = {"encoder_0": block([part("in_tr.conv_block")]), "head_norm": norm(part("out_tr.conv_block.adn.N"))}
    for stage, name in DOWN.items():
        tree |= {f"down_{stage}": conv(part(f"{name}.down_conv"))} if conv else {}
        tree |= {f"down_{stage}_norm": norm(part(f"{name}.bn1"))}
        tree |= {f"encoder_{stage}": block([layer.conv_block for layer in part(f"{name}.ops").children()])}
    for stage, name in UP.items():
        tree |= {f"up_{stage}": up(part(f"{name}.up_conv"))} if up else {}
        tree |= {f"up_{stage}_norm": norm(part(f"{name}.bn1"))}
        tree |= {f"decoder_{stage}": block([layer.conv_block for layer in part(f"{name}.ops").children()])}
    return tree | ({"head": conv(part("out_tr.conv_block.conv"))} if conv else {})
