import dataclasses
import itertools
import threading
from collections import Counter
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from ars_jax.data import loader
from ars_jax.data.augment import Augmentation, apply, draw
from ars_jax.data.cache import load_sample, save_sample
from ars_jax.data.loader import Batch, arrays_of, batches, batches_per_epoch, prefetched, sample_at
from ars_jax.data.plan import Sample
from ars_jax.data.prepare import fill_value
from ars_jax.data.staging import staging_shape
from ars_jax.errors import UserError
from ars_jax.resample import resample

CANVAS = (4, 6, 5)
RANDOM = Augmentation((True, True, True), 0.2, (0.9, 1.2), 0.1, 0.1, ((1, 2),))


def some_samples(count: int) -> list[Sample]:
    rng = np.random.default_rng(1)
    shapes = rng.integers(3, 7, (count, 3))
    return [
        Sample(
            f"case{index}",
            rng.normal(size=shape).astype(np.float32),
            rng.integers(0, 3, shape, dtype=np.uint8),
            np.array([True, True, index % 2 == 0]),
        )
        for index, shape in enumerate(shapes)
    ]


def take(count: int, samples, **options) -> list[Batch]:
    settings = {"batch_size": 2, "seed": 3, "canvas": CANVAS, "augmentation": RANDOM} | options
    return list(itertools.islice(batches(samples, **settings), count))


def assert_same(first: list[Batch], second: list[Batch]) -> None:
    assert [batch["names"] for batch in first] == [batch["names"] for batch in second]
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one["image"], two["image"])
        np.testing.assert_array_equal(one["label"], two["label"])
        np.testing.assert_array_equal(one["labelled"], two["labelled"])


def test_batches_have_the_canvas_shape_and_types():
    (batch,) = take(1, some_samples(3))
    assert batch["image"].shape == (2, *CANVAS, 1)
    assert batch["image"].dtype == np.float32
    assert batch["label"].shape == (2, *CANVAS)
    assert batch["label"].dtype == np.uint8
    assert batch["labelled"].shape == (2, 3)
    assert batch["labelled"].dtype == np.bool_
    assert len(batch["names"]) == 2


def test_a_batch_tells_what_making_it_took():
    (batch,) = take(1, some_samples(3))
    assert batch["seconds"].keys() == {"load", "augment"}
    assert min(batch["seconds"].values()) >= 0
    assert arrays_of(batch).keys() == {"image", "label", "labelled"}


@pytest.mark.parametrize("augmentation", [RANDOM, None])
def test_staged_batches_become_the_same_on_a_device(augmentation):
    """Of the same cases in the same order, whatever the epoch."""
    samples = some_samples(5)
    staging = staging_shape(CANVAS, RANDOM.scale[0], (6, 6, 6))
    swap = RANDOM.swap if augmentation else ()
    changes = jax.jit(partial(resample, canvas=CANVAS, swap=swap))
    plain = take(4, samples, augmentation=augmentation)
    staged = take(4, samples, augmentation=augmentation, staging=staging)
    for one, two in zip(plain, staged, strict=True):
        assert two["image"].shape == (2, *staging, 1)
        found = changes(arrays_of(two))
        assert two["names"] == one["names"]
        np.testing.assert_array_equal(found["label"], one["label"])
        np.testing.assert_array_equal(found["labelled"], one["labelled"])
        np.testing.assert_allclose(found["image"], one["image"], atol=1e-5)


def test_a_batch_depends_on_seed_and_number_only():
    samples = some_samples(5)
    reference = take(8, samples)
    assert_same(reference, take(8, samples))
    assert_same(reference, take(8, samples, threads=7, ahead=11))
    assert_same(reference[5:], take(3, samples, start=5))


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_the_number_of_threads_and_of_batches_ahead_changes_no_bit(threads: int):
    samples = some_samples(5)
    reference = take(6, samples)
    for ahead in (1, 2, 3, 4):
        assert_same(reference, take(6, samples, threads=threads, ahead=ahead))


def test_batches_keep_their_order_whichever_thread_ends_first():
    """Every even one waits until the one behind it is made."""
    made = [threading.Event() for _ in range(10)]

    def make(number: int) -> Batch:
        if number % 2 == 0:
            assert made[number + 1].wait(60)
        made[number].set()
        return Batch(image=np.zeros(1), label=np.zeros(1), labelled=np.zeros(1), names=(str(number),), seconds={})

    stream = prefetched(make, start=0, threads=2, ahead=4)
    assert [next(stream)["names"] for _ in range(4)] == [("0",), ("1",), ("2",), ("3",)]
    for event in made:
        event.set()


def test_another_seed_gives_other_batches():
    samples = some_samples(5)
    one, two = take(5, samples), take(5, samples, seed=4)
    assert any(not np.array_equal(a["image"], b["image"]) for a, b in zip(one, two, strict=True))
    assert [batch["names"] for batch in one] != [batch["names"] for batch in two]


def test_every_epoch_has_every_sample_once_in_another_order():
    samples = some_samples(7)
    names = [name for batch in take(14, samples) for name in batch["names"]]
    epochs = [names[start : start + 7] for start in range(0, 28, 7)]
    for epoch in epochs:
        assert Counter(epoch) == Counter(sample.name for sample in samples)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert batches_per_epoch(7, 2) == 4


