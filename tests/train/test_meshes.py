"""Whole trainings on a mesh, interrupted and resumed on another one."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ars_jax.cli import main
from ars_jax.data.loader import Batch
from ars_jax.train import loop
from tests.small_runs import lines_of, write_config, write_data_set

STEPS = 6


pytestmark = pytest.mark.usefixtures("quick")


def train(*words: object) -> int:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return main(["train", *map(str, words)])


def series(run: Path, kind: str, *names: str) -> list[list[Any]]:
    """Values by step; of steps that were done twice the later ones."""
    lines = {line["step"]: line for line in lines_of(run) if line["kind"] == kind}
    return [[lines[step][name] for name in ("step", *names)] for step in sorted(lines)]


def test_a_run_on_a_mesh_goes_on_on_another_as_on_one_device(tmp_path: Path) -> None:
    """Two epochs: volumes, a batch in parts, parameters and augmentation on 2 x 2 devices, the end on one.

    The one's step is compiled already; with its end on 1 x 2 the run was the same.
    """
    data, config = write_data_set(tmp_path / "data"), tmp_path / "config.yaml"
    write_config(
        config,
        data,
        tmp_path / "alone",
        data={"cache": str(tmp_path / "cache")},
        prepare={"canvas": [32, 16, 16]},
        model={"variant": "monai"},
        loss={"regions": [3, 2, 2]},
        train={"epochs": 2, "batch_size": 4, "accumulate": 2, "validate_every": 1},
    )
    assert train("--config", config, "--mesh.data=1") == 0
    words = ("--config", config, "--run.dir", tmp_path / "divided", "--augment.device=true")
    real = loop.batches

    def until_interrupted(*arguments: Any, **options: Any) -> Iterator[Batch]:
        for number, batch in enumerate(real(*arguments, **options)):
            if number == 4:
                raise KeyboardInterrupt
            yield batch

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "batches", until_interrupted)
        assert train(*words, "--mesh.data=2", "--mesh.space=2", "--mesh.parameters=sharded") == 130
    assert train(*words, "--mesh.data=1", "--resume") == 0
    starts = [(line["step"], line["mesh"]) for line in lines_of(tmp_path / "divided") if line["kind"] == "start"]
    meshes = [{"data": 2, "space": 2, "parameters": "sharded"}, {"data": 1, "space": 1, "parameters": "replicated"}]
    assert starts == list(zip((0, 3), meshes, strict=True))
    alone, divided = (series(tmp_path / name, "train", "loss") for name in ("alone", "divided"))
    assert len(alone) == STEPS
    np.testing.assert_allclose(divided, alone, rtol=1e-4)
    alone, divided = (series(tmp_path / name, "validation", "mean_dsc") for name in ("alone", "divided"))
    assert len(alone) == 2
    np.testing.assert_allclose(divided, alone, atol=0.01)
