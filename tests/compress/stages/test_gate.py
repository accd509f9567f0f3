import json

import numpy as np
import pytest

from compress.core.stage import Entry, StageCall
from compress.stages.gate import PREDICTIONS, GateConfig, gate

NUM = 200


def flags(num_wrong):
    return np.array([0] * num_wrong + [1] * (NUM - num_wrong), dtype=np.uint8)


def run(tmp_path, wrong=None, speedup=(2.0, 1.8, 2.2), max_abs=1e-5, cascade_ratio=1.6, cascade_low=1.2, **options):
    wrong = {"teacher": 4, "student": 5} | (wrong or {})
    path = tmp_path / PREDICTIONS
    np.savez(path, labels=np.zeros(NUM), **{f"correct_{name}": flags(num) for name, num in wrong.items()})
    value, low, high = speedup
    report = {
        "ratios": {
            "student": {"macs": 4.0, "latency/onnxruntime/b32": {"value": value, "low": low, "high": high}},
            "cascade": {
                "macs": cascade_ratio,
                "latency/onnxruntime/b32": {"value": 1.3, "low": cascade_low, "high": 1.4},
            },
        },
        "parity": {"max_abs": max_abs, "top1_agree": 1.0},
    }
    evaluation = Entry(ref="evaluate-1", report=report, files={PREDICTIONS: path})
    result = gate(StageCall(config=GateConfig(**options), parents={"evaluation": evaluation}, scratch=tmp_path))
    assert json.loads(json.dumps(result.report)) == result.report
    assert all(reason.endswith(".") and reason[0].isupper() for reason in result.report["reasons"])
    assert len(result.report["reasons"]) == len(result.report["checks"])
    return result.report


def check(report, name):
    return next(check for check in report["checks"] if check["name"] == name)


def test_a_good_model_passes(tmp_path):
    report = run(tmp_path)
    assert report["passed"] is True
    assert [check["name"] for check in report["checks"]] == ["accuracy_drop", "speedup", "parity"]
    assert check(report, "accuracy_drop")["value"] == pytest.approx(0.005)
    assert check(report, "speedup")["interval"] == [1.8, 2.2]
    assert (report["int8"], report["cascade"]) == ("absent", "absent")


def test_a_drop_of_exactly_the_limit_passes_and_one_more_error_fails(tmp_path):
    assert run(tmp_path, {"student": 6})["passed"] is True
    report = run(tmp_path, {"student": 7})
    assert report["passed"] is False
    assert "breaks the limit" in report["reasons"][0]
    assert "98.00 % to 96.50 %" in report["reasons"][0]


def test_the_bound_asks_for_more_than_the_point(tmp_path):
    assert run(tmp_path, accuracy_rule="lower_bound")["passed"] is False
    report = run(tmp_path, accuracy_rule="lower_bound", accuracy_drop_max=0.03)
    assert report["passed"] is True
    assert 0.005 < check(report, "accuracy_drop")["value"] < 0.03


def test_the_lower_end_of_the_speedup_counts(tmp_path):
    report = run(tmp_path, speedup=(1.6, 1.4, 1.8))
    assert report["passed"] is False
    assert check(report, "speedup")["passed"] is False
    assert run(tmp_path, speedup=(1.6, 1.5, 1.8))["passed"] is True


def test_a_speedup_that_was_not_measured_is_not_granted(tmp_path):
    report = run(tmp_path, speedup_runtime="torch/b1")
    assert report["passed"] is False
    assert check(report, "speedup")["value"] is None
    assert "onnxruntime/b32" in report["reasons"][1]


def test_parity_counts(tmp_path):
    assert run(tmp_path, max_abs=0.1)["passed"] is False
    assert run(tmp_path, max_abs=0.1, parity_max=0.2)["passed"] is True


def test_bad_extras_are_demoted_and_close_nothing(tmp_path):
    report = run(tmp_path, {"int8": 30, "cascade": 20})
    assert report["passed"] is True
    assert (report["int8"], report["cascade"]) == ("demoted", "demoted")
    assert [check["binding"] for check in report["checks"]] == [True, True, True, False, False, False, False]
    assert "int8 is demoted" in report["reasons"][3]
    assert check(report, "int8_drop")["value"] == pytest.approx(25 / NUM)
    assert check(report, "cascade_drop")["value"] == pytest.approx(16 / NUM)


def test_good_extras_are_accepted(tmp_path):
    report = run(tmp_path, {"int8": 6, "cascade": 4})
    assert (report["int8"], report["cascade"]) == ("accepted", "accepted")


@pytest.mark.parametrize(("ratio", "status"), [(1.25, "accepted"), (1.0, "demoted"), (0.8, "demoted")])
def test_a_cascade_that_costs_no_less_than_the_teacher_is_demoted(tmp_path, ratio, status):
    report = run(tmp_path, {"cascade": 4}, cascade_ratio=ratio)
    assert (report["passed"], report["cascade"]) == (True, status)
    found = check(report, "cascade_cost")
    assert (found["value"], found["limit"], found["binding"]) == (1 / ratio, 1.0, False)
    assert found["passed"] is (status == "accepted")
    assert f"{1 / ratio:.2f} times the teacher's" in report["reasons"][-2]
    assert ("cascade is demoted" in report["reasons"][-2]) is (status == "demoted")


@pytest.mark.parametrize(("low", "status"), [(1.0, "accepted"), (0.9, "demoted")])
def test_a_cascade_that_is_measured_to_be_slower_is_demoted(tmp_path, low, status):
    report = run(tmp_path, {"cascade": 4}, cascade_low=low)
    assert (report["passed"], report["cascade"]) == (True, status)
    found = check(report, "cascade_speedup")
    assert (found["value"], found["limit"], found["binding"]) == (1.3, 1.0, False)
    assert ("cascade is demoted" in report["reasons"][-1]) is (status == "demoted")


def test_without_a_cascade_its_cost_is_not_asked_for(tmp_path):
    assert "cascade_cost" not in [check["name"] for check in run(tmp_path, {"int8": 6})["checks"]]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"accuracy_drop_max": -0.01}, r"accuracy_drop_max=-0\.01: must be in \[0, 1\]"),
        ({"int8_drop_max": 1.5}, r"int8_drop_max=1\.5: must be in \[0, 1\]"),
        ({"cascade_drop_max": float("nan")}, r"cascade_drop_max=nan: must be in \[0, 1\]"),
        ({"speedup_min": -1}, r"speedup_min=-1\.0: must be 0 or more"),
        ({"parity_max": -1}, r"parity_max=-1\.0: must be 0 or more"),
        ({"speedup_runtime": "onnxruntime"}, "speedup_runtime='onnxruntime': must be RUNTIME/bBATCH"),
        ({"speedup_runtime": "torch/b0"}, "speedup_runtime='torch/b0'"),
    ],
)
def test_mistakes_are_found_before_any_work(option, said):
    with pytest.raises(ValueError, match=said):
        GateConfig(**option)
