#!/usr/bin/env python
"""How long does one training step of the V-Net take, beside MONAI's `VNet` in PyTorch in the same run?

Parts, chosen by --parts:

monai      variant "monai" with Dice + cross-entropy and Adam, beside MONAI's with the same; with a type other than
           float32, PyTorch runs under autocast; on a GPU also channels last, and the better of the two counts
forms      the demo's and the hippocampus's network, convolutions chosen by shape beside XLA's native ones
scaling    part monai over volumes and numbers of classes
compile    in processes of their own: tracing, lowering and compiling a configuration's step, cold and kept from before
largest    the figure's V-Net, baseline + ARS and Adam on the paper's largest volume, per policy of rematerialisation

Contestants take turns, so that a busy machine slows all of them alike. Operations and bytes are the compiler's count.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import benchmark
import jax
import jax.numpy as jnp
import numpy as np
from benchmark import Contestant

from ars_jax.config import Config, DataConfig, LossConfig, OptimConfig, RunConfig, TrainConfig
from ars_jax.mesh import make_mesh
from ars_jax.models import VNet
from ars_jax.train.compile import lower_step
from ars_jax.train.state import place_state
from ars_jax.train.step import make_optimizer

Sides = tuple[int, int, int]
Groups = Iterator[tuple[str, list[Contestant]]]

MONAI = "MONAI VNet, PyTorch"
LEARNING_RATE = 1e-3
CANVASES: dict[str, tuple[Sides, int]] = {"demo": ((48, 48, 48), 11), "hippocampus": ((32, 48, 32), 3)}
"""Canvas and classes of the configurations' data."""
NOWHERE = Config(DataConfig(Path("data")), RunConfig(Path("run")))


def main() -> None:
    """Times all chosen parts and prints a table for each."""
    arguments = parse()
    if arguments.worker:
        print(json.dumps(compile_once(arguments.worker, Path(arguments.kept))))
        return
    facts, limits = benchmark.facts(), benchmark.ceilings(arguments.dtype)
    facts |= {"dtype": arguments.dtype}
    benchmark.introduce(facts, limits)
    groups = {"monai": beside_monai, "forms": forms, "scaling": scaling, "largest": largest}
    parts: dict[str, Any] = {}
    for part in arguments.parts:
        if part == "compile":
            parts[part] = compile_times(arguments.presets)
            continue
        parts[part] = []
        for title, contestants in groups[part](arguments):
            rows = benchmark.take_turns(contestants, arguments.rounds)
            benchmark.show(title, rows, limits)
            parts[part].append({"title": title, "rows": rows})
    benchmark.write(arguments.json, facts, limits, parts)


def beside_monai(arguments: argparse.Namespace) -> Groups:
    """Pits the variant "monai" against MONAI's V-Net, at one volume and number of classes."""
    shape, classes = (arguments.batch, *arguments.shape), arguments.classes
    model = network(arguments, variant="monai", classes=classes, dropout=0.5)
    config = configuration("baseline", arguments.batch)
    theirs = torch_steps(shape, classes, arguments.dtype) if arguments.torch else []
    ours = step(f"V-Net monai, {arguments.dtype}", best_name(theirs), model, config, shape)
    yield f"{shape} voxels, {classes} classes, Dice + cross-entropy, Adam", [ours, *theirs]


def scaling(arguments: argparse.Namespace) -> Groups:
    """Repeats part monai for other volumes, then for other numbers of classes."""
    for side in arguments.sides:
        yield from beside_monai(argparse.Namespace(**{**vars(arguments), "shape": (side,) * 3}))
    for classes in arguments.class_counts:
        yield from beside_monai(argparse.Namespace(**{**vars(arguments), "classes": classes}))


def forms(arguments: argparse.Namespace) -> Groups:
    """Pits a configuration's network against itself with native convolutions."""
    for name in arguments.presets:
        config, model, shape = preset_step(name)
        native = f"{name}, native convolutions"
        contestants = [
            step(f"{name}, chosen by shape", native, model, config, shape),
            step(native, "", model.clone(form="native"), config, shape),
        ]
        yield f"{name}: {shape} voxels, {model.classes} classes, {config.loss.objective}", contestants


