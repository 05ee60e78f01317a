#!/usr/bin/env python
"""How many voxels a second are predicted, whole and by sliding window, beside MONAI in PyTorch in the same run?

Ours is what `ars-jax predict` runs on a prepared image: windows that overlap by half, their probabilities weighted
towards the middle, and the label map on the host. Beside it stand MONAI's `VNet` and its `sliding_window_inference`
with the same overlap and the label map on the host. The windows' weights are not the same: ours fall off as a triangle,
MONAI's as a Gaussian (its other choice is the same weight everywhere), and MONAI's add logits where ours add
probabilities. The variant is "monai" unless told otherwise.
"""

import argparse
import itertools
import sys
from functools import partial
from importlib.util import find_spec
from typing import Any
from unittest.mock import MagicMock

import benchmark
import jax.numpy as jnp
import numpy as np
import optax
from benchmark import Contestant

from ars_jax.data.plan import Plan
from ars_jax.models import VNet
from ars_jax.train.state import place_state

if not find_spec("SimpleITK"):
    sys.modules["SimpleITK"] = MagicMock()  # it reads image files, of which there are none here

from ars_jax.predict import WINDOW_OVERLAP, Network, predict_array, window_starts

Sides = tuple[int, int, int]
MONAI = "MONAI VNet, PyTorch"


def main() -> None:
    """Times whole volumes, then sliding windows, and prints a table for each."""
    arguments = parse()
    report = benchmark.begin(arguments, ("torch", "monai"))
    device = report.facts["torch_device"]
    image = np.random.default_rng(0).standard_normal(arguments.shape, np.float32)
    for name, patch in (("whole", None), ("sliding window", tuple(arguments.patch))):
        contestants = [ours(image, patch, arguments)]
        if device:
            contestants.append(monai(image, patch, arguments, device))
        windows = "" if patch is None else f", {count_windows(image.shape, patch)} windows of {patch}"
        title = f"{name}: {image.shape} voxels{windows}, {arguments.classes} classes, {arguments.dtype}"
        benchmark.measure(report, title, contestants, arguments.rounds, benchmark.SPEED)


def ours(image: np.ndarray, patch: Sides | None, arguments: argparse.Namespace) -> Contestant:
    """Makes a contestant of this package's prediction with a network that was never trained."""
    model = VNet(
        classes=arguments.classes,
        variant=arguments.variant,
        base_channels=arguments.channels,
        kernel_size=arguments.kernel,
        dtype=jnp.dtype(arguments.dtype),
    )
    state = place_state(model, optax.identity(), 0)
    plan = Plan(labels=tuple(f"organ_{number}" for number in range(1, arguments.classes)), patch=patch)
    network = Network(model, state.params, state.batch_stats, plan)
    return Contestant(f"V-Net {arguments.variant}", MONAI, lambda: predict_array(network, image), image.size)


def monai(image: np.ndarray, patch: Sides | None, arguments: argparse.Namespace, device: str) -> Contestant:
    """Makes a contestant of MONAI's prediction with a network that was never trained."""
    import torch
    from monai.inferers.utils import sliding_window_inference
    from monai.networks.nets.vnet import VNet as MonaiVNet

    torch.backends.cudnn.benchmark = True  # all windows are of one size
    model = MonaiVNet(spatial_dims=3, in_channels=1, out_channels=arguments.classes).to(device).eval()
    autocast = torch.autocast(device, getattr(torch, arguments.dtype), enabled=arguments.dtype != "float32")
    windows = {"roi_size": patch, "sw_batch_size": 1, "predictor": model, "overlap": WINDOW_OVERLAP, "mode": "gaussian"}
    predict: Any = model if patch is None else partial(sliding_window_inference, **windows)

    def run() -> np.ndarray:
        with torch.inference_mode(), autocast:
            logits = predict(torch.from_numpy(image)[None, None].to(device))
            return logits.argmax(1).to(torch.uint8).cpu().numpy()

    return Contestant(MONAI, "", run, image.size)


def count_windows(shape: tuple[int, ...], patch: Sides) -> int:
    """Counts the windows that this package predicts."""
    return len(list(itertools.product(*map(window_starts, np.maximum(shape, patch).tolist(), patch))))


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=[96, 96, 96], help="sides, multiples of 16")
    parser.add_argument("--patch", type=int, nargs=3, default=[64, 64, 64], help="sides of a window")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--variant", choices=["monai", "released", "figure"], default="monai", help="of our network")
    parser.add_argument("--channels", type=int, default=16, help="of our first stage; MONAI's has 16")
    parser.add_argument("--kernel", type=int, default=5, help="side of our kernels; MONAI's is 5")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the activations")
    benchmark.add_common(parser, rounds=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
