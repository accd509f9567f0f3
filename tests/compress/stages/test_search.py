import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from compress.core.budget import Infeasible
from compress.core.lineage import rebuild
from compress.core.stage import Entry, StageCall
from compress.measure.costs import cost_of
from compress.measure.runtimes import RUNTIMES
from compress.stages.search import JOURNAL, SearchConfig, search
from compress.train.scoring import accuracy
from tests.compress.search.toy_training import trained_toy
from tests.toys import toy_entry, toy_model, toy_task

ROOT = Path(__file__).parents[3]
QUICK = {"num_trials": 8, "recalibration_batches": 2, "batch_size": 32, "strategy": {"name": "random"}}


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"budget": "macs=2"}, r"budget macs=2\.0: .* lies in \(0, 1\]"),
        ({"budget": "mac=0.5"}, "Did you mean 'macs'"),
        ({"num_trials": 0}, "num_trials=0: must be 1 or more"),
        ({"latency_rounds": 0}, "latency_rounds=0: must be 1 or more"),
        ({"latency_batch": 0}, "latency_batch=0: must be 1 or more"),
        ({"batch_size": 0}, "batch_size=0: must be 1 or more"),
        ({"validation_limit": -1}, "validation_limit=-1: must be 0 or more"),
    ],
)
def test_mistakes_are_found_before_any_work(option, said):
    with pytest.raises(ValueError, match=said):
        SearchConfig(**option)


def run(tmp_path, parents=None, **options):
    config = SearchConfig(**(QUICK | options))
    parents = parents or {"model": toy_entry(trained_toy())}
    return search(StageCall(config=config, parents=parents, scratch=tmp_path, optional_task=toy_task()))


@pytest.mark.parametrize("strategy", ["random", "regularised_evolution", "nsga2"])
def test_the_best_candidate_becomes_the_model(tmp_path, strategy):
    result = run(tmp_path, strategy=strategy, budget="macs=0.5")
    report, trials = result.report, result.report["trials"]
    assert json.loads(json.dumps(report)) == report
    assert len(trials) == 8
    best = trials[report["best_trial"]]
    assert best["value"] == max(trial["value"] for trial in trials if trial["is_feasible"])
    assert report["cost"] == best["cost"] == cost_of(result.model).as_json()
    assert report["cost"]["macs"] <= 0.5 * cost_of(trained_toy()).macs
    assert report["validation_accuracy"] == best["value"]
    assert accuracy(result.model.module, toy_task(), "validation") == best["value"]
    assert set(report["kept"]) == {"conv1", "block.conv1", "conv2"}
    assert report["kept"]["conv2"] == [best["widths"]["conv2"] * 16, 16]
    assert report["dropped"] == best["dropped"]
    macs = [trial["cost"]["macs"] for trial in report["pareto"]]
    assert macs == sorted(macs)
    assert report["num_evaluated"] <= 8


def test_the_model_is_rebuilt_from_its_record(tmp_path):
    model = run(tmp_path, budget="macs=0.3").model
    module = rebuild(model.lineage)
    module.load_state_dict(model.module.state_dict())
    x_BCHW = model.input.example(4)
    assert torch.equal(module.eval()(x_BCHW), model(x_BCHW))
    assert model.lineage.steps[-1].stage == "search"
    assert model.lineage.steps[-1].config["budget"] == "macs=0.3"


