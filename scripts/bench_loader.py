#!/usr/bin/env python
"""Does the loader keep ahead of the training step, and what does each of its parts take?

For each configuration samples of its size are made up, kept in the cache's format, and augmented by its ranges. Figures
are per sample; bytes are those of the sample on the canvas, image and label. Contestants take turns, so that a busy
machine slows all of them alike; "whole loader" is what `batches` gives with threads, nothing else to do meanwhile.
"""

import argparse
import itertools
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import benchmark
import jax
import numpy as np
from benchmark import Columns, Contestant, Row, digits
from scipy import ndimage

from ars_jax.config import Config
from ars_jax.data.augment import Augmentation, Draw, apply, draw, sample_linear, sample_nearest, source_lines
from ars_jax.data.cache import load_sample, save_sample
from ars_jax.data.loader import arrays_of, batches
from ars_jax.data.plan import Sample
from ars_jax.data.staging import staging_shape
from ars_jax.mesh import by_batch, make_mesh, put_batch, replicated
from ars_jax.options import read_config
from ars_jax.predict import make_model
from ars_jax.resample import resample
from ars_jax.train.compile import lower_step
from ars_jax.train.state import place_state
from ars_jax.train.step import make_optimizer

Sides = tuple[int, int, int]
CONFIGS = Path(__file__).parents[1] / "configs"
SAMPLES, BYTES, STEPS = 8, 5, 8
SIZES: dict[str, tuple[Sides, int]] = {
    "demo": ((48, 48, 48), 11),
    "hippocampus": ((35, 50, 36), 3),
    "openkbp": ((74, 70, 118), 6),
    "ct": ((122, 101, 112), 14),
    "largest": ((128, 144, 256), 15),
}
"""A typical prepared case and the classes; "largest" is the demo's augmentation on the paper's largest volume."""


COLUMNS: Columns = {
    **benchmark.TIMES,
    "samples/s": lambda row: digits(1 / row["best_s"]),
    "MB/s": lambda row: digits(1e-6 * BYTES * row["voxels_per_s"]),
}
FIXED, FED = "step on one batch", "step fed by the loader"


class Change(NamedTuple):
    """A sample, what was drawn for it, the lines of coordinates of that, and its file."""

    sample: Sample
    drawn: Draw
    lines: list[np.ndarray]
    file: Path


class Task(NamedTuple):
    """What one configuration asks of the loader."""

    config: Config
    canvas: Sides
    classes: int
    augmentation: Augmentation
    changes: list[Change]
    options: dict[str, Any]


