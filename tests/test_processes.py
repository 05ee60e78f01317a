"""Several processes as one run: what is refused before any of them waits for another."""

from typing import Any

import pytest

from ars_jax.errors import UserError
from ars_jax.processes import barrier, check_launch, ended_together, from_first, gather, is_first, joined

HERE = "localhost:1234"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"coordinator": HERE}, "--processes, --process: found nothing"),
        ({"processes": 2, "process": 0}, "--coordinator: found nothing"),
        ({"coordinator": "localhost", "processes": 2, "process": 0}, "--coordinator: found localhost"),
        ({"coordinator": "localhost:99999", "processes": 2, "process": 0}, "--coordinator: found localhost:99999"),
        ({"coordinator": HERE, "processes": 0, "process": 0}, "--processes: found 0"),
        ({"coordinator": HERE, "processes": 2, "process": 2}, "--process: found 2; wanted 0 to 1"),
        ({"coordinator": HERE, "processes": 2, "process": -1}, "--process: found -1"),
        ({"automatic": True, "process": 1}, "--distributed: found --process as well"),
    ],
)
def test_arguments_that_do_not_fit_are_named(given: dict[str, Any], named: str) -> None:
    every: dict[str, Any] = {"coordinator": None, "processes": None, "process": None, "automatic": False}
    with pytest.raises(UserError) as error:
        check_launch(**{**every, **given})
    assert str(error.value).startswith(named)


@pytest.mark.parametrize("timeout", [0, -1, float("inf"), float("nan"), 1e7])
def test_nobody_waits_for_ever(timeout: float) -> None:
    with pytest.raises(UserError, match=r"^--join_timeout: found "), joined(automatic=True, timeout=timeout):
        pass


def test_given_processes_keep_their_devices() -> None:
    """Also within a cluster, which would give each of them one."""
    arguments = check_launch(HERE, 2, 1, automatic=False)
    assert arguments is not None
    assert arguments["cluster_detection_method"] == "deactivate"
    assert (arguments["num_processes"], arguments["process_id"]) == (2, 1)


def test_a_process_alone_waits_for_nobody_and_keeps_its_errors() -> None:
    with joined():
        assert is_first()
        assert gather({"a": 0.1}) == [{"a": 0.1}]
        assert from_first(lambda: "made") == "made"
        barrier()
    with pytest.raises(KeyboardInterrupt), joined(), ended_together():
        raise KeyboardInterrupt
