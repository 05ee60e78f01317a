"""`ars-jax gradients`: what it measures, and that its volumes lie where the image lies."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ars_jax import losses
from ars_jax.cli import main
from ars_jax.data.cases import Case as StoredCase
from ars_jax.data.geometry import Geometry, mismatches
from ars_jax.data.volumes import Volume, canonical, read_geometry, read_volume, write_volume
from ars_jax.errors import UserError
from ars_jax.gradients.maps import RegionMaps, region_maps
from ars_jax.laboratory.cases import Case
from ars_jax.laboratory.gradients import (
    Pull,
    density,
    region_errors,
    region_panels,
    render,
    study,
    with_options,
    worst_organ,
)
from ars_jax.laboratory.scenes import (
    Scene,
    from_case,
    from_run,
    fullest_plane,
    near_boundary,
    picture_of,
    places,
    stored_case,
)
from ars_jax.losses import Objective, RegionSize
from tests.data.synthetic import LABELS, ORIENTATIONS, PLAN, ct, grid
from tests.losses.cases import SPACE, random_case, random_mask
from tests.realdata import real_data
from tests.small_runs import SmallRun, quick_compilation, random_network, trained_run

FILES = {
    *(f"gradient_{name}.nii.gz" for name in ("baseline", "region_specific", "adaptive_region_specific")),
    *(f"{name}.{ending}" for name in ("gradients", "regions", "phase") for ending in ("png", "pdf")),
    "regions.npz",
    "summary.json",
}
SMALL = replace(PLAN, whole=(16, 16, 32))


@pytest.fixture(scope="module", autouse=True)
def base(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with quick_compilation(tmp_path_factory.getbasetemp()):
        yield tmp_path_factory.getbasetemp()


def arrays(space: tuple[int, ...] = SPACE, batch: int = 1) -> Case:
    logits, labels = random_case(0, space, batch=batch)
    return Case(logits, labels, ("One", "Two"), where=random_mask(0, space, batch=batch))


def test_what_is_measured_adds_up(tmp_path: Path) -> None:
    """Value, total and shares are those of the objectives on the same logits; everything is in the files too."""
    case = arrays()
    summary = study(from_case(case), Objective(regions=2), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    x, y, where = (jnp.asarray(part) for part in (case.logits, case.labels, case.where))
    value, gradient = jax.value_and_grad(losses.baseline)(x, y, where=where)
    norm = np.sqrt((np.asarray(gradient[0]) ** 2).sum(-1))
    measured = summary["objectives"]["baseline"]
    assert measured["value"] == pytest.approx(float(value), rel=1e-5)
    assert measured["total_gradient"] == pytest.approx(norm.sum(), rel=1e-4)
    regional = losses.region_specific(x, y, where=where, regions=2, reduction="class_mean")
    assert summary["objectives"]["region_specific"]["value"] == pytest.approx(float(regional), rel=1e-5)
    wrong = case.logits[0].argmax(-1) != case.labels[0]
    assert measured["share"]["places"]["wrong"] == pytest.approx(norm[wrong].sum() / norm.sum(), rel=1e-4)
    for row in (summary["volume"], *summary["objectives"].values()):
        assert row["share"]["background"] + sum(row["share"]["organs"].values()) == pytest.approx(1)
    volume = read_volume(tmp_path / "out" / "gradient_baseline.nii.gz")
    np.testing.assert_allclose(volume.array, norm, rtol=1e-3, atol=1e-7)
    with np.load(tmp_path / "out" / "regions.npz", allow_pickle=False) as maps:
        assert maps["classes"].tolist() == ["background", "One", "Two"]
        assert maps["effective_fp_weight"].shape == (1, 2, 2, 2, 3)
        present = int(maps["present"][..., 1:].sum())
        rewarding = int((maps["effective_fp_weight"] < 0)[maps["present"] & (maps["negatives"] > 0)].sum())
    regions = summary["regions"]
    assert present == sum(row["present"] for row in regions["organs"].values())
    every = [regions["background"], *regions["organs"].values()]
    assert rewarding == sum(row["rewarding_false_positives"] for row in every)
    assert f"of {present} pairs" in str(render(summary).caption)


def test_a_slice_and_a_batch_are_studied_too(tmp_path: Path) -> None:
    summary = study(from_case(arrays((8, 6), batch=2)), Objective(regions=2, adaptive_gradient="stop"), tmp_path)
    assert summary["voxels"] == [1, 8, 6]
    assert summary["regions"]["critical_share"] is None
    assert read_geometry(tmp_path / "gradient_baseline.nii.gz").shape == (1, 8, 6)


def test_a_boundary_is_where_labels_differ() -> None:
    """Distances are in mm between centres, along every axis; a volume of one label has none."""
    labels = np.zeros((5, 9, 9), np.uint8)
    labels[:, :, 4:] = 1
    spacing = (3.0, 1.0, 2.0)
    for margin, columns in ((0.0, (3, 4)), (1.9, (3, 4)), (2.0, (2, 3, 4, 5)), (4.5, (1, 2, 3, 4, 5, 6))):
        near = near_boundary(labels, spacing, margin)
        assert np.flatnonzero(near.all((0, 1))).tolist() == list(columns)
        assert (near.any((0, 1)) == near.all((0, 1))).all()
    assert not near_boundary(np.zeros((3, 3, 3)), spacing).any()


def boxes(organs: tuple[str, ...] = ("One", "Two"), where: np.ndarray | None = None) -> Scene:
    """Eight regions of 2 x 3 x 4: the first organ fills the first one, the second has two voxels, never predicted."""
    labels = np.zeros((1, 4, 6, 8), np.int32)
    labels[0, :2, :3, :4] = 1
    labels[0, 3, 5, 4:6] = 2
    predicted = labels[0].copy()
    predicted[0, :2, :4] = 0
    predicted[predicted == 2] = 0
    predicted[2, :3, :2] = 1
    logits = 8 * np.eye(3, dtype=np.float32)[predicted][None]
    return from_case(Case(logits, labels, organs, where=where))


def test_only_where_another_class_is_are_false_positives_rewarded(tmp_path: Path) -> None:
    """An organ that fills its region has errors there that can only be FN, beyond the critical share all the same."""
    scene = boxes()
    maps = region_maps(scene.case.logits, scene.case.labels, regions=2)
    assert maps.negatives[0, 0, 0, 0].tolist() == [24, 0, 24]
    assert maps.negatives[0, 1, 1, 1].tolist() == [2, 24, 22]
    assert maps.effective_fp_weight[0, 0, 0, 0, 1] < 0
    assert maps.effective_fp_weight[0, 1, 1, 1, 2] < 0
    summary = study(scene, Objective(regions=2, adaptive_gradient="through"), tmp_path)
    rewarding = {name: row["rewarding_false_positives"] for name, row in summary["regions"]["organs"].items()}
    assert rewarding == {"One": 0, "Two": 1}
    assert [part.tolist() for part in region_errors(maps)] == [
        [maps.false_positives[0, 1, 1, 1, 2]],
        [maps.false_negatives[0, 1, 1, 1, 2]],
    ]
    panels = region_panels(Objective(regions=2), maps, 1)
    weight = next(panel.values for panel in panels if panel.title == "effective weight of FP")
    assert np.isnan(weight).all()
    assert summary["regions"]["sides"] == [[2, 2], [3, 3], [4, 4]]
    assert "2 x 2 x 2 regions of 2 x 3 x 4 voxels" in str(render(summary).title)


def test_places_hold_only_voxels_that_count(tmp_path: Path) -> None:
    """Half of the volume is left out, and every part is one of the other half."""
    where = np.zeros((1, 4, 6, 8), bool)
    where[:, :2] = True
    scene = boxes(("wrong", "background"), where)
    share = study(scene, Objective(regions=2), tmp_path)["volume"]["share"]
    near = near_boundary(scene.case.labels[0, :2], (1.0, 1.0, 1.0))
    assert share["places"] == {"near_boundary": near.mean(), "wrong": 8 / 96}
    assert share["background"] == 72 / 96
    assert share["organs"] == {"wrong": 24 / 96, "background": 0}
    assert not any(mask[2:].any() for mask in places(scene).values())


def test_organs_named_like_places_overwrite_none(tmp_path: Path) -> None:
    plain, odd = (
        study(boxes(names), Objective(regions=2), tmp_path) for names in (("One", "Two"), ("wrong", "background"))
    )
    for part in ("volume", "baseline"):
        one, other = ({**summary["objectives"], "volume": summary["volume"]}[part]["share"] for summary in (plain, odd))
        assert (one["places"], one["background"]) == (other["places"], other["background"])
        assert list(one["organs"].values()) == list(other["organs"].values())
    assert plain["regions"]["background"] == odd["regions"]["background"]
    assert list(plain["regions"]["organs"].values()) == list(odd["regions"]["organs"].values())


def by_hand(**fields: np.ndarray) -> RegionMaps:
    """Maps of two regions and three classes, every field another number."""
    shape = (1, 2, 1, 1, 3)
    names = (
        "false_positives",
        "false_negatives",
        "alpha",
        "beta",
        "effective_fp_weight",
        "effective_fn_weight",
        "loss",
    )
    values = {name: np.arange(6.0).reshape(shape) + 10 * (1 + place) for place, name in enumerate(names)}
    return RegionMaps(**{**values, "present": np.ones(shape, bool), "negatives": np.ones(shape), **fields})


def test_every_panel_shows_the_quantity_that_it_names() -> None:
    """Class 2 has entries 2 and 5 of every map; a region without it has none but errors."""
    present = np.ones((1, 2, 1, 1, 3), bool)
    present[0, 1, 0, 0, 2] = False
    shown = {panel.title: panel for panel in region_panels(Objective(), by_hand(present=present), 2)}
    nan = np.nan
    expected = {
        "false positives FP, voxels": [12, 15],
        "false negatives FN, voxels": [22, 25],
        r"penalty $\alpha$ on FP": [32, nan],
        r"penalty $\beta$ on FN": [42, nan],
        "effective weight of FP": [52, nan],
        "effective weight of FN": [62, nan],
        "loss of the region": [72, nan],
        "regions with the organ": [1, nan],
    }
    assert shown.keys() == expected.keys()
    for title, values in expected.items():
        np.testing.assert_array_equal(shown[title].values.ravel(), values, err_msg=title)
    assert {title for title, panel in shown.items() if panel.signed} == {
        title for title in expected if "weight" in title
    }
    assert shown["false positives FP, voxels"].limits == (0, 25)
    counted = region_panels(Objective(absent_classes="include"), by_hand(present=present), 2)
    np.testing.assert_array_equal(counted[1].values.ravel(), [32, 35])


def test_dots_stand_at_false_positives_and_false_negatives() -> None:
    fp, fn = region_errors(by_hand())
    assert (fp.tolist(), fn.tolist()) == ([11, 12, 14, 15], [21, 22, 24, 25])


def test_the_worst_organ_is_the_one_with_the_highest_loss_that_was_met() -> None:
    """The second organ was missed whole: it is taken only where no organ was met."""
    scene = boxes()
    loss = np.zeros((1, 2, 1, 1, 3))
    loss[..., 1:] = (0.5, 1.0)
    assert worst_organ(scene, by_hand(loss=loss)) == 1
    case = scene.case
    met = from_case(replace(case, logits=8 * np.eye(3, dtype=np.float32)[case.labels]))
    assert worst_organ(met, by_hand(loss=loss)) == 2
    assert worst_organ(met, by_hand(loss=loss[..., [0, 2, 1]])) == 1
    missed = from_case(replace(case, logits=np.zeros_like(case.logits)))
    assert worst_organ(missed, by_hand(loss=loss)) == 2
    absent = np.ones(loss.shape, bool)
    absent[..., 2] = False
    assert worst_organ(missed, by_hand(loss=loss, present=absent)) == 1


def test_densities_add_up_to_all_of_the_gradient() -> None:
    """In % per ml where the grid has a length, else per voxel."""
    pull = Pull(1.0, np.random.default_rng(0).random((4, 6, 8)))
    scene = boxes()
    assert density(scene, pull).sum() == pytest.approx(100)
    metric = replace(scene, unit="mm", grid=Geometry((4, 6, 8), (5.0, 4.0, 10.0), (0.0, 0.0, 0.0)))
    assert density(metric, pull).sum() * 0.2 == pytest.approx(100)
    np.testing.assert_allclose(density(scene, pull), 100 * pull.norm / pull.norm.sum())


def test_the_plane_with_most_of_an_organ_is_drawn() -> None:
    """The first organ fills 3 x 4 voxels of an axial slice, 2 x 4 of a coronal and 2 x 3 of a sagittal one."""
    picture = picture_of(boxes())
    assert fullest_plane(picture, 1) == "axial"
    assert fullest_plane(replace(picture, spacing=(9.0, 1.0, 1.0)), 1) == "coronal"
    assert fullest_plane(replace(picture, spacing=(9.0, 9.0, 1.0)), 1) == "sagittal"


def test_more_organs_than_a_byte_counts_are_refused() -> None:
    case = Case(np.zeros((1, 2, 2, 2, 257), np.float32), np.zeros((1, 2, 2, 2), np.int32), ("organ",) * 256)
    with pytest.raises(UserError, match="found 256 organs; wanted at most 255"):
        from_case(case)
    from_case(replace(case, logits=case.logits[..., :256], organs=case.organs[:255]))


def test_a_boundary_needs_two_labels_that_count() -> None:
    labels = np.zeros((2, 2, 6), np.uint8)
    labels[..., 3:] = 1
    where = np.ones(labels.shape, bool)
    where[..., 3] = False
    assert near_boundary(labels, (1.0, 1.0, 1.0), 0.0).any()
    assert not near_boundary(labels, (1.0, 1.0, 1.0), 0.0, where).any()


def on_disk(folder: Path, name: str, direction: np.ndarray) -> StoredCase:
    """One anatomy, stored with its axes in another order or backwards."""
    image, label = (canonical(volume) for volume in ct(grid((13, 15, 21))))
    stored = []
    for volume in (image, label):
        order = [int(np.argmax(np.abs(direction[:, axis]))) for axis in range(3)]
        array = volume.array.transpose(order)
        old, origin = volume.geometry, np.array(volume.geometry.origin)
        for axis, source in enumerate(order):
            if direction[source, axis] < 0:
                array = np.flip(array, axis)
                origin[source] += (old.shape[source] - 1) * old.spacing[source]
        z, y, x = (old.spacing[source] for source in order)
        geometry = Geometry(array.shape, (z, y, x), tuple(origin.tolist()), tuple(np.ravel(direction).tolist()))
        stored.append(Volume(np.ascontiguousarray(array), geometry))
    case = StoredCase(name, folder / f"{name}.nrrd", folder / f"{name}-label.nrrd")
    for path, volume in zip((case.image, folder / f"{name}-label.nrrd"), stored, strict=True):
        write_volume(path, volume)
    return case


def test_volumes_lie_on_the_images_own_grid_however_it_is_stored(tmp_path: Path) -> None:
    """The same anatomy, stored otherwise, has the same gradient at the same points.

    Odd sides on both grids: no point lies in the middle between two voxels, where the nearest one is not defined.
    """
    network = random_network(replace(SMALL, shape=(11, 13, 17)))
    found = []
    for name in ("canonical", "permuted and flipped"):
        scene = from_run(network, on_disk(tmp_path, name, ORIENTATIONS[name]), LABELS, name)
        assert scene.grid.shape != scene.image.geometry.shape
        study(scene, Objective(regions=2), tmp_path / name)
        volume = read_volume(tmp_path / name / "gradient_region_specific.nii.gz")
        assert not mismatches(volume.geometry, scene.image.geometry)
        found.append(canonical(volume))
    first, second = found
    assert not mismatches(first.geometry, second.geometry)
    assert first.array.max() > 0
    np.testing.assert_allclose(first.array, second.array, atol=1e-3 * first.array.max())


def test_undrawn_organs_are_background(tmp_path: Path) -> None:
    network = random_network(SMALL)
    case = replace(on_disk(tmp_path, "case", np.eye(3)), unlabelled=("Ball_R",))
    scene = from_run(network, case, LABELS, "case")
    assert set(np.unique(scene.prediction)) <= {0, 1}
    assert set(np.unique(scene.case.labels)) <= {0, 1}


@pytest.mark.parametrize("form", ["values of the run", "labels.json", "from 1", "masks"])
def test_a_reference_is_read_in_every_form(form: str, tmp_path: Path) -> None:
    """Label maps with the run's values, with a table beside them, counted from 1; or one mask per organ."""
    image, label = ct(grid((12, 14, 20)))
    expected = np.where(label.array == LABELS["Ball_L"], 1, np.where(label.array == LABELS["Ball_R"], 2, 0))
    write_volume(tmp_path / "image.nii.gz", image)
    path, values = tmp_path / "labels" / "map.nii.gz", None
    if form == "masks":
        path = tmp_path / "masks"
        for organ, value in LABELS.items():
            write_volume(path / f"{organ}.nrrd", Volume((label.array == value).astype(np.uint8), label.geometry))
    elif form == "from 1":
        write_volume(path, Volume(expected.astype(np.uint8), label.geometry))
    else:
        write_volume(path, label)
        values = LABELS if form == "values of the run" else None
        if form == "labels.json":
            (tmp_path / "labels" / "labels.json").write_text(json.dumps({"Other": 9, **LABELS}))
    stored, table = stored_case(tmp_path / "image.nii.gz", path, SMALL, values)
    scene = from_run(random_network(SMALL), stored, table, "case")
    np.testing.assert_array_equal(scene.reference.array, expected)


