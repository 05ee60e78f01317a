"""What is found, drawn and named on disk does not depend on the order in which Python hashes words."""

import os
import subprocess
import sys
from pathlib import Path

from tests.data.small_sets import folder

SCRIPT = """
import sys
from pathlib import Path
from ars_jax.data.cache import fingerprint
from ars_jax.data.check import examine_dataset
from ars_jax.data.layouts import find_dataset
from ars_jax.data.phantom import phantom_case
from ars_jax.data.plan import Plan
from ars_jax.data.splits import split_cases
dataset = find_dataset(Path(sys.argv[1]))
print(dataset, split_cases(dataset, seed=3), examine_dataset(dataset))
print([fingerprint(case, dataset.labels, Plan(tuple(dataset.labels))) for case in dataset.cases if case.labelled])
print(phantom_case(1, None)[0].array.tobytes()[::997])
"""


def test_data_sets_splits_hashes_and_phantoms_are_the_same_in_every_process(tmp_path: Path) -> None:
    folder(tmp_path)
    root = str(Path(__file__).parents[2])
    shown = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(tmp_path)],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": root},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert "sound" in shown[0]
    assert shown[0] == shown[1]
