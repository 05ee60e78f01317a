"""Checkpoints: bit for bit, the two newest and the best, and what is damaged or not written said in one line."""

import errno
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ars_jax import checkpoint, processes
from ars_jax.checkpoint import check_saved, checkpoints, find_step, restore, save, set_damaged_aside
from ars_jax.errors import UserError
from ars_jax.mesh import make_mesh, replicated


def items(seed: int = 0) -> dict[str, Any]:
    """Arrays of every kind that a training state has, and of some that it may have."""
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(3, 4)).astype(np.float32)
    values[0, 0], values[0, 1] = np.finfo(np.float32).tiny / 8, -0.0
    return {
        "model": {"params": {"kernel": jnp.asarray(values), "half": jnp.asarray(values, jnp.bfloat16)}},
        "training": {"step": jnp.int32(seed), "key": jax.random.key(seed), "empty": {}, "moments": (jnp.ones(2), ())},
    }


ITEMS = ("model", "training")


def bits(tree: Any) -> list[bytes]:
    """The bytes of every array, keys by their data."""
    keys = jax.tree.map(lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x, tree)
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(keys)]


def written(folder: Path, scores: Sequence[float | None]) -> Path:
    """A folder with one checkpoint after another, numbered from 1, each of its own arrays."""
    with checkpoints(folder) as manager:
        for step, score in enumerate(scores, start=1):
            save(manager, step, items(step), {"plan": {"labels": ["A"]}}, score)
    return folder


def test_what_is_restored_is_what_was_saved_bit_for_bit(tmp_path: Path) -> None:
    with checkpoints(written(tmp_path / "checkpoints", [0.5])) as manager:
        restored = restore(manager, 1, items(0))
    assert jax.tree.structure(restored) == jax.tree.structure(items(1))
    assert bits(restored) == bits(items(1)) != bits(items(0))


def test_one_item_is_restored_without_the_others(tmp_path: Path) -> None:
    """Prediction needs no moments of the optimiser."""
    with checkpoints(written(tmp_path, [0.5])) as manager:
        restored = restore(manager, 1, {"model": items(0)["model"]})
    assert bits(restored) == bits({"model": items(1)["model"]})


def test_restored_arrays_lie_where_they_are_asked_to(tmp_path: Path) -> None:
    """A training on eight devices is read by one, and the other way round."""
    for first, second in ((8, 1), (1, 8)):
        folder = tmp_path / str(first)
        before, after = replicated(make_mesh(first)), replicated(make_mesh(second))
        with checkpoints(folder) as manager:
            save(manager, 1, {"model": jax.device_put(items(1)["model"], before)}, {}, 0.0)
        like = jax.tree.map(lambda x, to=after: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=to), items(1)["model"])
        with checkpoints(folder) as manager:
            restored = restore(manager, 1, {"model": like})
        assert bits(restored) == bits({"model": items(1)["model"]})
        assert all(leaf.sharding.is_equivalent_to(after, leaf.ndim) for leaf in jax.tree.leaves(restored))


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.1, 0.5, 0.3, 0.2], 2),
        ([0.1, 0.2, 0.3], 3),
        ([0.9, 0.2, 0.3, 0.1], 1),
        ([0.0], 1),
        ([0.5, None, None, None], 1),
        ([0.5, 0.1, None, 0.2, None], 1),
        ([None, None, 0.0, None], 3),
    ],
)
def test_the_two_newest_and_the_best_are_kept(tmp_path: Path, scores: list[float | None], best: int) -> None:
    """What was saved without a score, at a signal, is never the best, and does not crowd it out."""
    with checkpoints(written(tmp_path, scores)) as manager:
        assert find_step(manager, "newest") == len(scores)
        assert find_step(manager, "best") == best
        assert set(manager.all_steps()) == {best, len(scores), max(len(scores) - 1, 1)}
        assert bits(restore(manager, best, items(0))) == bits(items(best))


def test_saved_arrays_may_be_given_up_at_once(tmp_path: Path) -> None:
    """The next step donates them while the checkpoint is still being written."""
    state = items(1)
    with checkpoints(tmp_path) as manager:
        save(manager, 1, state, {}, 0.0)
        for leaf in jax.tree.leaves(state):
            leaf.delete()
    with checkpoints(tmp_path) as manager:
        assert bits(restore(manager, 1, items(0))) == bits(items(1))


def test_a_folder_without_checkpoint_is_named(tmp_path: Path) -> None:
    with checkpoints(tmp_path / "none") as manager, pytest.raises(UserError, match=r"none: found no checkpoint"):
        find_step(manager, "best")