def test_same_arguments_same_result(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, two = run(tmp_path / "a"), run(tmp_path / "b")
    assert one.report == two.report
    states = one.model.module.state_dict(), two.model.module.state_dict()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_model_within_the_budget_comes_back_unchanged(tmp_path):
    small = run(tmp_path, budget="macs=0.4").model
    parents = {"model": toy_entry(small), "reference": toy_entry(trained_toy())}
    (tmp_path / "none").mkdir()
    result = run(tmp_path / "none", parents=parents, budget="macs=0.5")
    assert result.model is small
    assert "keeps the budget" in result.report["note"]
    assert result.report["trials"] == []
    assert result.report["cost"] == cost_of(small).as_json()


def test_the_budget_refers_to_the_reference(tmp_path):
    wide = toy_entry(trained_toy())
    small = run(tmp_path, budget="macs=0.6").model
    (tmp_path / "next").mkdir()
    result = run(tmp_path / "next", parents={"model": toy_entry(small), "reference": wide}, budget="macs=0.3")
    parts = [trial["cost"]["macs"] / cost_of(trained_toy()).macs for trial in result.report["trials"]]
    assert 0.25 < max(parts) <= 0.3
    assert [step.stage for step in result.model.lineage.steps] == ["search", "search"]


def test_an_impossible_budget_says_what_can_be_reached(tmp_path):
    with pytest.raises(Infeasible, match="smallest reachable"):
        run(tmp_path, budget="macs=0.001")


@pytest.mark.slow
def test_latency_is_measured_against_the_reference(tmp_path):
    big = Entry.of(toy_model(1), "teacher-1")
    result = run(
        tmp_path,
        parents={"model": toy_entry(trained_toy()), "reference": big},
        budget="latency_ms=1.0,macs=0.5",
        num_trials=2,
        latency_rounds=16,
        latency_batch=256,
    )
    cost = result.report["cost"]
    assert cost["latency_ms"] > 0
    assert (cost["runtime"], cost["batch"]) == ("torch", 256)
    assert result.report["limits"] == {"macs": 0.5, "latency_ms": 1.0}


def test_without_a_feasible_trial_the_smallest_candidate_is_taken(tmp_path, monkeypatch):
    """The clock tells a candidate apart by its dropped block alone, and no proposal may drop it."""
    from compress.measure import clock
    from compress.search import projection

    def measure(self, model):
        is_small = cost_of(model).params < 700
        return {"ratio": 0.4 if is_small else 0.9, "reference_ms": 1.0, "runtime": "t", "device": "cpu", "batch": 1}

    monkeypatch.setattr(clock.Clock, "measure", measure)
    monkeypatch.setattr(projection.Projection, "__call__", lambda self, proposal: self._space.largest)
    result = run(tmp_path, budget="latency_ms=0.5", num_trials=2)
    assert result.report["best_trial"] == 2
    assert result.report["dropped"] == ["block"]
    assert "torch" in RUNTIMES


def test_nothing_known_is_evaluated_again(tmp_path, monkeypatch):
    first = run(tmp_path)
    lines = (tmp_path / JOURNAL).read_text()
    calls = []
    monkeypatch.setattr("compress.stages.search._Search.build", lambda self, candidate: calls.append(candidate))
    with pytest.raises(AttributeError):
        run(tmp_path)
    assert len(calls) == 1
    assert (tmp_path / JOURNAL).read_text() == lines
    assert first.report["trials"]


SCRIPT = """
import sys, time
from pathlib import Path
import compress.stages.search as stage
from compress.core.stage import StageCall
from compress.train.checkpoint import state_digest
from tests.compress.search.toy_training import trained_toy
from tests.toys import toy_entry, toy_task

whole, evaluated = stage._Search.build, []

def slow(self, candidate):
    time.sleep(float(sys.argv[2]))
    evaluated.append(candidate.key)
    return whole(self, candidate)

stage._Search.build = slow
config = stage.SearchConfig(num_trials=14, strategy={"name": "regularised_evolution", "population": 6, "sample": 3})
scratch = Path(sys.argv[1])
scratch.mkdir(exist_ok=True)
call = StageCall(config=config, parents={"model": toy_entry(trained_toy())}, scratch=scratch, optional_task=toy_task())
result = stage.search(call)
print(state_digest(result.model.module), result.report["best_trial"], sum(t["value"] for t in result.report["trials"]))
print(len(evaluated) - 1)
"""


def start(scratch, pause_s):
    command = [sys.executable, "-c", SCRIPT, str(scratch), str(pause_s)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def num_scored(scratch):
    path = scratch / JOURNAL
    return path.read_text().count('"what": "accuracy"') if path.exists() else 0


@pytest.mark.slow
def test_kill_9_and_start_again_give_the_same_model(tmp_path):
    undisturbed, victim = start(tmp_path / "whole", 0.0), start(tmp_path / "killed", 0.5)
    for _ in range(900):
        time.sleep(0.1)
        if num_scored(tmp_path / "killed") >= 3:
            break
    os.kill(victim.pid, signal.SIGKILL)
    assert victim.wait() == -signal.SIGKILL
    known = num_scored(tmp_path / "killed")
    wanted, num_wanted = undisturbed.communicate()[0].splitlines()
    found, num_found = start(tmp_path / "killed", 0.0).communicate()[0].splitlines()
    assert 3 <= known < int(num_wanted)
    assert found == wanted
    assert int(num_found) == int(num_wanted) - known
