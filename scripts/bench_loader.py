#!/usr/bin/env python
"""Does the loader keep ahead of the training step, and what does each of its parts take?

For each configuration samples of its size are made up, kept in the cache's format, and augmented by its ranges. Figures
are per sample; bytes are those of the sample on the canvas, image and label. Contestants take turns, so that a busy
machine slows all of them alike; "whole loader" is what `batches` gives with threads, nothing else to do meanwhile.
"""

import argparse
import itertools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import benchmark
import jax
import numpy as np
from benchmark import Contestant
from scipy import ndimage

from ars_jax.config import Config
from ars_jax.data.augment import Augmentation, apply, draw, sample_linear, sample_nearest, source_lines
from ars_jax.data.cache import load_sample, save_sample
from ars_jax.data.loader import arrays_of, batches
from ars_jax.data.plan import Sample
from ars_jax.data.staging import staging_shape
from ars_jax.mesh import by_batch, make_mesh, put_batch, replicated
from ars_jax.options import read_config
from ars_jax.predict import make_model
from ars_jax.resample import resample
from ars_jax.train.compile import batch_shapes, lower_step
from ars_jax.train.state import place_state
from ars_jax.train.step import make_optimizer

Sides = tuple[int, int, int]
CONFIGS = Path(__file__).parents[1] / "configs"
SAMPLES, BYTES = 8, 5
SIZES: dict[str, tuple[Sides, int]] = {
    "demo": ((48, 48, 48), 11),
    "hippocampus": ((35, 50, 36), 3),
    "openkbp": ((74, 70, 118), 6),
    "ct": ((122, 101, 112), 14),
    "largest": ((128, 144, 256), 15),
}
"""A typical prepared case and the classes; "largest" is the demo's augmentation on the paper's largest volume."""


class Task(NamedTuple):
    """What one configuration asks of the loader."""

    config: Config
    canvas: Sides
    classes: int
    augmentation: Augmentation
    samples: list[Sample]
    files: list[Path]
    options: dict[str, Any]


def main() -> None:
    """Times the parts of each configuration and prints a table for each."""
    arguments = parse()
    facts = benchmark.facts()
    benchmark.introduce(facts, {})
    results = {}
    for name in arguments.configs:
        with tempfile.TemporaryDirectory() as folder:
            task = make_task(name, Path(folder))
            contestants = list(itertools.chain(parts(task), others(task, arguments.torch), wholes(task)))
            if arguments.step and name != "largest":
                contestants.append(training_step(task))
            rows = benchmark.take_turns(contestants, arguments.rounds)
            show(name, task, rows)
            results[name] = rows
    benchmark.write(arguments.json, facts, {}, {"rows": results})


