"""Where tests find real volumes; nobody outside has them, so tests that need them skip."""

import os
from pathlib import Path

import pytest


def real_data(*parts: str) -> Path:
    """Returns the path of a part of the real data, or skips the test with the reason."""
    root = Path(os.environ.get("ARS_JAX_DATA", Path(__file__).parents[2] / "shared" / "data"))
    path = root.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"no real data at {path}; set ARS_JAX_DATA")
    return path
