import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure
from matplotlib.text import Text

from ars_jax.data.volumes import Volume, read_volume, write_volume
from ars_jax.errors import UserError
from ars_jax.metrics.table import Row
from ars_jax.report import ablations
from ars_jax.report.experiments import draw_experiment
from ars_jax.report.gallery import overlay_figures, slice_figure
from ars_jax.report.overlays import Picture
from ars_jax.report.results import Arm, Results, read_results
from ars_jax.report.seed_curves import median_trial
from ars_jax.report.style import organ_colour
from ars_jax.report.tables import case_means
from tests.report.fake_arms import made_arm
from tests.report.fake_experiments import PAPER, make_experiment


@pytest.fixture(scope="module")
def experiment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("figures") / "heads"
    return make_experiment(folder, PAPER, seeds=(0, 1), cases=("north", "south"), epochs=5)


def texts(figure: Figure) -> list[str]:
    return [artist.get_text() for artist in figure.artists if isinstance(artist, Text)]


def test_every_arm_is_shown_in_the_slice_of_the_reference_with_its_dsc(experiment: Path) -> None:
    arms = read_results(experiment).arms
    figures = dict(overlay_figures(arms))
    assert set(figures) == {"overlays_north", "overlays_south"}
    for name, figure in figures.items():
        case = name.removeprefix("overlays_")
        pixels = [np.asarray(panel.images[0].get_array()) for panel in figure.axes]
        assert len(pixels) == 1 + len(arms)
        assert all(np.array_equal(part, pixels[0]) for part in pixels)
        trials = [median_trial(arm, case) for arm in arms]
        for arm, trial in zip(arms, trials, strict=True):
            assert trial is not None and trial.run.evaluation is not None
            expected = f"DSC {case_means(trial.run.evaluation)[case]:.3f}, seed {trial.seed}"
            assert expected in texts(figure)
            assert arm.name in texts(figure)
    means = {case: np.mean([row.dsc or 0 for row in rows_of(arms[1], case)]) for case in ("north", "south")}
    for rank, case in zip(("worst", "best"), sorted(means, key=lambda case: means[case]), strict=True):
        assert texts(figures[f"overlays_{case}"])[0].startswith(f"{case}, {rank} case of B+RS; ")


def test_title_outline_and_note_of_a_panel_are_of_one_arm(experiment: Path, tmp_path: Path) -> None:
    """Each arm is made to find one organ only, so that the outline's colour tells whose it is."""
    folder = tmp_path / "heads"
    shutil.copytree(experiment, folder)
    arms = read_results(folder).arms
    for channel, arm in enumerate(arms, start=1):
        for trial in arm.trials:
            for files in trial.run.evaluation.files.values() if trial.run.evaluation else ():
                reference = read_volume(files["reference"])
                only = np.where(reference.array == channel, channel, 0).astype(np.uint8)
                write_volume(files["prediction"], Volume(only, reference.geometry))
    for name, figure in overlay_figures(arms):
        for channel, (arm, panel) in enumerate(zip(arms, figure.axes[1:], strict=True), start=1):
            drawn = [part for part in panel.collections if isinstance(part, ContourSet) and not part.filled]
            colours = [to_hex(colour) for part in drawn for colour in np.asarray(part.get_edgecolor()).tolist()]
            assert colours == [to_hex(organ_colour(channel - 1))], arm.name
            trial = median_trial(arm, name.removeprefix("overlays_"))
            assert trial is not None and trial.run.evaluation is not None
            dsc = case_means(trial.run.evaluation)[name.removeprefix("overlays_")]
            above, below = beside(figure, panel)
            assert (above, below) == (arm.name, f"DSC {dsc:.3f}, seed {trial.seed}")


def beside(figure: Figure, panel: Axes) -> tuple[str, str]:
    """The texts next above and next below a panel, in its middle."""
    box = panel.get_position()
    column = [
        (artist.get_position()[1], artist.get_text())
        for artist in figure.artists
        if isinstance(artist, Text)
        and artist.get_text()
        and abs(artist.get_position()[0] - box.x0 - box.width / 2) < 0.01
    ]
    above = min(it for it in column if it[0] > box.y1)
    below = max(it for it in column if it[0] < box.y0)
    return above[1], below[1]


def rows_of(arm: Arm, case: str) -> list[Row]:
    evaluations = [trial.run.evaluation for trial in arm.trials]
    return [row for evaluation in evaluations if evaluation for row in evaluation.rows if row.case == case]


def test_the_view_holds_what_was_invented_far_away() -> None:
    reference, prediction = np.zeros((2, 3, 60, 80), np.uint8)
    reference[1, 10:14, 10:14] = 1
    prediction[1, 50:54, 70:74] = 1
    prediction[0, 30, 40] = 1
    picture = Picture(reference.astype(np.float32), reference, (prediction,), (1.0, 1.0, 1.0), (0.0, 1.0))
    figure = slice_figure(picture, ["liver"], "", ["B"], [""])
    assert np.asarray(figure.axes[0].images[0].get_array()).shape == (60, 80)
    figure = slice_figure(replace(picture, predictions=(None,)), ["liver"], "", ["B"], ["x"])
    assert np.asarray(figure.axes[0].images[0].get_array()).shape == (34, 34)
    assert "x, no prediction kept" in texts(figure)


def test_names_are_shown_letter_by_letter() -> None:
    labels = np.ones((1, 40, 8), np.uint8)
    picture = Picture(labels.astype(np.float32), labels, (labels,), (1.0, 1.0, 1.0), (0.0, 1.0))
    figure = slice_figure(picture, ["$x$"], "$x$", ["a long name, of many settings, on two lines"], ["$x$"])
    assert "a long name, of many settings, on two lines" in [text.replace("\n", " ") for text in texts(figure)]
    shown = [*(artist for artist in figure.artists if isinstance(artist, Text)), *figure.legends[0].get_texts()]
    assert not any(text.get_parse_math() for text in shown)


def test_all_figures_are_files_and_old_ones_go(experiment: Path, tmp_path: Path) -> None:
    kept, old = tmp_path / "notes.png", tmp_path / "overlays_who_was_worst_before.png"
    for path in (kept, old):
        path.touch()
    written = draw_experiment(read_results(experiment), tmp_path)
    names = ("validation_curves", "overlays_north", "overlays_south")
    assert {path.name for path in written} == {f"{name}.{ending}" for name in names for ending in ("png", "pdf")}
    assert {path for path in tmp_path.iterdir() if path.stat().st_size} == set(written)
    assert kept.exists() and not old.exists()


def test_figures_of_numbers_are_there_though_the_images_are_not(
    experiment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablations, "FIGURES", (lambda arms: {"division_curve": Figure((1, 1))},))
    image = experiment / "cases" / "south-image.nii.gz"
    image.rename(tmp_path / "moved")
    try:
        with pytest.raises(UserError, match=r"south-image\.nii\.gz"):
            draw_experiment(read_results(experiment), tmp_path / "out")
    finally:
        (tmp_path / "moved").rename(image)
    assert (tmp_path / "out" / "division_curve.pdf").is_file()


def test_an_experiment_without_a_finished_run_has_no_figure(tmp_path: Path) -> None:
    arms = (made_arm("B", "baseline", []),)
    assert draw_experiment(Results("", tmp_path, arms), tmp_path / "out") == []


def test_missing_matplotlib_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"no matplotlib.*pip install matplotlib"):
        draw_experiment(Results("", tmp_path, ()), tmp_path)
