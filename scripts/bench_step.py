#!/usr/bin/env python
"""How long does one training step of the V-Net take, beside MONAI's `VNet` in PyTorch in the same run?

Parts, chosen by --parts:

monai      variant "monai" with Dice + cross-entropy and Adam, beside MONAI's with the same, which wants 32 x 16 x 16
           voxels at least; with a type other than float32, PyTorch runs under autocast; on a GPU also channels last,
           and the better of the two counts
forms      the demo's and the hippocampus's network, convolutions chosen by shape beside XLA's native ones
scaling    part monai over volumes and numbers of classes
compile    in processes of their own: tracing, lowering and compiling a configuration's step, cold and kept from before
largest    the figure's V-Net, baseline + ARS and Adam on the paper's largest volume, per policy of rematerialisation,
           beside MONAI's smaller V-Net with Dice + cross-entropy
trace      what the device spends a step of part largest on, with the first of the policies; --trace keeps the profile

Contestants take turns, so that a busy machine slows all of them alike. Operations and bytes are the compiler's count.
"""

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import benchmark
import jax
import jax.numpy as jnp
import numpy as np
from benchmark import Columns, Contestant, Report, Row, column, digits

from ars_jax.config import Config, DataConfig, OptimConfig, RunConfig, TrainConfig
from ars_jax.losses import Objective
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
TRACED, LONGEST = 3, 20
"""Steps that are traced, and operations that are told of."""
STAGES = {
    "begin s": "begin_s",
    "state s": "state_s",
    "lower s": "lower_s",
    "compile s": "compile_s",
    "step s": "step_s",
}
SHARES: Columns = {
    "ms per step": column("ms_per_step"),
    "share %": column("share", 100),
    "calls per step": column("calls_per_step"),
}


def main() -> None:
    """Measures all chosen parts and prints a table for each."""
    arguments = parse()
    if arguments.worker:
        print(json.dumps(compile_once(arguments.worker, Path(arguments.kept))))
        return
    report = benchmark.begin(arguments, ("torch", "monai"), dtype=arguments.dtype)
    columns = {**benchmark.SPEED, **benchmark.usage(report.limits)}
    for part in arguments.parts:
        if part in OTHERS:
            OTHERS[part](arguments, report)
            continue
        for title, contestants in GROUPS[part](arguments, report.facts["torch_device"]):
            benchmark.measure(report, f"{part}: {title}", contestants, arguments.rounds, columns)


def beside_monai(arguments: argparse.Namespace, device: str | None) -> Groups:
    """Pits the variant "monai" against MONAI's V-Net, at one volume and number of classes."""
    shape, classes = (arguments.batch, *arguments.shape), arguments.classes
    model = network(arguments, variant="monai", classes=classes, dropout=0.5)
    config = configuration(Objective({"baseline": 1}), arguments.batch)
    theirs = torch_steps(shape, classes, arguments.dtype, device)
    ours = step(f"V-Net monai, {arguments.dtype}", best_name(theirs), model, config, shape)
    yield f"{shape} voxels, {classes} classes, Dice + cross-entropy, Adam", [ours, *theirs]


def scaling(arguments: argparse.Namespace, device: str | None) -> Groups:
    """Repeats part monai for other volumes, then for other numbers of classes."""
    volumes = [((side,) * 3, arguments.classes) for side in arguments.sides]
    numbers = [(tuple(arguments.shape), classes) for classes in arguments.class_counts]
    for shape, classes in dict.fromkeys([*volumes, *numbers]):
        changed = {**vars(arguments), "shape": shape, "classes": classes}
        yield from beside_monai(argparse.Namespace(**changed), device)


def forms(arguments: argparse.Namespace, _: str | None) -> Groups:
    """Pits a configuration's network against itself with native convolutions."""
    for name in arguments.presets:
        config, model, shape = preset_step(name)
        native = f"{name}, native convolutions"
        contestants = [
            step(f"{name}, chosen by shape", native, model, config, shape),
            step(native, "", model.clone(form="native"), config, shape),
        ]
        yield f"{name}: {shape} voxels, {model.classes} classes, {config.loss.name}", contestants


def largest(arguments: argparse.Namespace, device: str | None) -> Groups:
    """Pits the figure's V-Net with each policy of rematerialisation against MONAI's smaller V-Net and smaller loss."""
    shape, classes = (1, *arguments.largest), arguments.largest_classes
    theirs = fitting(MONAI, torch_steps, shape, classes, arguments.dtype, device)
    beside, fit = best_name(theirs), False
    for remat in arguments.remat:
        if ours := fitting(f"remat {remat}", largest_step, arguments, remat, beside):
            fit = True
            yield f"{shape} voxels, {classes} classes, {arguments.dtype}, Adam", [*ours, *theirs]
    if not fit:
        sys.exit(f"largest: {shape} voxels fit the memory by none of {', '.join(arguments.remat)}; give --largest less")


