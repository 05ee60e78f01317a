import dataclasses
import json

import pytest

from ars_jax.data.plan import Plan, read_plan, write_plan
from ars_jax.errors import UserError
from tests.data.synthetic import PLAN


@pytest.mark.parametrize(
    "plan",
    [
        PLAN,
        Plan(("A", "B", "C"), (("A", "C"),), "body", -300, 0, (1.5, 1.5, 1.5), canvas=(32, 48, 64), patch=(16, 16, 16)),
    ],
)
def test_a_plan_survives_writing_and_reading(tmp_path, plan):
    write_plan(tmp_path / "run" / "plan.json", plan)
    assert read_plan(tmp_path / "run" / "plan.json") == plan
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["plan.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"spacings": 1}, "unknown key spacings"),
        ({"crop": None}, "crop: found null"),
        ({"crop": "head"}, 'crop: found "head"'),
        ({"multiple": 16.5}, "multiple: found 16.5"),
        ({"multiple": True}, "multiple: found true"),
        ({"crop_margin_mm": True}, "crop_margin_mm: found true"),
        ({"spacing": [1, 2]}, r"spacing: found \[1, 2\]"),
        ({"spacing": "1"}, 'spacing: found "1"'),
        ({"pairs": [["Ball_L"]]}, "pairs: found"),
        ({"canvas": [16, 16, 17]}, r"canvas: found \(16, 16, 17\); wanted multiples of 16; .*\[16, 16, 32\]"),
        ({"window": [3, 3]}, "window: found"),
        ({"spacing": [1, 1, 1], "shape": [4, 4, 4]}, "at most one"),
        ({"spacing": [1, 0, 1]}, "three positive numbers"),
        ({"pairs": [["Ball_L", "Nose"]]}, "pairs of different organs"),
        ({"labels": []}, "labels: found"),
    ],
)
def test_a_faulty_plan_is_named_by_its_key(tmp_path, change, message):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(dataclasses.asdict(PLAN) | change))
    with pytest.raises(UserError, match=message):
        read_plan(path)


def test_a_plan_with_a_missing_key_is_a_user_error(tmp_path):
    values = dataclasses.asdict(PLAN)
    del values["window"]
    (tmp_path / "plan.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match=r"plan\.json: found no key window"):
        read_plan(tmp_path / "plan.json")


@pytest.mark.parametrize("text", ["{", "[]", None])
def test_an_unreadable_plan_is_a_user_error(tmp_path, text):
    if text is not None:
        (tmp_path / "plan.json").write_text(text)
    with pytest.raises(UserError, match=r"plan\.json: found"):
        read_plan(tmp_path / "plan.json")
