"""Endless, prefetched batches; batch k depends on the seed and on k alone."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NotRequired, Protocol, TypedDict, TypeVar, cast

import grain
import numpy as np

from ars_jax.data.augment import UNCHANGED, Augmentation, apply, draw
from ars_jax.data.cache import load_sample
from ars_jax.data.plan import Sample
from ars_jax.data.prepare import fill_value
from ars_jax.data.staging import stage
from ars_jax.errors import UserError

_ENDLESS = 2**48
T = TypeVar("T")


class Batch(TypedDict):
    """What one training step sees of one process.

    Keys:
        image: float32 [b, z, y, x, 1].
        label: uint8 [b, z, y, x] channel numbers.
        labelled: bool [b, c], False for classes that were not drawn.
        names: the cases, b of them.
        seconds: what making it took: "load", and "augment" up to the stacked arrays.
        below, above, nearest, weight, flipped, factor, offset, fill: of staged samples, see `staging.stage`.
    """

    image: np.ndarray
    label: np.ndarray
    labelled: np.ndarray
    names: tuple[str, ...]
    seconds: dict[str, float]
    below: NotRequired[np.ndarray]
    above: NotRequired[np.ndarray]
    nearest: NotRequired[np.ndarray]
    weight: NotRequired[np.ndarray]
    flipped: NotRequired[np.ndarray]
    factor: NotRequired[np.ndarray]
    offset: NotRequired[np.ndarray]
    fill: NotRequired[np.ndarray]


class Stream(Iterator[Batch], Protocol):
    """Batches without end, that threads make ahead."""

    def close(self) -> None:
        """Has the threads begin no more of them."""
        ...


def arrays_of(batch: Batch) -> dict[str, np.ndarray]:
    """The part of a batch that goes to a device."""
    return {name: value for name, value in batch.items() if isinstance(value, np.ndarray)}


def batches(
    samples: Sequence[Sample] | Sequence[Path],
    *,
    batch_size: int,
    seed: int,
    canvas: Sequence[int],
    augmentation: Augmentation | None = None,
    staging: Sequence[int] | None = None,
    start: int = 0,
    rows: range | None = None,
    threads: int = 2,
    ahead: int = 4,
) -> Stream:
    """Loads, augments and stacks samples in threads, ahead of the one who asks.

    Epoch e goes through the samples in the order of one permutation drawn from (seed, e, number of samples); the sample
    with index i is augmented by a generator from (seed, e, i). Batches run over an epoch's end, so that all have the
    same shape. Nothing depends on the number of threads or on `start`: training resumed at step k gets batch k.

    Args:
        samples: samples in memory, or files that `cache.load_sample` reads when they are needed.
        batch_size: samples of one step over all processes.
        seed: 0 or more.
        canvas: voxels z, y, x.
        augmentation: ranges of the random changes; None puts every sample on the middle of the canvas.
        staging: the shape in which samples are staged for `resample.resample`, which makes the drawn changes on a
            device; None makes them here.
        start: number of the first batch.
        rows: the places in every batch of the samples that are made here, no others are loaded; all by default.
        threads: batches that are made at the same time.
        ahead: batches that are kept ready.

    Returns:
        An endless iterator, to be closed.

    Raises:
        UserError: no samples or a batch size below 1, at once; an unreadable sample, naming it, when its
            batch is asked for.
    """
    _check(len(samples), batch_size)
    rows = range(batch_size) if rows is None else rows
    on_canvas = partial(_on_canvas, canvas=canvas, augmentation=augmentation, staging=staging)

    def make(number: int) -> Batch:
        places = [sample_at(number * batch_size + row, len(samples), seed) for row in rows]
        loaded, loading = timed(lambda: [_loaded(samples[index]) for _, index in places])

        def moved(place: tuple[int, int], sample: Sample) -> dict[str, np.ndarray]:
            with _fault_named(sample.name):
                return on_canvas(np.random.default_rng((seed, *place)), sample)

        stacked, augmenting = timed(lambda: _stacked(list(map(moved, places, loaded))))
        names = tuple(sample.name for sample in loaded)
        return cast(Batch, {**stacked, "names": names, "seconds": {"load": loading, "augment": augmenting}})

    return prefetched(make, start=start, threads=threads, ahead=ahead)


def timed(function: Callable[..., T], *arguments: Any) -> tuple[T, float]:
    """Calls a function.

    Args:
        function: what is called.
        arguments: its arguments.

    Returns:
        What it returns, and the seconds that it took.
    """
    started = time.perf_counter()
    return function(*arguments), time.perf_counter() - started


def sample_at(position: int, count: int, seed: int) -> tuple[int, int]:
    """Which sample comes at a position of the endless sequence.

    Args:
        position: 0 or more.
        count: number of samples.
        seed: 0 or more.

    Returns:
        The epoch and the sample's index.
    """
    epoch, offset = divmod(position, count)
    # `count` is no sample's index, so no sample is augmented from the bits that shuffled its epoch. (seed, epoch) would
    # be the generator of sample 0: NumPy pads seeds with zeros.
    order = np.random.default_rng((seed, epoch, count)).permutation(count)
    return epoch, int(order[offset])


def batches_per_epoch(count: int, batch_size: int) -> int:
    """Batches after which `count` samples have all been seen at least once."""
    return math.ceil(count / batch_size)


def prefetched(make: Callable[[int], Batch], *, start: int, threads: int, ahead: int) -> Stream:
    """Calls `make(start)`, `make(start + 1)`, ... in threads and gives the results in order.

    Args:
        make: a pure function of the batch's number.
        start: first number.
        threads: calls at the same time.
        ahead: results that are kept ready.

    Returns:
        An endless iterator, to be closed; what `make` raises is raised where the iterator is advanced.
    """
    numbers = grain.MapDataset.range(start, start + _ENDLESS)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, ahead))
    return iter(numbers.map(make).to_iter_dataset(options))


def _check(count: int, batch_size: int) -> None:
    if count == 0:
        raise UserError("samples", found="no training case", wanted="at least one", fix="check data.root and the split")
    if batch_size < 1:
        raise UserError("batch_size", found=batch_size, wanted="at least 1", fix="for example 1")


@contextmanager
def _fault_named(name: object) -> Iterator[None]:
    """Names the case in whatever is raised: of an error in a thread the message is all that is seen."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        found, wanted = f"{type(error).__name__}: {error}", "a sample that can be loaded and changed"
        raise UserError(f"case {name}", found=found, wanted=wanted, fix="look at it with ars-jax check") from error


def _loaded(entry: Sample | Path) -> Sample:
    if isinstance(entry, Sample):
        return entry
    with _fault_named(entry):
        return load_sample(entry)


def _on_canvas(
    rng: np.random.Generator,
    sample: Sample,
    canvas: Sequence[int],
    augmentation: Augmentation | None,
    staging: Sequence[int] | None,
) -> dict[str, np.ndarray]:
    fill, shape, swap = fill_value(sample.image), sample.image.shape, augmentation.swap if augmentation else ()
    drawn = draw(rng, shape, canvas, augmentation) if augmentation else UNCHANGED
    if staging:
        return stage(drawn, sample, canvas, staging, swap, fill)
    moved = apply(drawn, sample, canvas, swap, fill)
    return {"image": moved.image[..., None], "label": moved.label, "labelled": moved.labelled}


def _stacked(parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.stack([part[name] for part in parts]) for name in parts[0]}
