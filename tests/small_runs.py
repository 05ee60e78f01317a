"""The smallest data set, configuration, network and run that are still whole; a test session trains once."""

import contextlib
import functools
import io
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import yaml

from ars_jax.cli import main
from ars_jax.data.plan import Plan
from ars_jax.data.volumes import write_volume
from ars_jax.models import STRIDE, VNet
from ars_jax.predict import Network
from tests.compilation import quick_compilation as quick_compilation
from tests.data.synthetic import LABELS, ct, grid

CASES = 10
DEVICES = 8
OPTIONS: dict[str, Any] = {
    "data": {"pairs": [["Ball_L", "Ball_R"]], "validation_fraction": 0.1},
    "prepare": {"intensity": "window", "window": [-200, 400]},
    "augment": {"flip": [False, False, True]},
    "model": {"base_channels": 2, "kernel_size": 3, "dropout": 0.2},
    "loss": {"regions": 2},
    "optim": {"learning_rate": 3e-3, "warmup": 0.0},
    "train": {"epochs": 4, "batch_size": DEVICES, "validate_every": 2},
}
"""Nine training cases and batches of eight: two steps an epoch, and batches that run over an epoch's end."""


@dataclass(frozen=True)
class SmallRun:
    """What `trained_run` leaves: the data set, the options as a file, the run folder and what was shown."""

    data: Path
    config: Path
    folder: Path
    shown: str


def write_data_set(root: Path, cases: int = CASES) -> Path:
    """Writes cases of 12 to 14 x 16 x 16 voxels with two organs, in the "folders" layout."""
    for index in range(cases):
        image, label = ct(grid((12 + index % 3, 16, 16)), seed=index)
        write_volume(root / "images" / f"case_{index}.nii.gz", image)
        write_volume(root / "labels" / f"case_{index}.nii.gz", label)
    (root / "labels.json").write_text(json.dumps(LABELS))
    return root


def write_config(path: Path, data: Path, run: Path, /, **sections: dict[str, Any]) -> Path:
    """Writes OPTIONS with other values for single keys as a YAML file."""
    sections = {"data": {"root": str(data)} | sections.pop("data", {}), "run": {"dir": str(run)}, **sections}
    names = OPTIONS.keys() | sections.keys()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({name: OPTIONS.get(name, {}) | sections.get(name, {}) for name in names}))
    return path


@functools.cache
def trained_run(base: Path) -> SmallRun:
    """Trains once for all tests that have the same base folder, by the command line, within `quick_compilation`."""
    data = write_data_set(base / "small" / "data")
    config = write_config(base / "small" / "config.yaml", data, base / "small" / "run")
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        assert main(["train", "--config", str(config)]) == 0
    return SmallRun(data, config, base / "small" / "run", shown.getvalue())


@functools.cache
def random_network(plan: Plan, seed: int = 0) -> Network:
    """A network that was never trained and finds every class somewhere; drawing by NumPy saves compiling jax's."""
    model = VNet(classes=len(plan.labels) + 1, base_channels=2, kernel_size=3)
    shape = jax.ShapeDtypeStruct((1, STRIDE, STRIDE, STRIDE, 1), jnp.float32)
    shapes = jax.eval_shape(partial(model.init, train=False), jax.random.key(0), shape)
    rng = np.random.default_rng(seed)

    def draw(path: tuple[Any, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = path[-1].key
        if name == "kernel":
            return jnp.asarray(rng.normal(0, np.sqrt(2 / np.prod(leaf.shape[:-1])), leaf.shape), leaf.dtype)
        return jnp.full(leaf.shape, {"scale": 1.0, "var": 1.0, "slope": 0.25}.get(name, 0.0), leaf.dtype)

    variables = jax.tree_util.tree_map_with_path(draw, shapes)
    return Network(model, variables["params"], variables["batch_stats"], plan)


def lines_of(run: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content, to see that nothing was written."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