def largest_step(arguments: argparse.Namespace, remat: Any, beside: str = "") -> list[Contestant]:
    """Makes the step of part largest with a policy of rematerialisation."""
    model = network(arguments, variant="figure", classes=arguments.largest_classes, remat=remat)
    config = configuration(Objective(regions=arguments.grid), 1)
    return [step(f"figure, baseline + ARS, remat {remat}", beside, model, config, (1, *arguments.largest))]


def fitting(name: str, make: Callable[..., list[Contestant]], *how: Any) -> list[Contestant]:
    """Returns contestants that fit the device's memory, each tried once, and says which do not."""
    try:
        contestants = make(*how)
        for contestant in contestants:
            contestant.run()
    except Exception as error:
        if not benchmark.without_memory(error):
            raise
        print(f"{name} does not fit the memory beside what is there", flush=True)
        return []
    return contestants


def network(arguments: argparse.Namespace, **how: Any) -> VNet:
    """Makes a V-Net of the wanted width and type."""
    dtype = jnp.dtype(arguments.dtype)
    return VNet(base_channels=arguments.channels, kernel_size=arguments.kernel, dtype=dtype, **how)


def configuration(loss: Objective, batch: int) -> Config:
    """Makes a configuration of plain Adam and an objective."""
    optim = OptimConfig(learning_rate=LEARNING_RATE, schedule="constant", warmup=0.0)
    return replace(NOWHERE, loss=loss, optim=optim, train=TrainConfig(batch_size=batch))


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
    how: dict[str, Any] = {"canvas": shape[1:], "partly_labelled": False}
    compiled, known = benchmark.compiled(lambda: lower_step(config, model, optimizer, state, mesh, **how))
    image, label = volume(shape, model.classes)
    batch = {"image": image[..., None], "label": label, "labelled": np.ones((shape[0], model.classes), bool)}
    placed, held = jax.device_put(batch), [state]

    def run() -> None:
        held[0], metrics = compiled(held[0], placed)
        jax.block_until_ready((held[0], metrics))

    return Contestant(name, beside, run, int(np.prod(shape)), **known)


def volume(shape: tuple[int, ...], classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns noise `[b, z, y, x]` and coarse random labels, which hold every class in boxes of 8 voxels."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, classes, [shape[0], *(-(-side // 8) for side in shape[1:])], np.uint8)
    label = coarse.repeat(8, 1).repeat(8, 2).repeat(8, 3)
    return rng.standard_normal(shape, np.float32), label[:, : shape[1], : shape[2], : shape[3]].copy()


def torch_steps(shape: tuple[int, int, int, int], classes: int, dtype: str, device: str | None) -> list[Contestant]:
    """Makes contestants of MONAI's V-Net: one, or on a GPU one for each layout in memory; none without a device."""
    if device is None:
        return []
    import torch

    layouts = {MONAI: torch.contiguous_format}
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        layouts[f"{MONAI} channels last"] = torch.channels_last_3d
    return [
        Contestant(name, "", torch_step(shape, classes, dtype, device, layout), int(np.prod(shape)))
        for name, layout in layouts.items()
    ]


def torch_step(
    shape: tuple[int, int, int, int], classes: int, dtype: str, device: str, layout: Any
) -> Callable[[], None]:
    """Returns a training step of MONAI's V-Net with its Dice + cross-entropy and Adam."""
    import torch
    from monai.losses.dice import DiceCELoss
    from monai.networks.nets.vnet import VNet as MonaiVNet

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


def compile_times(arguments: argparse.Namespace, report: Report) -> None:
    """Compiles each configuration's step in a fresh process, then again in another that finds the programs."""
    environment = {key: value for key, value in os.environ.items() if "COMPILATION_CACHE" not in key}
    for name in arguments.presets:
        rows: list[Row] = []
        with tempfile.TemporaryDirectory() as folder:
            for state in ("cold", "kept"):
                words = [sys.executable, __file__, "--worker", name, "--kept", folder]
                done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True, env=environment)
                rows.append({"name": f"{name}, {state}", **json.loads(done.stdout.splitlines()[-1])})
        benchmark.keep(report, f"compile: {name}", rows, {head: column(key) for head, key in STAGES.items()})