def main() -> None:
    """Times the parts of each configuration and prints a table for each."""
    arguments = parse()
    report = benchmark.begin(arguments, ("torch", "monai"), host=True)
    for name in arguments.configs:
        with tempfile.TemporaryDirectory() as folder:
            task = make_task(name, Path(folder))
            contestants = list(itertools.chain(parts(task), others(task, report.facts["torch_device"]), wholes(task)))
            if arguments.step and name != "largest":
                contestants += steps(task)
            shape, size = task.changes[0].sample.image.shape, task.options["batch_size"]
            title = f"{name}: samples {shape}, canvas {task.canvas}, batches of {size}; times per sample"
            rows = benchmark.measure(report, title, contestants, arguments.rounds, COLUMNS)
            print(verdict(rows), end="", flush=True)


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
    changes = []
    for index in range(SAMPLES):
        image = rng.normal(size=shape).astype(np.float32)
        coarse = rng.integers(0, classes, [side // 8 + 1 for side in shape], dtype=np.uint8)
        label = coarse.repeat(8, 0).repeat(8, 1).repeat(8, 2)[tuple(map(slice, shape))].copy()
        sample, file = Sample(f"case_{index}", image, label, np.ones(classes, bool)), folder / f"case_{index}.npz"
        save_sample(file, sample)
        drawn = draw(np.random.default_rng(index), shape, canvas, augmentation)
        changes.append(Change(sample, drawn, source_lines(drawn, shape, canvas), file))
    options = {"batch_size": config.train.batch_size, "seed": 0, "canvas": canvas, "augmentation": augmentation}
    return Task(config, canvas, classes, augmentation, changes, options)


def contestant(task: Task, name: str, run: Callable[[], object], samples: int, beside: str = "") -> Contestant:
    """Names a function that goes through so many samples."""
    return Contestant(name, beside, run, int(np.prod(task.canvas)), repeats=samples)


def each(task: Task, name: str, function: Callable[[Change], object], beside: str = "") -> Contestant:
    """Names a function that is called with every change."""
    return contestant(task, name, lambda: [function(change) for change in task.changes], SAMPLES, beside)


def parts(task: Task) -> Iterator[Contestant]:
    """What the loader does to one sample, step by step."""
    swap, samples = task.augmentation.swap, [change.sample for change in task.changes]
    yield each(task, "load from the cache", lambda it: load_sample(it.file))
    image, label = "image: SciPy affine_transform", "label: SciPy affine_transform"
    yield each(task, "image: flip, shift and scale", lambda it: sample_linear(it.sample.image, it.lines, -1.0), image)
    yield each(task, "label: flip, shift and scale", lambda it: sample_nearest(it.sample.label, it.lines), label)
    whole = "MONAI Affine, image and label"
    yield each(task, "augment image and label", lambda it: apply(it.drawn, it.sample, task.canvas, swap, -1.0), whole)
    mesh, (batch,) = make_mesh(1), itertools.islice(batches(samples, **task.options), 1)
    arrays, size = arrays_of(batch), len(batch["names"])
    yield contestant(task, "stack", lambda: {name: np.stack(list(array)) for name, array in arrays.items()}, size)
    yield contestant(task, "transfer", lambda: jax.block_until_ready(put_batch(mesh, arrays)), size)
    staging = staging_shape(task.canvas, task.augmentation.scale[0], samples[0].image.shape)
    (staged,) = itertools.islice(batches(samples, **task.options, staging=staging), 1)
    changes = jax.jit(partial(resample, canvas=task.canvas, swap=swap), out_shardings=by_batch(mesh))
    placed = put_batch(mesh, arrays_of(staged))
    compiled, known = benchmark.compiled(lambda: changes.lower(placed))
    on_device = contestant(task, "augment on the device", lambda: jax.block_until_ready(compiled(placed)), size)
    yield on_device._replace(**known)


def others(task: Task, torch: str | None) -> Iterator[Contestant]:
    """The same changes of the samples by other libraries."""

    def scipy(change: Change, array: np.ndarray, order: int) -> object:
        steps, starts = zip(*((line[1] - line[0], line[0]) for line in change.lines), strict=True)
        how: dict[str, Any] = {"order": order, "mode": "grid-constant", "output_shape": task.canvas, "offset": starts}
        return ndimage.affine_transform(array, np.asarray(steps), **how)

    yield each(task, "image: SciPy affine_transform", lambda it: scipy(it, it.sample.image, 1))
    yield each(task, "label: SciPy affine_transform", lambda it: scipy(it, it.sample.label, 0))
    if torch:
        changes = [monai_affine(task, change) for change in task.changes]
        name = "MONAI Affine, image and label"
        yield contestant(task, name, lambda: [change() for change in changes], SAMPLES)


def monai_affine(task: Task, change: Change) -> Callable[[], Any]:
    """MONAI's flip, shift and scale in one resample: linear for the image, nearest for the label."""
    import torch
    from monai.transforms.spatial.dictionary import Affined

    sample, matrix = change.sample, np.eye(4)
    # Between coordinates from the middles of canvas and sample.
    for axis, (line, side) in enumerate(zip(change.lines, sample.image.shape, strict=True)):
        matrix[axis, axis], matrix[axis, 3] = line[1] - line[0], (line[0] + line[-1] - (side - 1)) / 2
    how: dict[str, Any] = {"mode": ["bilinear", "nearest"], "padding_mode": "zeros"}
    affine: Any = Affined(keys=["image", "label"], affine=matrix, spatial_size=task.canvas, **how)
    volumes = {"image": torch.from_numpy(sample.image)[None], "label": torch.from_numpy(sample.label)[None]}
    return lambda: affine(dict(volumes))


def wholes(task: Task) -> Iterator[Contestant]:
    """All of the loader, with as many batches as hold three rounds of the samples."""
    size = task.options["batch_size"]
    count = -(-3 * SAMPLES // size)
    samples, files = [change.sample for change in task.changes], [change.file for change in task.changes]
    for name, source, threads in (
        ("whole loader, 1 thread", samples, 1),
        ("whole loader, 2 threads", samples, 2),
        ("whole loader, 2 threads, from files", files, 2),
    ):

        def run(source: Any = source, threads: int = threads) -> None:
            for _ in itertools.islice(batches(source, **task.options, threads=threads), count):
                pass

        yield contestant(task, name, run, count * size)


def steps(task: Task) -> Iterator[Contestant]:
    """The step of the configuration on one device, without and with the loader at work."""
    config, mesh = task.config, make_mesh(1)
    model, optimizer = make_model(config.model, task.classes), make_optimizer(config.optim, 100)
    state = place_state(model, optimizer, 0, replicated(mesh))
    how: dict[str, Any] = {"canvas": task.canvas, "partly_labelled": False}
    step, known = benchmark.compiled(lambda: lower_step(config, model, optimizer, state, mesh, **how))
    loader = batches([change.sample for change in task.changes], **task.options)
    fed = (put_batch(mesh, arrays_of(batch)) for batch in loader)

    def run(feed: Iterator[Any]) -> None:
        nonlocal state
        for batch in itertools.islice(feed, STEPS):
            state, _ = step(state, batch)
        jax.block_until_ready(state)

    for name, feed, beside in ((FIXED, itertools.repeat(next(fed)), ""), (FED, fed, FIXED)):
        yield contestant(task, name, partial(run, feed), STEPS * config.train.batch_size, beside)._replace(**known)


def verdict(rows: list[Row]) -> str:
    """Says how far the loader is ahead of the step, and what it takes from it."""
    seconds = {row["name"]: row["best_s"] for row in rows}
    if FED not in seconds:
        return ""
    ahead, longer = seconds[FIXED] / seconds["whole loader, 2 threads"], seconds[FED] / seconds[FIXED] - 1
    return f"alone, the loader is {digits(ahead)} times as fast as the step; beside it, the step takes {longer:+.1%}\n"


def parse() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("configs", nargs="*", default=list(SIZES), metavar="CONFIG", help=", ".join(SIZES))
    parser.add_argument("--no-step", dest="step", action="store_false", help="leave out the training step")
    benchmark.add_common(parser, rounds=5)
    return parser.parse_args()


if __name__ == "__main__":
    main()