def test_each_sample_is_augmented_by_its_own_generator():
    samples = some_samples(3)
    (batch,) = take(1, samples, start=4)
    for row, position in enumerate((8, 9)):
        epoch, index = sample_at(position, 3, seed=3)
        sample = samples[index]
        drawn = draw(np.random.default_rng((3, epoch, index)), sample.label.shape, CANVAS, RANDOM)
        expected = apply(drawn, sample, CANVAS, RANDOM.swap, fill_value(sample.image))
        np.testing.assert_array_equal(batch["image"][row, ..., 0], expected.image)
        np.testing.assert_array_equal(batch["label"][row], expected.label)
        np.testing.assert_array_equal(batch["labelled"][row], expected.labelled)
        assert batch["names"][row] == expected.name


def test_no_sample_is_augmented_from_the_bits_that_shuffle_its_epoch():
    shuffled = np.random.default_rng((3, 0, 5)).permutation(5)
    assert [sample_at(position, 5, seed=3)[1] for position in range(5)] == shuffled.tolist()
    shuffling = np.random.default_rng((3, 0, 5)).random()
    assert all(np.random.default_rng((3, 0, index)).random() != shuffling for index in range(5))


def test_processes_share_every_batch():
    samples = some_samples(5)
    whole = take(6, samples, batch_size=4)
    shares = [take(6, samples, batch_size=4, rows=rows) for rows in (range(2), range(2, 4))]
    for batch, first, second in zip(whole, *shares, strict=True):
        np.testing.assert_array_equal(batch["image"], np.concatenate([first["image"], second["image"]]))
        assert batch["names"] == first["names"] + second["names"]


class Recorded:
    """A sequence that remembers what was asked for."""

    def __init__(self, samples: list[Sample]) -> None:
        self.samples = samples
        self.asked: set[int] = set()

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        self.asked.add(index)
        return self.samples[index]


def test_a_process_loads_only_its_share():
    samples = Recorded(some_samples(64))
    take(1, samples, batch_size=64, rows=range(16, 32), threads=1, ahead=1)
    # At most the batch that was asked for, the one that is kept ready and the one being made.
    own = {sample_at(64 * batch + row, 64, seed=3)[1] for batch in range(3) for row in range(16, 32)}
    assert samples.asked
    assert samples.asked <= own


def test_without_augmentation_samples_lie_in_the_middle():
    samples = [Sample("case", np.full((2, 2, 3), 7, np.float32), np.ones((2, 2, 3), np.uint8), np.ones(2, bool))]
    samples[0].image[0, 0, 0] = -2
    (batch,) = take(1, samples, batch_size=1, augmentation=None)
    np.testing.assert_array_equal(batch["label"][0, 1:3, 2:4, 1:4], 1)
    assert batch["label"].sum() == 12
    assert batch["image"][0, 0, 0, 0, 0] == -2


def saved(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"case{index}.npz" for index in range(count)]
    for path, sample in zip(paths, some_samples(count), strict=True):
        save_sample(path, sample)
    return paths


def test_files_give_the_same_batches_as_samples_in_memory(tmp_path):
    paths = saved(tmp_path, 4)
    assert_same(take(5, paths), take(5, [load_sample(path) for path in paths]))


def test_a_damaged_file_is_named_and_nothing_hangs(tmp_path):
    paths = saved(tmp_path, 4)
    paths[2].write_bytes(paths[2].read_bytes()[:100])
    with pytest.raises(UserError, match=r"case2\.npz: found a damaged file"):
        take(4, paths)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"gone\.npz: found no such file"):
        take(1, [tmp_path / "gone.npz"])


def test_whatever_fails_in_a_thread_names_the_case(tmp_path, monkeypatch):
    """Not only faults that were foreseen: too little memory, or a fault of the program."""
    samples = some_samples(4)
    samples[2] = dataclasses.replace(samples[2], label=samples[2].label[0])
    with pytest.raises(UserError, match=rf"^case {samples[2].name}: found \w+Error: "):
        take(4, samples)

    def without_memory(path):
        raise MemoryError

    monkeypatch.setattr(loader, "load_sample", without_memory)
    with pytest.raises(UserError, match=r"case0\.npz: found MemoryError"):
        take(4, saved(tmp_path, 1), batch_size=1)


def test_batches_before_the_error_arrive():
    def make(number: int) -> Batch:
        if number == 3:
            raise UserError("case", found="damage", wanted="health", fix="none")
        return Batch(image=np.zeros(1), label=np.zeros(1), labelled=np.zeros(1), names=(str(number),), seconds={})

    stream = prefetched(make, start=0, threads=4, ahead=8)
    assert [next(stream)["names"] for _ in range(3)] == [("0",), ("1",), ("2",)]
    with pytest.raises(UserError, match="damage"):
        next(stream)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"batch_size": -3}])
def test_a_batch_size_that_does_not_fit_is_a_user_error(options):
    with pytest.raises(UserError, match="batch_size"):
        take(1, some_samples(2), **options)


def test_no_samples_is_a_user_error():
    with pytest.raises(UserError, match="no training case"):
        take(1, [])