def compile_once(name: str, folder: Path) -> dict[str, float]:
    """Compiles a configuration's state and step as `ars-jax train` does; returns the seconds of each stage."""
    from ars_jax.allocator import keep_freed_memory
    from ars_jax.compiled import kept_programs

    keep_freed_memory()
    marks = [time.perf_counter()]

    def since() -> float:
        marks.append(time.perf_counter())
        return marks[-1] - marks[-2]

    config, model, shape = preset_step(name)
    jax.devices()
    seconds = {"begin_s": since()}
    with kept_programs(folder):
        optimizer = make_optimizer(config.optim, steps=1000)
        state = jax.block_until_ready(place_state(model, optimizer, 0))
        seconds["state_s"] = since()
        lowered = lower_step(config, model, optimizer, state, make_mesh(1), canvas=shape[1:], partly_labelled=False)
        seconds["lower_s"] = since()
        lowered.compile()
        seconds["compile_s"] = since()
    return {**seconds, "step_s": seconds["lower_s"] + seconds["compile_s"]}


def trace(arguments: argparse.Namespace, report: Report) -> None:
    """Profiles a few steps of part largest and tells the operations that take longest."""
    (ours,) = largest_step(arguments, arguments.remat[0])
    ours.run()
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder, profiler_options=options):
            for _ in range(TRACED):
                ours.run()
        (file,) = Path(folder).rglob("*.xplane.pb")
        if arguments.trace:
            arguments.trace.write_bytes(gzip.compress(file.read_bytes()))
        rows = operations(file)
    total = digits(sum(row["ms_per_step"] for row in rows))
    title = f"trace: {ours.name}, {LONGEST} longest of {len(rows)} operations of {total} ms together"
    benchmark.keep(report, title, rows[:LONGEST], SHARES)


def operations(file: Path) -> list[Row]:
    """Sums a profile by operation, the longest first; of a CPU those that hold others count as well."""
    profile = jax.profiler.ProfileData.from_file(str(file))
    planes = list(profile.planes)
    lines = [line for plane in planes if plane.name.startswith("/device:") for line in plane.lines]
    lines = [line for line in lines if line.name == "XLA Ops"] or [line for line in lines if "Stream" in line.name]
    lines = lines or [line for plane in planes for line in plane.lines if line.name.startswith("tf_XLA")]
    taken, calls = Counter[str](), Counter[str]()
    for line in lines:
        for event in line.events:
            if event.duration_ns and not event.name.startswith(("end: ", "Thread", "ThunkExecutor")):
                taken[event.name] += event.duration_ns
                calls[event.name] += 1
    return [
        {
            "name": name[:90],
            "ms_per_step": 1e-6 * nanoseconds / TRACED,
            "share": nanoseconds / taken.total(),
            "calls_per_step": calls[name] / TRACED,
        }
        for name, nanoseconds in taken.most_common()
    ]


GROUPS: dict[str, Callable[[argparse.Namespace, str | None], Groups]] = {
    "monai": beside_monai,
    "forms": forms,
    "scaling": scaling,
    "largest": largest,
}
OTHERS: dict[str, Callable[[argparse.Namespace, Report], None]] = {"compile": compile_times, "trace": trace}


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=[*GROUPS, *OTHERS], default=["monai", "forms", "compile"])
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32", help="of the activations")
    parser.add_argument("--shape", type=int, nargs=3, default=[64, 64, 64], help="sides of parts monai and scaling")
    parser.add_argument("--batch", type=int, default=1, help="of parts monai and scaling")
    parser.add_argument("--classes", type=int, default=10, help="of parts monai and scaling")
    parser.add_argument("--channels", type=int, default=16, help="of our first stage; MONAI's has 16")
    parser.add_argument("--kernel", type=int, default=5, help="side of our kernels; MONAI's is 5")
    parser.add_argument("--sides", type=int, nargs="+", default=[32, 48, 64], help="of part scaling")
    parser.add_argument("--class-counts", type=int, nargs="+", default=[2, 10, 20], help="of part scaling")
    parser.add_argument("--presets", nargs="+", choices=list(CANVASES), default=list(CANVASES))
    parser.add_argument(
        "--largest", type=int, nargs=3, default=[128, 144, 256], help="sides of parts largest and trace"
    )
    parser.add_argument("--largest-classes", type=int, default=15)
    parser.add_argument("--grid", type=int, default=16, help="regions per axis of the same parts")
    parser.add_argument("--remat", nargs="+", default=["none", "convolutions", "stages"], help="policies to try")
    parser.add_argument("--trace", type=Path, metavar="FILE", help="where part trace keeps the profile, *.xplane.pb.gz")
    benchmark.add_common(parser, rounds=5)
    parser.add_argument("--worker", choices=list(CANVASES), help=argparse.SUPPRESS)
    parser.add_argument("--kept", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
