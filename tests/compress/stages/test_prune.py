"""The stage prune on the toys."""

import json

import pytest
import torch

from compress.core.budget import Infeasible
from compress.core.model import Model
from compress.core.stage import STAGES, Entry, StageCall
from compress.measure import cost_of
from compress.stages.prune import PruneConfig, prune
from compress.train.scoring import accuracy
from tests.toys import toy_entry, toy_model, toy_task


def run(tmp_path, reference=None, model=None, **options):
    parents = {"model": toy_entry(model)} | ({"reference": reference} if reference else {})
    config = PruneConfig(**({"epochs": 0, "batch_size": 16} | options))
    return prune(StageCall(config=config, parents=parents, scratch=tmp_path, optional_task=toy_task()))


def test_default_configuration_is_empty():
    assert PruneConfig().as_json() == {}
    assert STAGES["prune"].extra["optional_roles"] == ("reference",)


def test_the_report_and_the_model(tmp_path):
    result = run(
        tmp_path, criterion="taylor", budget="macs=0.5", max_steps=6, recipe={"name": "sgd_cosine", "lr": 0.05}
    )
    report = json.loads(json.dumps(result.report))
    before, after = cost_of(toy_model()), cost_of(result.model)
    assert report["cost_before"]["macs"] == before.macs
    assert report["cost"] == json.loads(json.dumps(after.as_json()))
    assert 0.4 * before.macs < after.macs <= 0.5 * before.macs
    assert report["limits"] == {"macs": 0.5 * before.macs}
    assert set(report["kept"]) == {"conv1", "block.conv1", "conv2"}
    kept, num_channels = report["kept"]["conv2"]
    assert (kept, num_channels) == (result.model.module.conv2.out_channels, 16)
    assert report["layers"]["linear"] == [3, 3]
    assert report["dropped"] == []
    assert report["accuracy_tuned"] == report["validation_accuracy"]
    assert report["validation_accuracy"] == accuracy(result.model.module, toy_task(), "validation")
    assert len(report["cuts"]) == len(report["fits"]) == 1
    assert report["fits"][0]["num_steps"] == 6
    assert [step.stage for step in result.model.lineage.steps] == ["prune"]


def test_the_result_loads_again(tmp_path):
    result = run(tmp_path / "scratch", schedule={"name": "progressive", "steps": 2}, budget="params=0.4", max_steps=4)
    result.model.save(tmp_path / "model")
    loaded = Model.load(tmp_path / "model")
    x_BCHW = loaded.input.example()
    assert torch.equal(loaded(x_BCHW), result.model(x_BCHW))
    assert [step.plan["kind"] for step in loaded.lineage.steps] == ["cut", "cut"]
    assert [cut["depth"] for cut in result.report["cuts"]] == [0.875, 1.0]
    first, second = result.report["cuts"]
    assert first["cost"] == second["cost_before"]
    assert first["kept"]["conv2"][0] == second["kept"]["conv2"][1]
    assert second["kept"]["conv2"][0] == result.report["kept"]["conv2"][0]
    assert [fit["num_steps"] for fit in result.report["fits"]] == [2, 2]
    assert result.report["cost"]["params"] <= 0.4 * result.report["cost_before"]["params"]


def test_the_parent_stays_as_it_was(tmp_path):
    model = toy_model()
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    run(tmp_path, model=model, max_steps=2)
    assert all(torch.equal(before[name], value) for name, value in model.module.state_dict().items())


def test_same_arguments_same_result(tmp_path):
    one, two = (run(tmp_path / str(k), criterion="taylor", max_steps=4) for k in range(2))
    for a, b in zip(one.model.module.state_dict().values(), two.model.module.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert one.report["kept"] == two.report["kept"]


def test_a_model_that_fits_already_is_returned_unchanged_and_says_so(tmp_path):
    small = run(tmp_path, budget="macs=0.5").model
    again = run(tmp_path, model=small, reference=toy_entry(), budget="macs=0.5")
    assert again.model is small
    assert again.report["note"] == "nothing to cut: the model fits macs=0.5 already"
    assert again.report["accuracy_cut"] == again.report["accuracy_tuned"] == again.report["accuracy_before"]
    assert all(kept == of for kept, of in again.report["kept"].values())
    assert "note" not in run(tmp_path, model=small, reference=Entry.of(small), budget="macs=0.5").report


def test_the_budget_is_a_part_of_the_reference(tmp_path):
    small = run(tmp_path, budget="macs=0.7").model
    report = run(tmp_path, model=small, reference=toy_entry(), budget="macs=0.5").report
    assert report["limits"]["macs"] == 0.5 * cost_of(toy_model()).macs


def test_without_recalibration_nothing_is_recalibrated(tmp_path):
    report = run(tmp_path, recalibrate_batches=0).report
    assert report["accuracy_recalibrated"] == report["accuracy_cut"]


def test_an_impossible_budget_says_what_is_possible(tmp_path):
    with pytest.raises(Infeasible, match=r"no model fits macs .* smallest reachable is"):
        run(tmp_path, budget="macs=0.0001")
    with pytest.raises(ValueError, match="cannot be steered by latency_ms yet"):
        PruneConfig(budget="latency_ms=0.5")


@pytest.mark.parametrize("allocator", ["uniform", "global"])
@pytest.mark.parametrize("criterion", ["magnitude", "random"])
def test_pieces_are_chosen_by_name(tmp_path, allocator, criterion):
    options = {"name": allocator, "round_to": 2, "min_kept_ratio": 0.25}
    report = run(
        tmp_path, criterion=criterion, allocator=options, normalizer="max", budget="macs=0.5,params=0.6"
    ).report
    assert all(kept % 2 == 0 and kept >= of / 4 for kept, of in report["kept"].values())
    assert report["cost"]["params"] <= 0.6 * report["cost_before"]["params"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"score_batches": 0}, "at least 1 batch"),
        ({"recalibrate_batches": -1}, "recalibrate_batches=-1"),
        ({"budget": "macs=half"}, "macs=NUMBER"),
        ({"budget": ""}, "empty budget"),
    ],
)
def test_senseless_configurations_are_refused_before_anything_runs(wrong, message):
    with pytest.raises(ValueError, match=message):
        PruneConfig(**wrong)
    assert PruneConfig(score_batches=1, recalibrate_batches=0).as_json()


def test_two_limits_out_of_reach_are_both_reported(tmp_path):
    with pytest.raises(Infeasible, match=r"params <= 2.507 and macs <= 48,408: .* has params = 64 and macs = 2,022\."):
        run(tmp_path, budget="macs=0.5,params=0.001")