def test_without_any_score_there_is_no_best(tmp_path: Path) -> None:
    with checkpoints(written(tmp_path, [None]), read_only=True) as manager:
        with pytest.raises(UserError, match=r"no validated checkpoint.*--checkpoint newest"):
            find_step(manager, "best")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints 2 and 3, and 1, which is the best."""
    return written(tmp_path_factory.mktemp("three"), [0.9, 0.1, None])


def copied(three: Path, to: Path) -> Path:
    return Path(shutil.copytree(three, to / "checkpoints"))


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def test_any_file_that_is_damaged_is_noticed(three: Path, tmp_path: Path) -> None:
    """Each file of the newest checkpoint's items in turn: one bit, the last byte, or all of it."""
    folder = copied(three, tmp_path)
    files = [path for name in ("model", "training") for path in (folder / "3" / name).rglob("*") if path.is_file()]
    files = [path for path in files if path.name != "commit_success.txt"]
    assert len(files) > 20
    with checkpoints(folder, read_only=True) as manager:
        for path in files:
            content = path.read_bytes()
            for damage in (flipped, truncated, Path.unlink):
                if damage is Path.unlink and path.name == checkpoint.DIGESTS:
                    continue
                damage(path)
                with pytest.raises(UserError) as caught:
                    restore(manager, 3, items(0))
                assert caught.value.thing == str(folder / "3")
                named = path.name if path.name != checkpoint.DIGESTS else path.parent.name
                assert named in caught.value.found
                path.write_bytes(content)
        assert bits(restore(manager, 3, items(0))) == bits(items(3))


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        *((damage, item) for damage in (shutil.rmtree, emptied) for item in ("model", "training")),
        (emptied, ""),
        (flipped, "training/manifest.ocdbt"),
        (Path.unlink, "model/_METADATA"),
        (Path.unlink, f"model/{checkpoint.DIGESTS}"),
        (lambda path: path.write_text("{}"), f"training/{checkpoint.DIGESTS}"),
        (lambda path: (path.unlink(), path.mkdir()), "model/manifest.ocdbt"),
        (lambda path: (path.unlink(), path.symlink_to(path)), "model/manifest.ocdbt"),
    ],
)
def test_the_one_before_a_damaged_checkpoint_is_taken(
    three: Path, tmp_path: Path, damage: Callable[[Path], object], part: str
) -> None:
    """The damaged one makes room for what is saved when its step comes again, and is kept beside it."""
    folder = copied(three, tmp_path)
    damage(folder / "3" / part)
    step, damaged = set_damaged_aside(folder, ITEMS)
    assert (step, list(damaged)) == (2, [3])
    assert part in damaged[3]
    assert {path.name for path in folder.iterdir()} == {"1", "2", "3.damaged"}
    with checkpoints(folder) as manager:
        assert manager.all_steps() == [1, 2]
        assert bits(restore(manager, step, items(0), checked=True)) == bits(items(2))
        save(manager, 3, items(3), {}, None)
    assert set_damaged_aside(folder, ITEMS) == (3, {})
    with checkpoints(folder) as manager:
        assert bits(restore(manager, 3, items(0))) == bits(items(3))
    flipped(folder / "3" / "model" / "manifest.ocdbt")  # a second time, when there is one aside already
    assert set_damaged_aside(folder, ITEMS)[0] == 2


def test_where_all_are_damaged_it_says_so_and_renames_none(three: Path, tmp_path: Path) -> None:
    folder = copied(three, tmp_path)
    for step in (1, 2, 3):
        flipped(folder / str(step) / "model" / "manifest.ocdbt")
    with pytest.raises(UserError) as caught:
        set_damaged_aside(folder, ITEMS)
    assert all(f"checkpoint {step}: model/manifest.ocdbt" in caught.value.found for step in (1, 2, 3))
    assert {path.name for path in folder.iterdir()} == {"1", "2", "3"}


def test_a_best_whose_score_is_damaged_is_not_deleted_unsaid(three: Path, tmp_path: Path) -> None:
    """Without its score it would be taken for any other, and make room for the next."""
    folder = copied(three, tmp_path)
    flipped(folder / "1" / "metrics" / "metrics")
    step, damaged = set_damaged_aside(folder, ITEMS)
    assert (step, list(damaged)) == (3, [1])
    assert "metrics" in damaged[1]
    with checkpoints(folder) as manager:
        save(manager, 4, items(4), {}, 0.2)
    assert (folder / "1.damaged" / "model").is_dir()


