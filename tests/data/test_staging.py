"""What is staged of a sample is all that its canvas shows."""

import numpy as np
import pytest

from ars_jax.data.augment import UNCHANGED, Augmentation, draw
from ars_jax.data.plan import Sample
from ars_jax.data.staging import OUTSIDE, stage, staging_shape

CANVAS, SHAPE = (12, 16, 20), (40, 50, 60)
SAMPLE = Sample("case", np.zeros(SHAPE, np.float32), np.ones(SHAPE, np.uint8), np.ones(2, bool))


@pytest.mark.parametrize("scale", [(0.7, 0.7), (1.0, 1.0), (1.2, 1.5)])
def test_an_unchanged_sample_is_staged_whatever_the_range_of_scales(scale: tuple[float, float]) -> None:
    """Validation takes no draw from the range, however much it magnifies."""
    staged = stage(UNCHANGED, SAMPLE, CANVAS, staging_shape(CANVAS, scale[0], SHAPE), (), 0.0)
    assert (staged["nearest"] != OUTSIDE).all()
    assert (staged["below"] != OUTSIDE).all()
    assert (staged["above"][staged["weight"] > 0] != OUTSIDE).all()


@pytest.mark.parametrize("scale", [0.5, 1 / 3, 0.7, 1.0, 1.3])
def test_the_staging_has_slack_for_rounding(scale: float) -> None:
    """Where the smallest magnification makes the side shown a whole number, coordinates round to either side of it."""
    staging = staging_shape(CANVAS, scale, SHAPE)
    augmentation = Augmentation((True, True, True), 0.0, (scale, scale))
    for seed in range(100):
        staged = stage(draw(np.random.default_rng(seed), SHAPE, CANVAS, augmentation), SAMPLE, CANVAS, staging, (), 0.0)
        assert (staged["nearest"] != OUTSIDE).all()
        assert (staged["above"][staged["weight"] > 0] != OUTSIDE).all()
    assert all(side >= target + 2 for side, target in zip(staging, CANVAS, strict=True))
