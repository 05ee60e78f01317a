"""Endless, prefetched batches; batch k depends on the seed and on k alone."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypedDict

import grain
import numpy as np

from ars_jax.data.augment import Augmentation, augment, place
from ars_jax.data.cache import load_sample
from ars_jax.data.plan import Sample
from ars_jax.data.prepare import fill_value
from ars_jax.errors import UserError

_ENDLESS = 2**48


class Batch(TypedDict):
    """What one training step sees of one process.

    Keys:
        image: float32 [b, z, y, x, 1].
        label: uint8 [b, z, y, x] channel numbers.
        labelled: bool [b, c], False for classes that were not drawn.
        names: the cases, b of them.
    """

    image: np.ndarray
    label: np.ndarray
    labelled: np.ndarray
    names: tuple[str, ...]


def batches(
    samples: Sequence[Sample] | Sequence[Path],
    *,
    batch_size: int,
    seed: int,
    canvas: Sequence[int],
    augmentation: Augmentation | None = None,
    start: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
    ahead: int = 4,
) -> Iterator[Batch]:
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
        start: number of the first batch.
        process_index: number of this process, which gets its share of every batch and loads no other.
        process_count: number of processes.
        threads: batches that are made at the same time.
        ahead: batches that are kept ready.

    Returns:
        An endless iterator.

    Raises:
        UserError: no samples or a batch size that does not fit, at once; an unreadable sample, naming it, when its
            batch is asked for.
    """
    _check(len(samples), batch_size, process_count)
    share = batch_size // process_count

    def make(number: int) -> Batch:
        first = number * batch_size + process_index * share
        return _stacked([draw(position) for position in range(first, first + share)])

    def draw(position: int) -> Sample:
        epoch, index = sample_at(position, len(samples), seed)
        entry = samples[index]
        sample = entry if isinstance(entry, Sample) else load_sample(entry)
        fill = fill_value(sample.image)
        if augmentation is None:
            return place(sample, canvas, fill)
        return augment(np.random.default_rng((seed, epoch, index)), sample, canvas, augmentation, fill)

    return prefetched(make, start=start, threads=threads, ahead=ahead)


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


def prefetched(make: Callable[[int], Batch], *, start: int, threads: int, ahead: int) -> Iterator[Batch]:
    """Calls `make(start)`, `make(start + 1)`, ... in threads and gives the results in order.

    Args:
        make: a pure function of the batch's number.
        start: first number.
        threads: calls at the same time.
        ahead: results that are kept ready.

    Returns:
        An endless iterator; what `make` raises is raised where the iterator is advanced.
    """
    numbers = grain.MapDataset.range(start, start + _ENDLESS)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(threads, ahead))
    return iter(numbers.map(make).to_iter_dataset(options))


def _check(count: int, batch_size: int, process_count: int) -> None:
    if count == 0:
        raise UserError("samples", found="no training case", wanted="at least one", fix="check data.root and the split")
    if batch_size < 1 or batch_size % process_count:
        wanted = f"a positive multiple of the {process_count} process(es)"
        raise UserError("batch_size", found=batch_size, wanted=wanted, fix=f"for example {process_count}")


def _stacked(samples: Sequence[Sample]) -> Batch:
    return Batch(
        image=np.stack([sample.image for sample in samples])[..., None],
        label=np.stack([sample.label for sample in samples]),
        labelled=np.stack([sample.labelled for sample in samples]),
        names=tuple(sample.name for sample in samples),
    )
