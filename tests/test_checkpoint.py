"""Checkpoints: bit for bit, the newest and the best, and what is wrong said in one line."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ars_jax.checkpoint import checkpoints, find_step, restore, save
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


def bits(tree: Any) -> list[bytes]:
    """The bytes of every array, keys by their data."""
    keys = jax.tree.map(lambda x: jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x, tree)
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(keys)]


def written(folder: Path, scores: Sequence[float]) -> Path:
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
    [([0.1, 0.5, 0.3, 0.2], 2), ([0.1, 0.2, 0.3], 3), ([0.9, 0.2, 0.3], 1), ([0.0], 1)],
)
def test_the_newest_and_the_best_are_kept(tmp_path: Path, scores: list[float], best: int) -> None:
    with checkpoints(written(tmp_path, scores)) as manager:
        assert find_step(manager, "newest") == len(scores)
        assert find_step(manager, "best") == best
        assert set(manager.all_steps()) == {best, len(scores)}
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


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path, [0.5])
    for path in (folder / "1" / "model").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            path.write_bytes(path.read_bytes()[:20])
    with checkpoints(folder) as manager, pytest.raises(UserError) as caught:
        restore(manager, 1, items(0))
    assert str(caught.value).startswith(str(folder / "1"))
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    other = items(0)
    other["model"]["params"]["more"] = jnp.zeros(3)
    with checkpoints(written(tmp_path, [0.5])) as manager, pytest.raises(UserError, match="whole checkpoint of the"):
        restore(manager, 1, other)
