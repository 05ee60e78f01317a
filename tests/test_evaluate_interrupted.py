"""An evaluation that is stopped while it takes an older one's place: no scores ever stand beside other label maps."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from ars_jax import evaluate
from ars_jax.data.layouts import find_dataset
from ars_jax.data.volumes import Volume, read_volume
from ars_jax.evaluate import evaluate_cases, evaluate_folders, write_tables
from ars_jax.metrics.table import Row, read_json
from tests.data.synthetic import LABELS, PLAN
from tests.small_runs import random_network, write_data_set

SMALL = dataclasses.replace(PLAN, whole=(16, 16, 16))
CHANGES = 9
"""Two tables and two folders of label maps go; they and cases.json come."""


class Stop:
    """Raises at the n-th change of what lies in a folder; deletions of folders are stopped half-way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, at: int) -> None:
        self.folder, self.left = folder, at
        for owner, name in ((Path, "replace"), (Path, "unlink"), (shutil, "rmtree")):
            monkeypatch.setattr(owner, name, self.watched(getattr(owner, name)))

    def watched(self, change):
        def watching(path, *arguments, **options):
            target = next((Path(it) for it in arguments if isinstance(it, Path)), Path(path))
            if target.parent == self.folder and not target.name.startswith("."):
                self.left -= 1
                if self.left == 0:
                    for inside in sorted(target.glob("*.nii.gz"))[:1]:
                        inside.rename(inside.with_name("gone"))
                    raise KeyboardInterrupt
            return change(path, *arguments, **options)

        return watching


def score(monkeypatch: pytest.MonkeyPatch, data: Path, out: Path, shift: int, cases: int) -> list[Row]:
    """Has the network predict the reference, shifted."""

    def predicted(network: object, volume: Volume, name: Path) -> Volume:
        label = read_volume(Path(str(name).replace("images", "labels"))).array
        channels = np.searchsorted([0, *LABELS.values()], label)
        return Volume(np.roll(channels, shift, axis=2).astype(np.uint8), volume.geometry)

    monkeypatch.setattr(evaluate, "predict_volume", predicted)
    dataset = find_dataset(data)
    return evaluate_cases(random_network(SMALL), dataset.cases[:cases], dataset.labels, out)


@pytest.mark.parametrize("at", range(1, CHANGES + 1))
def test_scores_never_stand_beside_other_label_maps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, at: int) -> None:
    data, out = write_data_set(tmp_path / "data", cases=2), tmp_path / "out"
    score(monkeypatch, data, out, shift=0, cases=2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        Stop(patch, out, at)
        score(patch, data, out, shift=1, cases=1)
    if (out / "table.csv").exists():
        lines = (out / "table.csv").read_text(encoding="utf-8").splitlines()[1:]
        wanted = [(row.case, row.dsc) for row in evaluate_folders(out / "predictions", out / "references")]
        assert [(line.split(",")[0], float(line.split(",")[3])) for line in lines] == wanted
    if (out / "table.json").exists():
        assert read_json(out / "table.json") == evaluate_folders(out / "predictions", out / "references")
    assert not [path for path in out.iterdir() if path.name.startswith(".")]
    rows = score(monkeypatch, data, out, shift=1, cases=1)
    assert read_json(out / "table.json") == rows == evaluate_folders(out / "predictions", out / "references")


def test_the_last_change_completes_an_evaluation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """So the interruptions above are all that there are."""
    data, out = write_data_set(tmp_path / "data", cases=1), tmp_path / "out"
    score(monkeypatch, data, out, shift=0, cases=1)
    with monkeypatch.context() as patch:
        stop = Stop(patch, out, CHANGES + 1)
        rows = score(patch, data, out, shift=1, cases=1)
    assert stop.left == 1
    assert read_json(out / "table.json") == rows


def test_a_table_of_other_scores_goes_before_the_new_ones_come(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where folders are scored, both files are written by turns."""
    data, out = write_data_set(tmp_path / "data", cases=2), tmp_path / "out"
    rows = score(monkeypatch, data, out, shift=0, cases=2)
    monkeypatch.setattr(evaluate.table, "write_csv", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_tables(out, rows[:2])
    assert not (out / "table.json").exists()
