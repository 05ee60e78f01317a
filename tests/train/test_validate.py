"""The scores of a validation."""

import numpy as np
import pytest

from ars_jax.data.plan import Sample
from ars_jax.train import validate
from tests.data.synthetic import PLAN
from tests.small_runs import random_network


def sample(name: str, channels: list[int], labelled: list[bool]) -> Sample:
    return Sample(name, np.zeros((1, 1, 4), np.float32), np.array([[channels]], np.uint8), np.array(labelled))


def test_validation_averages_over_the_cases_that_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """An organ counts where it is drawn or predicted, and nowhere where the case says that nobody drew it."""
    predictions = iter([[1, 1, 2, 0], [0, 0, 0, 0], [1, 2, 2, 2]])
    monkeypatch.setattr(validate, "predict_array", lambda network, image: np.array([[next(predictions)]], np.uint8))
    every = [True, True, True]
    samples = [
        sample("both", [1, 0, 2, 2], every),  # DSC 2/3 and 2/3
        sample("only the first organ, missed", [1, 1, 0, 0], every),  # DSC 0, and no second organ
        sample("second organ not drawn", [1, 1, 0, 0], [True, True, False]),  # DSC 2/3
    ]
    places = []
    scores = validate.validate(random_network(PLAN), samples, places.append)
    assert places[:3] == [f"validating {one.name}" for one in samples]
    assert scores["dsc"] == pytest.approx({"Ball_L": 4 / 9, "Ball_R": 2 / 3})
    assert scores["mean_dsc"] == pytest.approx(5 / 9)


def test_validation_without_any_organ_has_no_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validate, "predict_array", lambda network, image: np.zeros((1, 1, 4), np.uint8))
    scores = validate.validate(random_network(PLAN), [sample("empty", [0, 0, 0, 0], [True, True, True])])
    assert scores == {"dsc": {"Ball_L": None, "Ball_R": None}, "mean_dsc": None}


def test_cases_that_processes_share_are_averaged_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sums, and so the last digits, are those of one process."""
    rng = np.random.default_rng(0)
    samples = [sample(str(number), rng.integers(0, 3, 4).tolist(), [True, True, number != 3]) for number in range(50)]
    predictions = {id(one.image): rng.integers(0, 3, (1, 1, 4)).astype(np.uint8) for one in samples}
    monkeypatch.setattr(validate, "predict_array", lambda network, image: predictions[id(image)])
    alone = validate.validate(random_network(PLAN), samples)
    of_each = []
    monkeypatch.setattr(validate, "gather", lambda scores: of_each.append(scores) or [])
    for process in range(3):
        validate.validate(random_network(PLAN), samples[process::3])
    monkeypatch.setattr(validate, "gather", lambda scores: of_each)
    assert validate.validate(random_network(PLAN), samples[::3]) == alone