def largest(arguments: argparse.Namespace) -> Groups:
    """Pits the figure's V-Net with each policy of rematerialisation against MONAI's smaller V-Net and smaller loss."""
    shape, classes = (1, *arguments.largest), arguments.largest_classes
    config = configuration("baseline+ars", 1, grid=arguments.grid)

    def ours(remat: Any) -> list[Contestant]:
        model = network(arguments, variant="figure", classes=classes, remat=remat)
        return [step(f"figure, remat {remat}", "", model, config, shape)]

    contestants = [found for remat in arguments.remat for found in fitting(f"remat {remat}", ours, remat)]
    theirs = fitting(MONAI, torch_steps, shape, classes, arguments.dtype) if arguments.torch else []
    beside = best_name(theirs)
    yield (
        f"{shape} voxels, {classes} classes, {arguments.dtype}, baseline + ARS (MONAI: Dice + cross-entropy), Adam",
        [*(contestant._replace(beside=beside) for contestant in contestants), *theirs],
    )


def fitting(name: str, make: Callable[..., list[Contestant]], *how: Any) -> list[Contestant]:
    """Returns contestants that fit the device's memory, each tried once, and says which do not."""
    try:
        contestants = make(*how)
        for contestant in contestants:
            contestant.run()
    except Exception as error:
        if not benchmark.without_memory(error):
            raise
        print(f"{name} does not fit the memory", flush=True)
        return []
    return contestants


def network(arguments: argparse.Namespace, **how: Any) -> VNet:
    """Makes a V-Net of the wanted width and type."""
    dtype = jnp.dtype(arguments.dtype)
    return VNet(base_channels=arguments.channels, kernel_size=arguments.kernel, dtype=dtype, **how)


def configuration(objective: Any, batch: int, grid: int = 16) -> Config:
    """Makes a configuration of plain Adam and an objective; baseline is Dice + cross-entropy."""
    optim = OptimConfig(learning_rate=LEARNING_RATE, schedule="constant", warmup=0.0)
    return replace(NOWHERE, loss=LossConfig(objective, grid=grid), optim=optim, train=TrainConfig(batch_size=batch))


def preset_step(name: str) -> tuple[Config, VNet, tuple[int, int, int, int]]:
    """Returns one of the package's configurations, its network and the shape of its batch."""
    from ars_jax.options import preset
    from ars_jax.predict import make_model

    config = preset(name, ["--data.root", "data", "--run.dir", "run"])
    canvas, classes = CANVASES[name]
    return config, make_model(config.model, classes), (config.train.batch_size, *canvas)


def step(name: str, beside: str, model: VNet, config: Config, shape: tuple[int, int, int, int]) -> Contestant:
    """Makes a contestant of the real training step, as `ars-jax train` compiles it."""
    optimizer, mesh = make_optimizer(config.optim, steps=1000), make_mesh(1)
    state = place_state(model, optimizer, 0)
    lowered = lower_step(config, model, optimizer, state, mesh, canvas=shape[1:], partly_labelled=False)
    compiled = lowered.compile()
    image, label = volume(shape, model.classes)
    batch = {"image": image[..., None], "label": label, "labelled": np.ones((shape[0], model.classes), bool)}
    placed, held = jax.device_put(batch), [state]

    def run() -> None:
        held[0], metrics = compiled(held[0], placed)
        jax.block_until_ready((held[0], metrics))

    return Contestant(name, beside, run, int(np.prod(shape)), benchmark.counted(compiled))