def test_a_fault_of_the_machine_is_no_damage(three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many open files: nothing is renamed, nothing is gone back behind."""
    folder = copied(three, tmp_path)

    def failing(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Too many open files"):
        patch.setattr(checkpoint, "_digest", failing)
        set_damaged_aside(folder, ITEMS)
    assert {path.name for path in folder.iterdir()} == {"1", "2", "3"}
    with checkpoints(folder) as manager, pytest.raises(OSError, match="Too many open files"):
        monkeypatch.setattr(type(manager), "restore", failing)
        restore(manager, 3, items(0))


@pytest.mark.parametrize(
    "damage",
    [flipped, truncated, Path.unlink, lambda path: path.write_text("[]"), lambda path: path.write_text("[" * 100_000)],
)
def test_a_damaged_score_does_not_choose_another_best(
    three: Path, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    folder = copied(three, tmp_path)
    damage(folder / "1" / "metrics" / "metrics")
    with checkpoints(folder, read_only=True) as manager:
        assert find_step(manager, "newest") == 3
        with pytest.raises(UserError, match=r"^\S+/1: found metrics/metrics is (missing|not as it was written)"):
            find_step(manager, "best")


@pytest.mark.parametrize("name", ["_CHECKPOINT_METADATA", "commit_success.txt"])
@pytest.mark.parametrize("damage", [truncated, Path.unlink, lambda path: path.write_text("[]")])
def test_what_says_only_when_it_was_written_is_not_needed(
    three: Path, tmp_path: Path, name: str, damage: Callable[[Path], object]
) -> None:
    folder = copied(three, tmp_path)
    damage(folder / "3" / name)
    assert set_damaged_aside(folder, ITEMS) == (3, {})
    with checkpoints(folder) as manager:
        assert bits(restore(manager, 3, items(0))) == bits(items(3))
        save(manager, 4, items(4), {}, 0.0)


def test_a_damaged_checkpoint_is_named(three: Path, tmp_path: Path) -> None:
    """With digests and without, as it was written by earlier versions."""
    folder = copied(three, tmp_path)
    for path in (folder / "1" / "model").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[:20])
    for _ in range(2):
        with checkpoints(folder, read_only=True) as manager, pytest.raises(UserError) as caught:
            restore(manager, find_step(manager, "best"), items(0))
        assert str(caught.value).startswith(str(folder / "1"))
        assert "\n" not in str(caught.value)
        (folder / "1" / "model" / checkpoint.DIGESTS).unlink(missing_ok=True)


def test_checkpoints_without_digests_are_read(three: Path, tmp_path: Path) -> None:
    folder = copied(three, tmp_path)
    for path in folder.rglob(checkpoint.DIGESTS):
        path.unlink()
    with checkpoints(folder) as manager:
        assert find_step(manager, "best") == 1
        assert bits(restore(manager, 3, items(0))) == bits(items(3))
    assert set_damaged_aside(folder, ITEMS) == (3, {})


def test_what_a_kill_left_half_written_is_no_checkpoint_and_is_deleted(three: Path, tmp_path: Path) -> None:
    """Readers leave it alone: a training may be writing it."""
    folder = copied(three, tmp_path)
    half = shutil.copytree(folder / "3", folder / "4.orbax-checkpoint-tmp")
    with checkpoints(folder, read_only=True) as manager:
        assert find_step(manager, "newest") == 3
    assert half.exists()
    with checkpoints(folder) as manager:
        save(manager, 5, items(5), {}, 0.0)
        assert not half.exists()
        assert find_step(manager, "newest") == 5


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("told", ["save", "check_saved", "check_saved, wait", "leaving"])
def test_a_full_disk_is_told_and_leaves_the_earlier_checkpoints(three: Path, tmp_path: Path, told: str) -> None:
    """By the next save, by asking, and at the latest when the folder is left; writing goes on in the background."""
    folder = copied(three, tmp_path)
    before = sorted(path.name for path in folder.iterdir())
    with pytest.MonkeyPatch.context() as patch, pytest.raises(UserError) as caught, checkpoints(folder) as manager:
        patch.setattr(checkpoint, "_digests", full_disk)
        save(manager, 4, items(4), {}, 0.99)
        if told == "save":
            save(manager, 5, items(5), {}, 0.99)
        if told == "check_saved":
            while manager.is_saving_in_progress():
                time.sleep(0.01)
            check_saved(manager)
        if told == "check_saved, wait":
            check_saved(manager, wait=True)
    assert str(caught.value).startswith(f"{folder}: found no space left on the device; wanted room for a checkpoint")
    with checkpoints(folder) as manager:
        assert [str(step) for step in manager.all_steps()] == before
        assert find_step(manager, "best") == 1
        assert bits(restore(manager, 3, items(0))) == bits(items(3))


def test_a_process_that_was_lost_is_not_told_as_a_full_disk(
    three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer")
    monkeypatch.setattr(processes, "count", lambda: 2)
    with pytest.raises(ValueError, match="closed by peer"), checkpoints(copied(three, tmp_path)) as manager:
        monkeypatch.setattr(type(manager), "wait_until_finished", lambda _: (_ for _ in ()).throw(lost))
        check_saved(manager, wait=True)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    other = items(0)
    other["model"]["params"]["more"] = jnp.zeros(3)
    with checkpoints(written(tmp_path, [0.5])) as manager, pytest.raises(UserError, match="whole checkpoint of the"):
        restore(manager, 1, other)
