"""On organs that two readers drew, the values are those of MONAI and of the surface-distance package, run beside."""

import numpy as np
import pytest

from ars_jax.data.volumes import read_volume
from ars_jax.metrics.overlap import overlap_metrics
from ars_jax.metrics.surface import surface_metrics
from scripts.bench_metrics import monai, surface_distance
from tests.realdata import real_data

CASES = ("0522c0057", "0522c0331")
ORGANS = ("Cochlea-Lt", "Lens-Rt", "Optic-Nerve-Rt", "Submandibular-Lt")
"""Small ones; scripts/bench_metrics.py does all 21."""
TOLERANCES = (1.0, 2.0)


def read_pair(case, organ):
    """Both readers' masks, cut to their surroundings, and mm z, y, x."""
    folder = real_data("headneck_two_readers", case)
    volumes = [read_volume(folder / reader / f"{organ}.nrrd") for reader in ("oncologist", "radiographer")]
    masks = [volume.array > 0 for volume in volumes]
    inside = np.argwhere(masks[0] | masks[1])
    cut = tuple(slice(max(a - 3, 0), b + 4) for a, b in zip(inside.min(axis=0), inside.max(axis=0), strict=True))
    return masks[0][cut], masks[1][cut], volumes[0].geometry.spacing


def by_us(prediction, reference, spacing, tolerance, convention):
    """DSC, HD95, ASD and the surface Dice by this package."""
    surface = surface_metrics(prediction, reference, spacing, convention, tolerance)
    assert surface is not None
    return [overlap_metrics(prediction, reference).dsc, surface.hd95_mm, surface.asd_mm, surface.surface_dice]


REFERENCES = {"monai": ("monai.metrics", monai), "deepmind": ("surface_distance", surface_distance)}
LIMITS = (1e-6, 1e-3, 1e-3, 1e-6)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("convention", REFERENCES)
def test_values_are_those_of_the_reference_package(convention, case):
    package, by_package = REFERENCES[convention]
    pytest.importorskip(package, reason=f"{package} is not installed")
    for organ in ORGANS:
        pair = read_pair(case, organ)
        for tolerance in TOLERANCES:
            wanted, found = by_package(*pair, tolerance), by_us(*pair, tolerance, convention)
            assert (np.abs(np.subtract(found, wanted)) < LIMITS).all(), (organ, tolerance, found, wanted)