def volume(shape: tuple[int, ...], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns noise `[b, z, y, x]` and coarse random labels, which hold every class in boxes of 8 voxels."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, classes, [shape[0], *(-(-side // 8) for side in shape[1:])], np.uint8)
    label = coarse.repeat(8, 1).repeat(8, 2).repeat(8, 3)
    return rng.standard_normal(shape, np.float32), label[:, : shape[1], : shape[2], : shape[3]].copy()


def torch_steps(shape: tuple[int, int, int, int], classes: int, dtype: str) -> list[Contestant]:
    """Makes contestants of MONAI's V-Net: one, or on a GPU one for each layout in memory; none without MONAI."""
    if not (find_spec("torch") and find_spec("monai")):
        print("PyTorch or MONAI is not installed: only this package's programs are timed")
        return []
    import torch

    layouts = {"": torch.contiguous_format}
    if benchmark.torch_device() == "cuda":
        torch.backends.cudnn.benchmark = True
        layouts["channels last"] = torch.channels_last_3d
    makers = {" ".join((MONAI, name)).strip(): layout for name, layout in layouts.items()}
    return [
        Contestant(name, "", torch_step(shape, classes, dtype, layout), int(np.prod(shape)))
        for name, layout in makers.items()
    ]


def torch_step(shape: tuple[int, int, int, int], classes: int, dtype: str, layout: Any) -> Callable[[], None]:
    """Returns a training step of MONAI's V-Net with its Dice + cross-entropy and Adam."""
    import torch
    from monai.losses.dice import DiceCELoss
    from monai.networks.nets.vnet import VNet as MonaiVNet

    device = benchmark.torch_device()
    model: Any = MonaiVNet(spatial_dims=3, in_channels=1, out_channels=classes).to(device).train()
    model = model.to(memory_format=layout)
    loss = DiceCELoss(softmax=True, to_onehot_y=True, squared_pred=True)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    image, label = (torch.from_numpy(array)[:, None].to(device) for array in volume(shape, classes))
    image = image.to(memory_format=layout)
    autocast = torch.autocast(device, getattr(torch, dtype), enabled=dtype != "float32")

    def run() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast:
            logits = model(image)
        loss(logits.float(), label).backward()
        optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()

    return run


def best_name(contestants: list[Contestant]) -> str:
    """Names the faster one after a few runs of each."""
    if len(contestants) < 2:
        return contestants[0].name if contestants else ""
    return min(benchmark.take_turns(contestants, 3), key=lambda row: row["best_s"])["name"]


def compile_times(presets: list[str]) -> dict[str, Any]:
    """Compiles each configuration's step in a fresh process, then again in another that finds the programs."""
    print(f"\n{'seconds':34}{'begin':>9}{'state':>9}{'trace, lower':>14}{'compile':>9}{'step':>9}")
    found: dict[str, Any] = {}
    for name in presets:
        with tempfile.TemporaryDirectory() as folder:
            for state in ("cold", "kept"):
                words = [sys.executable, __file__, "--worker", name, "--kept", folder]
                environment = {key: value for key, value in os.environ.items() if "COMPILATION_CACHE" not in key}
                done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env=environment)
                row = json.loads(done.stdout.splitlines()[-1])
                row["step"] = row["trace, lower"] + row["compile"]
                found[f"{name}, {state}"] = row
                print(
                    f"{f'{name}, {state}':34}"
                    + "".join(f"{value:{14 if ',' in key else 9}.2f}" for key, value in row.items()),
                    flush=True,
                )
    return found


def compile_once(name: str, folder: Path) -> dict[str, float]:
    """Compiles a configuration's state and step as `ars-jax train` does; returns the seconds of each stage."""
    from ars_jax.compiled import kept_programs

    marks = [time.perf_counter()]

    def since() -> float:
        marks.append(time.perf_counter())
        return marks[-1] - marks[-2]

    config, model, shape = preset_step(name)
    jax.devices()
    seconds = {"begin": since()}
    with kept_programs(folder):
        optimizer = make_optimizer(config.optim, steps=1000)
        state = jax.block_until_ready(place_state(model, optimizer, 0))
        seconds["state"] = since()
        lowered = lower_step(config, model, optimizer, state, make_mesh(1), canvas=shape[1:], partly_labelled=False)
        seconds["trace, lower"] = since()
        lowered.compile()
        seconds["compile"] = since()
    return seconds


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["monai", "forms", "scaling", "compile", "largest"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=["monai", "forms", "compile"])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the activations")
    parser.add_argument("--shape", type=int, nargs=3, default=[64, 64, 64], help="sides of parts monai and scaling")
    parser.add_argument("--batch", type=int, default=1, help="of parts monai and scaling")
    parser.add_argument("--classes", type=int, default=10, help="of parts monai and scaling")
    parser.add_argument("--channels", type=int, default=16, help="of our first stage; MONAI's has 16")
    parser.add_argument("--kernel", type=int, default=5, help="side of our kernels; MONAI's is 5")
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 48, 64], help="of part scaling")
    parser.add_argument("--class-counts", type=int, nargs="+", default=[2, 10, 20], help="of part scaling")
    parser.add_argument("--presets", nargs="+", choices=list(CANVASES), default=list(CANVASES))
    parser.add_argument("--largest", type=int, nargs=3, default=[128, 144, 256], help="sides of part largest")
    parser.add_argument("--largest-classes", type=int, default=15)
    parser.add_argument("--grid", type=int, default=16, help="regions per axis of part largest")
    parser.add_argument("--remat", nargs="+", default=["none", "convolutions", "stages"], help="policies to try")
    benchmark.add_common(parser, rounds=5)
    parser.add_argument("--worker", choices=list(CANVASES), help=argparse.SUPPRESS)
    parser.add_argument("--kept", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