def make_task(name: str, folder: Path) -> Task:
    """Makes up samples of a configuration's size."""
    preset = "demo" if name == "largest" else name
    config = read_config(CONFIGS / f"{preset}.yaml", [f"--data.root={folder}", f"--run.dir={folder}"])
    shape, classes = SIZES[name]
    canvas = config.prepare.canvas or shape
    ranges = config.augment
    swap = tuple((2 * pair + 1, 2 * pair + 2) for pair in range(len(config.data.pairs)))
    augmentation = Augmentation(
        ranges.flip, ranges.translate, ranges.scale, ranges.intensity_shift, ranges.intensity_scale, swap
    )
    rng = np.random.default_rng(0)
    samples, files = [], []
    for index in range(SAMPLES):
        image = rng.normal(size=shape).astype(np.float32)
        coarse = rng.integers(0, classes, [side // 8 + 1 for side in shape], dtype=np.uint8)
        label = coarse.repeat(8, 0).repeat(8, 1).repeat(8, 2)[tuple(map(slice, shape))].copy()
        samples.append(Sample(f"case_{index}", image, label, np.ones(classes, bool)))
        files.append(folder / f"case_{index}.npz")
        save_sample(files[-1], samples[-1])
    options = {"batch_size": config.train.batch_size, "seed": 0, "canvas": canvas, "augmentation": augmentation}
    return Task(config, canvas, classes, augmentation, samples, files, options)


def contestant(task: Task, name: str, run: Callable[[], object], samples: int = 1, beside: str = "") -> Contestant:
    """Names a function that goes through so many samples."""
    return Contestant(name, beside, run, samples * int(np.prod(task.canvas)))


def drawn_lines(task: Task) -> Iterator[tuple[Sample, Any, list[np.ndarray]]]:
    """Samples one after another without end, each with a change and its lines of coordinates."""
    for number in itertools.count():
        sample = task.samples[number % SAMPLES]
        drawn = draw(np.random.default_rng(number), sample.image.shape, task.canvas, task.augmentation)
        yield sample, drawn, source_lines(drawn, sample.image.shape, task.canvas)


def parts(task: Task) -> Iterator[Contestant]:
    """What the loader does to one sample, step by step."""
    draws, files = drawn_lines(task), itertools.cycle(task.files)

    def over(function: Callable[[Sample, Any, list[np.ndarray]], object]) -> Callable[[], object]:
        return lambda: [function(*next(draws)) for _ in range(SAMPLES)]

    yield contestant(task, "load from the cache", lambda: [load_sample(next(files)) for _ in range(SAMPLES)], SAMPLES)
    image = over(lambda sample, _, lines: sample_linear(sample.image, lines, -1.0))
    yield contestant(task, "image: flip, shift and scale", image, SAMPLES, "image: SciPy affine_transform")
    label = over(lambda sample, _, lines: sample_nearest(sample.label, lines))
    yield contestant(task, "label: flip, shift and scale", label, SAMPLES, "label: SciPy affine_transform")
    swap = task.augmentation.swap
    whole = over(lambda sample, drawn, _: apply(drawn, sample, task.canvas, swap, -1.0))
    yield contestant(task, "augment image and label", whole, SAMPLES, "MONAI Affine, image and label")
    mesh, (batch,) = make_mesh(1), itertools.islice(batches(task.samples, **task.options), 1)
    arrays, size = arrays_of(batch), len(batch["names"])
    yield contestant(task, "stack", lambda: {name: np.stack(list(array)) for name, array in arrays.items()}, size)
    yield contestant(task, "transfer", lambda: jax.block_until_ready(put_batch(mesh, arrays)), size)
    staging = staging_shape(task.canvas, task.augmentation.scale[0], task.samples[0].image.shape)
    (staged,) = itertools.islice(batches(task.samples, **task.options, staging=staging), 1)
    changes = jax.jit(partial(resample, canvas=task.canvas, swap=swap), out_shardings=by_batch(mesh))
    placed = put_batch(mesh, arrays_of(staged))
    yield contestant(task, "augment on the device", lambda: jax.block_until_ready(changes(placed)), size)


def others(task: Task, torch: bool) -> Iterator[Contestant]:
    """The same change of a sample by other libraries."""
    draws = drawn_lines(task)

    def scipy(order: int) -> object:
        sample, _, lines = next(draws)
        array = sample.image if order else sample.label
        steps, starts = [line[1] - line[0] for line in lines], [line[0] for line in lines]
        how: dict[str, Any] = {"order": order, "mode": "grid-constant", "output_shape": task.canvas, "offset": starts}
        return ndimage.affine_transform(array, np.asarray(steps), **how)

    yield contestant(task, "image: SciPy affine_transform", partial(scipy, 1))
    yield contestant(task, "label: SciPy affine_transform", partial(scipy, 0))
    if torch and find_spec("monai"):
        yield contestant(task, "MONAI Affine, image and label", monai_affine(task))


def monai_affine(task: Task) -> Callable[[], object]:
    """MONAI's flip, shift and scale in one resample: linear for the image, nearest for the label."""
    import torch
    from monai.transforms.spatial.dictionary import Affined

    change: Any = Affined(
        keys=["image", "label"],
        translate_params=(1.3, -2.0, 0.7),
        scale_params=(1.07, 1.07, -1.07),
        spatial_size=task.canvas,
        mode=["bilinear", "nearest"],
        padding_mode="zeros",
    )
    sample = task.samples[0]
    volumes = {"image": torch.from_numpy(sample.image)[None], "label": torch.from_numpy(sample.label)[None]}
    return lambda: change(dict(volumes))


def wholes(task: Task) -> Iterator[Contestant]:
    """All of the loader, with as many batches as hold three rounds of the samples."""
    size = task.options["batch_size"]
    count = -(-3 * SAMPLES // size)
    for name, samples, threads in (
        ("whole loader, 1 thread", task.samples, 1),
        ("whole loader, 2 threads", task.samples, 2),
        ("whole loader, 2 threads, from files", task.files, 2),
    ):

        def run(samples: Any = samples, threads: int = threads) -> None:
            for _ in itertools.islice(batches(samples, **task.options, threads=threads), count):
                pass

        yield contestant(task, name, run, count * size)


def training_step(task: Task) -> Contestant:
    """The step of the configuration, on one device."""
    config, mesh = task.config, make_mesh(1)
    model, optimizer = make_model(config.model, task.classes), make_optimizer(config.optim, 100)
    state = place_state(model, optimizer, 0, replicated(mesh))
    lowered = lower_step(config, model, optimizer, state, mesh, canvas=task.canvas, partly_labelled=False)
    step, size = lowered.compile(), config.train.batch_size
    shapes = batch_shapes(size, task.canvas, task.classes)
    batch = put_batch(mesh, {name: np.ones(shape.shape, shape.dtype) for name, shape in shapes.items()})

    def run() -> None:
        nonlocal state
        state, metrics = step(state, batch)
        jax.block_until_ready(metrics)

    return contestant(task, "training step", run, size)


def show(name: str, task: Task, rows: list[dict[str, Any]]) -> None:
    """Prints a line for each contestant, and how far the loader is ahead."""
    voxels, shape = float(np.prod(task.canvas)), task.samples[0].image.shape
    print(f"\n{name}: samples {shape}, canvas {task.canvas}, batches of {task.options['batch_size']}")
    print(f"{'per sample':40}{'best':>11}{'median':>11}{'samples/s':>11}{'MB/s':>8}")
    for row in rows:
        rate = row["voxels_per_s"] / voxels
        line = f"{row['name']:40}{1e3 / rate:8.2f} ms{1e3 / rate * row['median_s'] / row['best_s']:8.2f} ms"
        line += f"{rate:11.0f}{rate * voxels * BYTES / 1e6:8.0f}"
        print(line + (f"  faster than {row['beside']}: {each(rows, row['beside'], row):.1f} x" if row["ratio"] else ""))
    by_name = {row["name"]: row["voxels_per_s"] for row in rows}
    if "training step" in by_name:
        ahead = by_name["whole loader, 2 threads"] / by_name["training step"]
        print(f"the loader makes batches {ahead:.0f} times as fast as the step takes them", flush=True)


def each(rows: list[dict[str, Any]], beside: str, row: Mapping[str, Any]) -> float:
    """How many times as fast a row goes through a sample as another one."""
    (other,) = (other["voxels_per_s"] for other in rows if other["name"] == beside)
    return row["voxels_per_s"] / other


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", default=list(SIZES), metavar="CONFIG", help=", ".join(SIZES))
    parser.add_argument("--no-step", dest="step", action="store_false", help="leave out the training step")
    benchmark.add_common(parser, rounds=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
