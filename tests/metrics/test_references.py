"""On organs that two readers drew, the values are those of MONAI and of the surface-distance package, run beside."""

import warnings

import numpy as np
import pytest

from ars_jax.data.volumes import read_volume
from ars_jax.metrics.overlap import overlap_metrics
from ars_jax.metrics.surface import surface_metrics
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


def by_monai(prediction, reference, spacing):
    """DSC, HD95, ASD and the surface Dice at each tolerance."""
    metrics = pytest.importorskip("monai.metrics", reason="MONAI is not installed")
    torch = pytest.importorskip("torch")
    pair = [torch.tensor(mask[None, None]) for mask in (prediction, reference)]
    options = {"include_background": True, "spacing": spacing}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # it warns of an argument that it gives itself
        return {
            "dsc": float(metrics.compute_dice(*pair, include_background=True)),
            "hd95": float(metrics.compute_hausdorff_distance(*pair, percentile=95, **options)),
            "asd": float(metrics.compute_average_surface_distance(*pair, **options)),
            **{t: float(metrics.compute_surface_dice(*pair, class_thresholds=[t], **options)) for t in TOLERANCES},
        }


def by_surface_distance(prediction, reference, spacing):
    """The same by the surface-distance package; ASD is the mean of its pair."""
    package = pytest.importorskip("surface_distance", reason="surface-distance is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # it calls SciPy by old names
        found = package.compute_surface_distances(reference, prediction, spacing)
    return {
        "dsc": package.compute_dice_coefficient(reference, prediction),
        "hd95": package.compute_robust_hausdorff(found, 95),
        "asd": np.mean(package.compute_average_surface_distance(found)),
        **{t: package.compute_surface_dice_at_tolerance(found, t) for t in TOLERANCES},
    }


def by_us(prediction, reference, spacing, convention):
    """The same by this package."""
    found = [surface_metrics(prediction, reference, spacing, convention, tolerance) for tolerance in TOLERANCES]
    assert found[0] is not None
    return {
        "dsc": overlap_metrics(prediction, reference).dsc,
        "hd95": found[0].hd95_mm,
        "asd": found[0].asd_mm,
        **{tolerance: surface.surface_dice for tolerance, surface in zip(TOLERANCES, found, strict=True) if surface},
    }


REFERENCES = {"monai": by_monai, "deepmind": by_surface_distance}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("convention", REFERENCES)
def test_values_are_those_of_the_reference_package(convention, case):
    for organ in ORGANS:
        pair = read_pair(case, organ)
        wanted, found = REFERENCES[convention](*pair), by_us(*pair, convention)
        assert found.keys() == wanted.keys()
        for key, value in found.items():
            limit = 1e-3 if key in ("hd95", "asd") else 1e-6
            assert abs(value - wanted[key]) < limit, (organ, key, value, wanted[key])
