from collections.abc import Sequence

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from ars_jax.metrics.table import MEAN
from ars_jax.report.ablations import division_figures, range_figures, validation_figures
from ars_jax.report.bands import MOST_LINES, slug
from ars_jax.report.results import Arm
from ars_jax.report.tables import TIMES
from tests.objectives import ARS, RS
from tests.report.fake_arms import made_arm, made_trial

ORGANS = ("liver", "spleen")
UNLIKE = f"4{TIMES}4{TIMES}5"


def trained(name: str, objective: str, end: float, seeds: int = 2) -> Arm:
    """An arm whose DSC rises to about `end` over four validations."""
    trials = []
    for seed in range(seeds):
        rise = {epoch: end * (1 - 0.5**epoch) + 0.02 * seed for epoch in range(1, 5)}
        validation = {epoch: {"liver": dsc, "spleen": dsc / 2} for epoch, dsc in rise.items()}
        trials.append(made_trial(seed, {"a": {"liver": end, "spleen": end}}, validation=validation))
    return made_arm(name, objective, trials)


def scored(name: str, objective: str, dsc: Sequence[float], **settings: object) -> Arm:
    """An arm with one DSC per seed."""
    trials = [made_trial(seed, {"a": {"liver": value, "spleen": value}}) for seed, value in enumerate(dsc)]
    return made_arm(name, objective, trials, **settings)


def titles(figure: Figure) -> list[str]:
    return [panel.get_title(loc="left") for panel in figure.axes]


def lines_of(panel: Axes) -> dict[str, np.ndarray]:
    """Name of a line to its points [n, 2]."""
    return {str(line.get_label()): np.asarray(line.get_xydata()) for line in panel.lines}


def edges(panel: Axes) -> list[np.ndarray]:
    """Corners [n, 2] of each band."""
    bands = [part for part in panel.collections if isinstance(part, PolyCollection)]
    return [np.asarray(path.vertices) for band in bands for path in band.get_paths()]


def test_lines_are_the_mean_over_seeds_and_bands_one_standard_deviation() -> None:
    (figure,) = validation_figures([trained("B", "baseline", 0.8)]).values()
    assert titles(figure) == [MEAN, *ORGANS]
    points = lines_of(figure.axes[1])["B"]
    expected = [0.8 * (1 - 0.5**epoch) + 0.01 for epoch in range(1, 5)]
    assert np.allclose(points, np.transpose([range(1, 5), expected]))
    (band,) = edges(figure.axes[1])
    spread = 0.02 / np.sqrt(2)
    for epoch, mean in zip(range(1, 5), expected, strict=True):
        of_epoch = band[band[:, 0] == epoch, 1]
        assert (of_epoch.min(), of_epoch.max()) == pytest.approx((mean - spread, mean + spread))


def test_one_seed_has_no_band_and_a_lone_organ_no_panel_of_its_own() -> None:
    (figure,) = validation_figures([trained("B", "baseline", 0.8, seeds=1)]).values()
    assert not edges(figure.axes[0])
    liver = made_trial(0, {"a": {"liver": 0.5}}, validation={1: {"liver": 0.5}})
    (figure,) = validation_figures([made_arm("B", "baseline", [liver])]).values()
    assert titles(figure) == [MEAN]


def test_a_single_validation_is_a_mark_for_the_reference_too() -> None:
    once = [
        made_arm(f"{name} {grid}", name, [made_trial(0, {"a": {"liver": 0.5}}, validation={1: {"liver": 0.5}})])
        for name, count in (("baseline", 1), (RS, 5), (ARS, 5))
        for grid in range(count)
    ]
    figure = validation_figures(once)["validation_curves"]
    grey = [line for panel in figure.axes for line in panel.lines if line.get_label() == "baseline 0"]
    assert len(grey) == 2, "one in each objective's panel"
    for panel in figure.axes:
        assert all(line.get_marker() == "o" for line in panel.lines)


MANY = [
    *(trained(name, name, 0.5) for name in ("cross_entropy", "baseline")),
    *(trained(f"B+RS, DC {grid}", RS, 0.6) for grid in range(1, 5)),
    *(trained(f"B+ARS, DC {grid}", ARS, 0.05 * grid) for grid in range(1, 11)),
]


@pytest.fixture(scope="module")
def figures() -> dict[str, Figure]:
    return validation_figures(MANY)


@pytest.fixture
def panels(figures: dict[str, Figure]) -> list[Axes]:
    return figures["validation_curves"].axes


def test_many_arms_have_a_panel_per_objective_with_the_baseline_in_each(
    figures: dict[str, Figure], panels: list[Axes]
) -> None:
    groups = ["single arms", "B+RS", "B+ARS (1 of 2)", "B+ARS (2 of 2)"]
    assert titles(figures["validation_curves"]) == groups
    assert list(figures) == ["validation_curves", *(f"validation_curves_{slug(group)}" for group in groups)]
    drawn = [name for panel in panels for name in lines_of(panel)]
    assert {arm.name for arm in MANY} == set(drawn)
    assert [drawn.count(arm.name) for arm in MANY] == [1, 4, *[1] * 14]
    assert max(len(panel.lines) for panel in panels) == MOST_LINES + 1


def test_panels_that_are_compared_share_an_axis_on_which_every_band_ends(panels: list[Axes]) -> None:
    assert len({panel.get_ylim() for panel in panels}) == 1
    low, high = panels[0].get_ylim()
    for panel in panels:
        for band in edges(panel):
            last = band[band[:, 0] == 4, 1]
            assert low <= last.mean() and last.max() <= high