def test_options_change_what_they_name() -> None:
    case, config = arrays(), Objective(regions=RegionSize(3), min_penalty=0.2)
    assert with_options(config, case) == config
    assert with_options(config, case, paper_regions=True).regions == SPACE
    trained = replace(case, canvas=(4, 6, 4))
    assert with_options(Objective(regions=2), trained).regions == (4, 2, 2)
    assert with_options(Objective(regions=2), trained, regions=2).regions == (2, 2, 2)
    assert with_options(config, trained) == config
    changed = with_options(config, case, regions=2, penalty_range=0.1, adaptive_gradient="through")
    assert changed == replace(config, regions=(2, 2, 2), penalty_range=0.1, adaptive_gradient="through")
    for low, width in ((-0.1, 0.4), (0.0, 0.0), (0.3, float("nan"))):
        with pytest.raises(UserError, match=r"min_penalty|penalty_range"):
            with_options(config, case, min_penalty=low, penalty_range=width)


def test_the_organ_is_one_of_the_case(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="organ: found Three; wanted one of One, Two"):
        study(from_case(arrays()), Objective(regions=2), tmp_path, "Three")
    assert not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def run(base: Path) -> SmallRun:
    return trained_run(base)


def test_the_command_takes_a_run(run: SmallRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its first validation case by default; the same case by its files gives the same numbers."""
    assert main(["gradients", "--run", str(run.folder), "--out", str(tmp_path / "out")]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "2 x 2 x 2 regions" in shown
    assert f"figures, volumes and numbers in {tmp_path / 'out'}" in shown
    name = next(iter(json.loads((run.folder / "split.json").read_text())["validation"]))
    shutil.copytree(run.data / "labels", tmp_path / "labels")
    shutil.copy(run.data / "labels.json", tmp_path / "labels")
    words = ["--image", run.data / "images" / f"{name}.nii.gz", "--labels", tmp_path / "labels" / f"{name}.nii.gz"]
    assert main(["gradients", "--run", str(run.folder), "--out", str(tmp_path / "other"), *map(str, words)]) == 0
    first, second = (json.loads((tmp_path / out / "summary.json").read_text()) for out in ("out", "other"))
    assert first.pop("source") != second.pop("source")
    assert first == second


def test_a_real_head_and_neck_case_is_shown(tmp_path: Path) -> None:
    """With the masks of its folder, by a network that knows nothing yet: figures of the whole CT."""
    folder = real_data("openkbp", "pt_201")
    organs = ("BrainStem", "SpinalCord", "Parotid_L", "Parotid_R", "Mandible")
    plan = replace(PLAN, labels=organs, pairs=(), shape=(24, 24, 32), whole=(32, 32, 32))
    stored, table = stored_case(folder / "img.nrrd", folder / "structures", plan, None)
    scene = from_run(random_network(plan), stored, table, "pt_201")
    summary = study(scene, Objective(regions=(3, 5, 4)), tmp_path, "Mandible")
    assert summary["regions"]["organs"]["Mandible"]["present"] > 1
    geometry = read_geometry(folder / "img.nrrd")
    assert not mismatches(read_geometry(tmp_path / "gradient_baseline.nii.gz"), geometry)
