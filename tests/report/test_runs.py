import json
from pathlib import Path

import pytest

from ars_jax.errors import UserError
from ars_jax.metrics.table import Row
from ars_jax.report.runs import latest_steps, read_metrics, read_run, read_runs, run_names
from tests.report.fake_runs import ORGANS, make_unevaluated, write_rows


def metrics_file(folder: Path, *texts: str) -> Path:
    path = folder / "metrics.jsonl"
    path.write_text("\n".join(texts))
    return path


def train(step: int, loss: float = 1.0) -> str:
    return json.dumps({"kind": "train", "step": step, "epoch": step / 10, "loss": loss, "parts": {}})


def test_interrupted_last_line_is_left_out(tmp_path: Path) -> None:
    path = metrics_file(tmp_path, train(1), train(2), '{"kind": "train", "st')
    assert [line["step"] for line in read_metrics(path)] == [1, 2]


@pytest.mark.parametrize(
    "broken",
    ['{"kind": "train", "st', "[]", '{"step": 2}', '{"kind": "train"}', '{"kind": "train", "step": 2, "parts": 3}'],
)
def test_broken_middle_line_is_named_by_file_and_number(tmp_path: Path, broken: str) -> None:
    path = metrics_file(tmp_path, train(1), broken, train(3))
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2:"):
        read_metrics(path)


def test_steps_done_again_after_a_resume_replace_the_first_ones() -> None:
    lines = [{"kind": "train", "step": step, "loss": loss} for step, loss in ((1, 9), (2, 8), (3, 7), (2, 6), (3, 5))]
    assert [(line["step"], line["loss"]) for line in latest_steps(lines, "train")] == [(1, 9), (2, 6), (3, 5)]


@pytest.mark.parametrize("kind", ["train", "validation"])
def test_what_came_after_the_step_that_was_gone_on_from_is_left_out(kind: str) -> None:
    """Its checkpoint was not there any more; what is recorded anew is all that counts, though there is less of it."""
    steps = [{"kind": kind, "step": step} for step in (1, 2, 3)]
    lines = [{"kind": "start", "step": 0}, *steps, {"kind": "start", "step": 1}, {"kind": "stall", "step": 3}]
    assert [line["step"] for line in latest_steps(lines, kind)] == [1]
    assert [line["step"] for line in latest_steps([*lines, steps[1]], kind)] == [1, 2]
    assert latest_steps([*lines, {"kind": "start", "step": 0}], kind) == ()


@pytest.mark.parametrize("missing", ["config.yaml", "plan.json", "metrics.jsonl"])
def test_folder_that_is_no_run_is_one_line(tmp_path: Path, missing: str) -> None:
    run = make_unevaluated(tmp_path / "run", epochs=0)
    (run / missing).unlink()
    with pytest.raises(UserError, match=f"found no {missing}; wanted a run folder") as caught:
        read_run(run, "run")
    assert "\n" not in str(caught.value)


def test_absent_folder_broken_configuration_and_broken_evaluation_are_user_errors(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for name in ("nowhere", "loop"):
        with pytest.raises(UserError, match="no such folder"):
            read_runs([tmp_path / name])
    run = make_unevaluated(tmp_path / "run", epochs=0)
    (run / "evaluation").mkdir()
    (run / "evaluation" / "table.json").write_text("{")
    with pytest.raises(UserError, match=r"table\.json"):
        read_runs([run])
    (run / "config.yaml").write_text("loss: [1")
    with pytest.raises(UserError, match=r"config\.yaml"):
        read_runs([run])


def make_evaluated(folder: Path) -> Path:
    run = make_unevaluated(folder, epochs=0)
    write_rows(run, [Row("a", "Ball", "ok", 0.9, 0.9, 0.9, 1.0, 1.0, 1.0, 1.0, "monai")])
    assert read_runs([run])[0].evaluation is not None
    return run


DEEP, LONG = "[" * 100_000, "9" * 5000


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.yaml", f"train: {{epochs: {LONG}}}"),
        ("config.yaml", "a: &a [ha, ha]\nb: [*a, *a]"),
        ("metrics.jsonl", f"{DEEP}\n{train(1)}"),
        ("metrics.jsonl", f"{LONG}\n{train(1)}"),
        ("evaluation/table.json", DEEP),
        ("evaluation/cases.json", DEEP),
        ("evaluation/cases.json", "3"),
    ],
    ids=["long number", "alias", "deep line", "long line", "deep table", "deep cases", "no cases"],
)
def test_files_that_no_run_wrote_are_user_errors(tmp_path: Path, name: str, text: str) -> None:
    run = make_evaluated(tmp_path / "run")
    (run / name).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=name.replace(".", r"\.")):
        read_runs([run])


@pytest.mark.parametrize("value", [{"a": 1}, "1", [1], 10**400, None], ids=["table", "text", "list", "huge", "none"])
def test_a_measure_that_is_no_number_is_a_user_error(tmp_path: Path, value: object) -> None:
    run = make_evaluated(tmp_path / "run")
    path = run / "evaluation" / "table.json"
    table = json.loads(path.read_text(encoding="utf-8"))
    table["rows"][0]["volume_prediction_ml"] = value
    path.write_text(json.dumps(table), encoding="utf-8")
    with pytest.raises(UserError, match=r"table\.json: found .*volume_prediction_ml"):
        read_runs([run])


def test_no_run_and_one_run_twice_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run folder"):
        read_runs([])
    run = make_unevaluated(tmp_path / "run", epochs=0)
    with pytest.raises(UserError, match="twice"):
        read_runs([run, run / ".." / "run"])


def test_runs_of_one_name_are_told_apart() -> None:
    folders = [Path("/a/monday/ars"), Path("/a/tuesday/ars"), Path("/a/tuesday/base")]
    assert run_names(folders) == ["monday/ars", "tuesday/ars", "base"]


def test_run_is_read_in_full(tmp_path: Path) -> None:
    (run,) = read_runs([make_unevaluated(tmp_path / "run", epochs=10)])
    assert run.plan.labels == ORGANS
    assert (len(run.training), len(run.validation), len(run.sessions), len(run.ends)) == (100, 2, 1, 1)
    assert run.config["data"]["root"] == "/data/heads"
    assert run.evaluation is None
