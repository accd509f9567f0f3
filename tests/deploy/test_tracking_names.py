"""The fixed metric names, the flat parameters and the small facts around a run."""

from __future__ import annotations

import pytest

from deploy.tracking.destination import clipped, surrounding_tags
from deploy.tracking.names import latency_name, metrics_of, params_of, recipe_sha256
from deploy.tracking.sampler import Sampler
from tests.deploy.stored_run import evaluation_report


def test_the_student_has_plain_names_and_the_teacher_its_own() -> None:
    numbers = metrics_of(evaluation_report())
    assert numbers["quality/test_top1"] == 0.94
    assert numbers["teacher/quality/test_top1"] == 0.95
    assert numbers["quality/delta_vs_teacher"] == pytest.approx(-0.01)
    assert numbers["latency/host_p50_ms/b32"] == 2.0
    assert numbers["throughput/qps_b32"] == 16000
    assert numbers["ratio/speedup"] == numbers["ratio/speedup_b32"] == 2.0
    assert numbers["parity/top1_agree"] == 1.0
    assert "teacher/quality/delta_vs_teacher" not in numbers


def test_names_hold_only_letters_that_mlflow_takes_and_no_name_is_a_folder_of_another() -> None:
    names = set(metrics_of(evaluation_report()))
    assert all(letter.isalnum() or letter in "-_. :/" for name in names for letter in name)
    assert not {a for a in names for b in names if b.startswith(f"{a}/")}


def test_numbers_that_are_missing_or_not_finite_are_left_out() -> None:
    report = {"validation_accuracy": None, "threshold": float("nan"), "route_shares": [0.8, 0.2], "passed": False}
    assert metrics_of(report) == {"cascade/share_small": 0.8, "gate/passed": 0.0}
    assert metrics_of({"models": {"student": {"latency_ms": {"torch/b1": None}}}}) == {}


def test_the_peak_memory_of_a_model_has_a_name() -> None:
    models = {"student": {"peak_memory_bytes": 3e6}, "teacher": {"peak_memory_bytes": 9e6}}
    assert metrics_of({"models": models}) == {"memory/peak_mb": 3.0, "teacher/memory/peak_mb": 9.0}


def test_other_runtimes_have_their_own_latency_names() -> None:
    assert latency_name("tensorrt/b8") == "latency/gpu_p50_ms/b8"
    assert metrics_of({"models": {"student": {}}, "ratios": {"student": {"latency/torch/b1": {"value": 3.0}}}}) == {
        "ratio/speedup_torch_b1": 3.0
    }


def test_parameters_are_flat_text() -> None:
    assert params_of({"a": {"b": {"c": [1, 2]}}, "d": True}) == {"a.b.c": "[1, 2]", "d": "true"}
    assert len(params_of({"a": "x" * 9000})["a"]) == 6000


def test_a_recipe_does_not_depend_on_the_order_of_its_keys() -> None:
    assert recipe_sha256({"a": 1, "b": 2}) == recipe_sha256({"b": 2, "a": 1}) != recipe_sha256({"a": 1, "b": 3})


def test_tags_from_the_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_COMMIT", "abc")
    monkeypatch.setenv("KFP_RUN_ID", "k-1")
    tags = surrounding_tags()
    assert tags["git.commit"] == "abc"
    assert tags["kfp.run_id"] == "k-1"
    assert clipped({"a": None, "b": "", "c": 1, "d": "x" * 9000}) == {"c": "1", "d": "x" * 5000}


def test_the_sampler_sees_the_machine_at_least_once() -> None:
    assert {name for name, _, _ in Sampler().stop()} >= {"system/process_memory_megabytes"}
    sampler = Sampler(interval_s=0.01).start()
    sampler._stop.wait(0.2)
    samples = [value for name, _, value in sampler.stop() if name == "system/system_memory_usage_percentage"]
    assert len(samples) > 1
    assert all(0 < value <= 100 for value in samples)