def test_no_two_lines_of_a_panel_look_alike(panels: list[Axes]) -> None:
    for panel in panels:
        looks = [(to_hex(line.get_color()), str(line._dash_pattern)) for line in panel.lines]  # type: ignore[attr-defined]
        assert len(set(looks)) == len(looks)


def test_arms_that_lack_seeds_say_how_many_they_have() -> None:
    arms = [trained("B", "baseline", 0.5), trained("D", "dice", 0.5, seeds=1), made_arm("C", "cross_entropy", [])]
    (figure,) = validation_figures(arms).values()
    assert list(lines_of(figure.axes[0])) == ["B (n = 2)", "D (n = 1)"]


def test_nothing_to_draw_is_no_figure() -> None:
    arms = [made_arm("B", "baseline", []), scored("D", "dice", [0.5])]
    assert validation_figures(arms) == division_figures(arms) == range_figures(arms) == {}


def divided(name: str, objective: str, dsc: Sequence[float], grid: object, **settings: object) -> Arm:
    return scored(name, objective, dsc, loss_regions=grid, **settings)


def test_division_curve_lies_at_the_coefficients_in_order_beside_the_baseline() -> None:
    arms = [
        scored("B", "baseline", [0.4, 0.6]),
        divided("B+RS, DC 16", RS, [0.7, 0.8], 16),
        divided("B+RS, DC 2", RS, [0.6], [2, 2, 2]),
        divided("B+ARS, DC 2", ARS, [0.9], 2),
        divided(f"B+ARS, DC {UNLIKE}", ARS, [0.8], [4, 4, 5]),
    ]
    (figure,) = division_figures(arms).values()
    assert titles(figure) == [MEAN, *ORGANS]
    assert figure.axes[0].get_xlabel().endswith("not to scale")
    for panel in figure.axes:
        assert [label.get_text() for label in panel.get_xticklabels()] == ["2", UNLIKE, "16"]
        lines = lines_of(panel)
        assert np.allclose(lines["B+RS (n = 2)"], [[0, 0.6], [2, 0.75]])
        assert np.allclose(lines["B+ARS (n = 1)"], [[0, 0.9], [1, 0.8]])
        assert np.allclose(lines["B (n = 2)"], [[0, 0.5], [2, 0.5]])


def test_arms_that_differ_in_more_than_the_grid_are_lines_of_their_own() -> None:
    arms = [
        divided(f"B+ARS, DC {grid}, {mode}", ARS, [0.5], grid, loss_adaptive_gradient=mode)
        for grid in (2, 4)
        for mode in ("through", "stop")
    ]
    (figure,) = division_figures(arms).values()
    assert list(lines_of(figure.axes[0])) == ["B+ARS, through", "B+ARS, stop"]
    assert not division_figures(arms[:2])


def test_small_differences_are_not_blown_up() -> None:
    arms = [divided(f"DC {grid}", RS, [0.5 + grid / 1e5], grid) for grid in (1, 2, 4)]
    (figure,) = division_figures(arms).values()
    assert all(np.ptp(panel.get_ylim()) > 0.0199 for panel in figure.axes)


def test_range_rows_show_every_seed_its_mean_and_the_baseline() -> None:
    arms = [
        scored("B", "baseline", [0.1, 0.3]),
        scored("B+ARS, [0.3, 0.7]", ARS, [0.5, 0.7], loss_min_penalty=0.3),
        scored("B+ARS, [0.1, 0.5]", ARS, [0.8, 0.9], loss_min_penalty=0.1),
    ]
    (figure,) = range_figures(arms).values()
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["[0.1, 0.5]", "[0.3, 0.7]"]
    assert [list(np.asarray(line.get_xdata())) for line in left.lines] == [[0.1, 0.5], [0.3, pytest.approx(0.7)]]
    drawn = [(np.asarray(line.get_xdata(), dtype=float), float(np.ravel(line.get_ydata())[0])) for line in right.lines]
    for row, values in enumerate([(0.8, 0.9), (0.5, 0.7)]):
        of_row = [list(x) for x, y in drawn[:-1] if y == row]
        spread = np.std(values, ddof=1)
        ends = [np.mean(values) - spread, np.mean(values) + spread]
        assert of_row == [list(values), pytest.approx(ends), [pytest.approx(np.mean(values))]]
    assert drawn[-1][0] == pytest.approx(0.2)
    low, high = right.get_xlim()
    assert low < 0.2 - np.std([0.1, 0.3], ddof=1) and high > 0.9


def test_modes_share_a_row_without_covering_each_other() -> None:
    arms = [
        scored(
            f"B+ARS, [{a}, 0.9], {mode}",
            ARS,
            [0.5],
            loss_min_penalty=a,
            loss_penalty_range=b,
            loss_adaptive_gradient=mode,
        )
        for a in (0.1, 0.3)
        for mode, b in (("through", 0.9 - a), ("stop", round(0.9 - a, 9)))
    ]
    (figure,) = range_figures(arms).values()
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["[0.1, 0.9]", "[0.3, 0.9]"]
    heights = sorted({float(np.ravel(line.get_ydata())[0]) for line in figure.axes[1].lines})
    assert len(heights) == 4
    assert [round(height) for height in heights] == [0, 0, 1, 1]


def test_names_make_file_names() -> None:
    assert slug("B+ARS (1 of 2)") == "B+ARS_1_of_2"
    assert slug("../sick/örgan$") == "sick_örgan"
    assert slug("???") == "_"
