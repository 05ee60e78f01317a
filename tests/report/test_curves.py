from pathlib import Path

import numpy as np
from matplotlib.colors import to_hex

from ars_jax.report.curves import binned, loss_figure, validation_figure
from ars_jax.report.facts import duration
from ars_jax.report.runs import read_runs
from ars_jax.report.style import run_colour
from tests.report.fake_runs import ORGANS, make_unevaluated


def test_every_part_and_every_organ_has_a_panel_with_all_runs(tmp_path: Path) -> None:
    runs = read_runs([make_unevaluated(tmp_path / name, epochs=10) for name in ("a", "b")])
    losses, dsc = loss_figure(runs), validation_figure(runs)
    assert losses is not None and dsc is not None
    assert [panel.get_title(loc="left") for panel in losses.axes] == ["total loss", "dice", "cross entropy"]
    assert [panel.get_title(loc="left") for panel in dsc.axes] == ["mean of all organs", *ORGANS]
    for panel in (*losses.axes, *dsc.axes[1:]):
        assert [to_hex(line.get_color()).upper() for line in panel.lines] == [run_colour(0), run_colour(1)]


def test_curves_are_the_recorded_numbers(tmp_path: Path) -> None:
    (run,) = runs = read_runs([make_unevaluated(tmp_path / "run", epochs=10)])
    figure = validation_figure(runs)
    assert figure is not None
    organ = figure.axes[1].lines[0]
    assert list(np.asarray(organ.get_xdata())) == [line["epoch"] for line in run.validation]
    assert list(np.asarray(organ.get_ydata())) == [line["dsc"][ORGANS[0]] for line in run.validation]


def test_binning_keeps_mean_and_range() -> None:
    values = np.random.default_rng(1).normal(size=1000)
    points = np.stack([np.arange(1000.0), values], axis=1)
    times, means, low, high = binned(points, 100)
    assert np.allclose(means, values.reshape(100, 10).mean(1))
    assert np.allclose(times, np.arange(1000.0).reshape(100, 10).mean(1))
    assert low.min() == values.min()
    assert high.max() == values.max()


def test_few_points_are_kept_as_they_are() -> None:
    points = np.array([[0.0, 3.0], [1.0, 2.0]])
    times, means, *_ = binned(points)
    assert np.array_equal(np.stack([times, means], axis=1), points)
    assert all(part.size == 0 for part in binned(np.empty((0, 2))))


def test_durations_are_written_as_people_say_them() -> None:
    spoken = [duration(seconds).replace("\N{NO-BREAK SPACE}", " ") for seconds in (8.44, 59.97, 750, 3599.6, 7500)]
    assert spoken == ["8.4 s", "1 min 00 s", "12 min 30 s", "1 h 00 min", "2 h 05 min"]
