import json
from dataclasses import replace

import pytest

from compress.cascade.inference import Router
from compress.core.budget import Infeasible
from compress.core.stage import Entry, StageCall
from compress.core.task import SealedTestSplit
from compress.measure.costs import cost_of
from compress.stages.cascade import FILE, CascadeConfig, cascade
from compress.train.checkpoint import state_digest
from compress.train.scoring import accuracy
from tests.compress.search.toy_training import trained_toy
from tests.toys import toy_task

SMALL = Entry.of(trained_toy(num_epochs=1, seed=3), "distill-1")
LARGE = Entry.of(trained_toy(), "train-2")


def run(tmp_path, small=SMALL, **options):
    config = CascadeConfig(**({"rounds": 3} | options))
    parents = {"model": small, "teacher": LARGE}
    return cascade(StageCall(config=config, parents=parents, scratch=tmp_path, optional_task=toy_task()))


@pytest.mark.parametrize("confidence", ["entropy", "max_probability", "margin"])
def test_report_file_and_routing_agree(tmp_path, confidence):
    result = run(tmp_path, confidence=confidence)
    report = result.report
    assert json.loads(json.dumps(report)) == report
    router = Router.read(result.files[FILE])
    assert (router.small, router.large) == ("distill-1", "train-2")
    assert router.digests == (state_digest(SMALL.model.module), state_digest(LARGE.model.module))
    assert router.confidence.name == confidence
    assert router.threshold == report["threshold"]
    task, deferred, right = toy_task(), [], []
    for x_BCHW, y_B in task.batches("validation", batch_size=16):
        routed = router(SMALL.model, LARGE.model, x_BCHW)
        deferred += routed.is_deferred_B.tolist()
        right += task.correct(routed.logits_BC, y_B).tolist()
    assert sum(deferred) / len(deferred) == pytest.approx(report["route_shares"][1])
    assert sum(right) / len(right) == pytest.approx(report["validation_accuracy"])
    assert sum(report["route_shares"]) == pytest.approx(1)


def test_accuracy_target_reaches_the_teacher_and_costs_follow(tmp_path):
    report = run(tmp_path).report
    teacher = accuracy(LARGE.model.module, toy_task(), "validation")
    assert report["teacher_accuracy"] == pytest.approx(teacher)
    assert report["validation_accuracy"] >= teacher - 1e-9
    macs = cost_of(LARGE.model).macs
    assert report["expected_macs"] == pytest.approx(cost_of(SMALL.model).macs + report["route_shares"][1] * macs)
    assert report["expected_macs_ratio"] == pytest.approx(report["expected_macs"] / macs)
    assert report["cost"]["macs"] == report["expected_macs"]
    assert report["cost"]["params"] == cost_of(SMALL.model).params + cost_of(LARGE.model).params
    bounds = report["bounds"]
    assert report["validation_accuracy"] <= bounds["oracle_accuracy"] + 1e-9
    curve = report["curve"]
    assert (curve[0]["deferred"], curve[-1]["deferred"]) == (0.0, 1.0)


def test_expected_latency_weighs_the_teacher(tmp_path):
    report = run(tmp_path).report
    times = report["latency"]["median_ms"]
    share = report["route_shares"][1]
    assert report["expected_latency_ms"] == pytest.approx(times["small"] + share * times["large"])
    ratio = report["expected_latency_ratio"]
    assert share < ratio["low"] <= ratio["value"] <= ratio["high"]


def test_cost_target_keeps_its_limit(tmp_path):
    ratio = cost_of(SMALL.model).macs / cost_of(LARGE.model).macs
    report = run(tmp_path, target={"name": "cost", "macs_ratio": ratio + 0.3}).report
    assert report["expected_macs_ratio"] <= ratio + 0.3
    with pytest.raises(Infeasible, match="expected_macs_ratio"):
        run(tmp_path, target={"name": "cost", "macs_ratio": ratio / 2})


def test_the_test_split_stays_sealed(tmp_path):
    with pytest.raises(SealedTestSplit):
        toy_task().split("test")
    assert run(tmp_path).model is None


def test_a_pair_that_saves_nothing_says_so(tmp_path):
    """Both members cost the same here, so any deferral makes the pair dearer than the teacher."""
    report = run(tmp_path, target={"name": "accuracy", "margin": 1.0}).report
    assert report["expected_macs_ratio"] == 2.0
    assert "2.00 times the teacher's multiply-adds" in report["note"]


def test_a_pair_that_saves_has_no_note(tmp_path, monkeypatch):
    costs = {id(SMALL.model): 1e3, id(LARGE.model): 1e6}

    def cheaper(model):
        return replace(cost_of(model), macs=costs[id(model)])

    monkeypatch.setattr("compress.stages.cascade.cost_of", cheaper)
    report = run(tmp_path, target={"name": "cost", "macs_ratio": 0.5}).report
    assert report["expected_macs_ratio"] < 1
    assert "note" not in report


@pytest.mark.parametrize("option", ["batch", "rounds"])
def test_mistakes_are_found_before_any_work(option):
    with pytest.raises(ValueError, match=f"{option}=0: must be 1 or more"):
        CascadeConfig(**{option: 0})
