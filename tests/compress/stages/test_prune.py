"""The stage prune on the toys."""

import json

import pytest
import torch

from compress.core.budget import Infeasible
from compress.core.model import Model
from compress.core.stage import STAGES, Entry, StageCall
from compress.measure import cost_of
from compress.measure.paired import Ratio
from compress.prune.converting import Referee
from compress.prune.live_groups import LiveGroups
from compress.stages.prune import PruneConfig, prune
from compress.stages.sensitivity import SensitivityConfig, sensitivity
from compress.train.fit import fit
from compress.train.scoring import accuracy
from tests.toys import toy_entry, toy_model, toy_task


def run(tmp_path, reference=None, model=None, sensitivity=None, **options):
    roles = {"model": toy_entry(model), "reference": reference, "sensitivity": sensitivity}
    parents = {role: entry for role, entry in roles.items() if entry is not None}
    config = PruneConfig(**({"epochs": 0, "batch_size": 16} | options))
    return prune(StageCall(config=config, parents=parents, scratch=tmp_path, optional_task=toy_task()))


def test_default_configuration_is_empty():
    assert PruneConfig().as_json() == {}
    assert STAGES["prune"].extra["optional_roles"] == ("reference", "sensitivity")


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
    with pytest.raises(Infeasible, match="With reach=all, channels of the streams"):
        run(tmp_path, budget="macs=0.0001")
    with pytest.raises(Infeasible) as caught:
        run(tmp_path, budget="macs=0.0001", reach="all")
    assert "reach=all" not in str(caught.value)
    with pytest.raises(ValueError, match="cannot be steered by peak_memory_bytes"):
        PruneConfig(budget="peak_memory_bytes=0.5")


def test_blocks_and_channels_stand_in_one_ranking(tmp_path):
    options = {"criterion": "taylor", "normalizer": "none", "allocator": "worth_per_cost"}
    only = run(tmp_path / "blocks", units="blocks", budget="macs=0.4", **options)
    assert only.report["dropped"] == ["block"]
    assert only.report["kept"] == {"conv1": [8, 8], "block.conv1": [0, 8], "conv2": [16, 16]}
    assert only.report["layers"]["block.conv1"] == [0, 8]
    with pytest.raises(Infeasible, match="smallest reachable"):
        run(tmp_path / "more", units="blocks", budget="macs=0.1", **options)
    both = run(tmp_path / "both", units="channels and blocks", budget="macs=0.2", **options)
    assert both.report["cost"]["macs"] <= 0.2 * both.report["cost_before"]["macs"]
    both.model.save(tmp_path / "model")
    loaded, x_BCHW = Model.load(tmp_path / "model"), toy_model().input.example()
    assert torch.equal(loaded(x_BCHW), both.model(x_BCHW))


def test_what_blocks_cannot_be_compared_by_is_refused_before_any_work():
    with pytest.raises(ValueError, match=r"'weight', which blocks do not have.* for example taylor"):
        PruneConfig(units="channels and blocks")
    mixed = {"units": "channels and blocks", "criterion": "taylor"}
    with pytest.raises(ValueError, match="allocator=global compares channels with blocks, and normalizer=max"):
        PruneConfig(**mixed)
    assert PruneConfig(**mixed, normalizer="none").has_blocks
    assert PruneConfig(**mixed, allocator="measured_greedy").has_blocks
    assert PruneConfig(**mixed | {"units": "blocks"}).has_blocks


def test_channels_inside_blocks_may_go_alone(tmp_path):
    kept = run(tmp_path, budget="macs=0.6", reach="inside").report["kept"]
    assert kept["conv1"] == [8, 8]
    assert kept["block.conv1"][0] < 8
    assert kept["conv2"][0] < 16


@pytest.mark.slow
def test_a_latency_limit_is_kept_from_below_and_measured_once(tmp_path):
    options = {"budget": "latency_ms=0.75", "units": "channels and blocks", "latency_rounds": 9, "latency_batch": 512}
    options |= {"allocator": {"name": "latency_knapsack", "round_to": 2}, "criterion": "taylor", "normalizer": "none"}
    first = run(tmp_path, **options)
    spent = [row["spent"] for row in first.report["cuts"][-1]["tries"]]
    assert spent, "the network that was cut is measured"
    assert first.report["limits"] == {"latency_ms": 0.75}
    assert first.report["cost"]["macs"] < first.report["cost_before"]["macs"]
    again = run(tmp_path, **options)
    assert again.report["cuts"] == first.report["cuts"]


def test_a_size_limit_is_kept_from_below(tmp_path):
    report = run(tmp_path, budget="size_bytes=0.6").report
    assert 0.5 * report["cost_before"]["size_bytes"] < report["cost"]["size_bytes"]
    assert report["cost"]["size_bytes"] <= 0.6 * report["cost_before"]["size_bytes"]


def test_fine_tuning_may_follow_the_model_before_the_cut(tmp_path):
    plain = run(tmp_path / "a", max_steps=6, allocator="global")
    taught = run(tmp_path / "b", max_steps=6, allocator="global", loss="logits")
    assert plain.report["kept"] == taught.report["kept"]
    assert plain.report["fits"][0]["history"] != taught.report["fits"][0]["history"]
    with pytest.raises(ValueError, match="compares channel by channel"):
        run(tmp_path / "c", max_steps=6, loss="stage_features")


def test_a_penalty_takes_its_share_of_the_fine_tuning_in_front_of_the_cut(tmp_path):
    result = run(tmp_path, max_steps=10, sparsity="group_lasso", sparsity_share=0.4)
    assert [fit["num_steps"] for fit in result.report["fits"]] == [4, 6]
    with pytest.raises(ValueError, match="has no effect"):
        PruneConfig(sparsity="group_lasso")


def test_a_penalty_acts_on_what_may_be_cut_alone(tmp_path, monkeypatch):
    seen = set()

    def watched(self, module):
        seen.update(self.names)
        return of(self, module)

    of = LiveGroups.of
    monkeypatch.setattr(LiveGroups, "of", watched)
    options = {"max_steps": 2, "sparsity": "group_lasso", "sparsity_share": 0.5, "budget": "macs=0.9"}
    run(tmp_path / "inside", **options, reach="inside")
    inside, _ = set(seen), seen.clear()
    run(tmp_path / "all", **options, reach="all")
    assert inside == {"block.conv1", "conv2"}
    assert seen == inside | {"conv1"}


def test_the_report_says_what_schedules_looked_at(tmp_path):
    report = run(tmp_path, max_steps=8, schedule={"name": "soft", "steps": 3}).report
    looks = json.loads(json.dumps(report))["looks"]
    assert [look["depth"] for look in looks] == pytest.approx([0.75, 0.948, 1.0], abs=2e-3)
    gone = [look["gone"] for look in looks]
    assert gone == sorted(gone)
    assert gone[0] > 0 == looks[0]["returned"]


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
        ({"score_batches": 0}, "must be 1 or more; 16 is usual"),
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
        run(tmp_path, budget="macs=0.5,params=0.001", reach="all")


def test_curves_that_were_measured_save_an_allocator_its_trials(tmp_path):
    judged = {"recalibrate_batches": 4, "validation_limit": 1000, "batch_size": 16}
    measured = sensitivity(
        StageCall(
            config=SensitivityConfig(ratios=(0.75, 0.5, 0.25), **judged),
            parents={"model": toy_entry()},
            scratch=tmp_path,
            optional_task=toy_task(),
        )
    )
    curves = Entry(ref="sensitivity-0", report={}, files=measured.files)
    lines = (tmp_path / "trials.jsonl").read_text().splitlines()
    options = {"allocator": {"name": "sensitivity", "min_kept_ratio": 0.25}, "budget": "macs=0.5"}
    (tmp_path / "prune").mkdir()
    helped = run(tmp_path / "prune", sensitivity=curves, **options)
    assert len(lines) == 11
    assert not (tmp_path / "prune" / "trials.jsonl").exists()
    (tmp_path / "alone").mkdir()
    assert run(tmp_path / "alone", **options).report["kept"] == helped.report["kept"]
    with pytest.raises(ValueError, match=r"num_batches 4 \(here 3\)"):
        run(tmp_path / "prune", sensitivity=curves, trial_batches=3, **options)


def test_each_part_of_the_training_sees_images_in_an_order_of_its_own(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("compress.stages.prune.fit", lambda *args, **kw: seen.append(args[2].seed) or fit(*args, **kw))
    options = {"schedule": {"name": "progressive", "steps": 3}, "budget": "params=0.4", "max_steps": 6}
    result = run(tmp_path, **options, sparsity="group_lasso", sparsity_share=0.34, seed=7)
    assert seen[0] == 7
    assert len(set(seen)) == len(seen) == len(result.report["fits"]) == 4


def test_where_nothing_has_to_be_cut_all_fine_tuning_goes_to_the_conversion(tmp_path, monkeypatch):
    def ratio(_, numerator, denominator):
        value = cost_of(numerator).macs / cost_of(denominator).macs
        return Ratio(value, value, value)

    start = toy_model()
    monkeypatch.setattr(Referee, "ratio", ratio)
    options = {"conversion": "depthwise", "conversion_share": 0.5, "max_steps": 8}
    result = run(tmp_path, model=start, budget="macs=1", **options)
    assert result.report["note"].startswith("nothing to cut")
    assert result.report["conversion"]["num_converted"] > 0
    assert [fit["num_steps"] for fit in result.report["fits"]] == [4, 4]
    assert result.report["validation_accuracy"] == accuracy(result.model.module, toy_task(), "validation")
    assert cost_of(result.model).macs < cost_of(start).macs
    at_once = run(tmp_path, model=start, budget="macs=1", **{**options, "conversion_share": 0.0})
    assert [fit["num_steps"] for fit in at_once.report["fits"]] == [8]


@pytest.mark.slow
def test_layers_are_converted_where_that_is_faster(tmp_path):
    options = {"conversion": "depthwise", "conversion_share": 0.5, "max_steps": 8, "latency_batch": 256}
    result = run(tmp_path, budget="macs=0.9", latency_rounds=5, **options)
    report = result.report["conversion"]
    assert report["num_converted"] == sum(row["is_converted"] for row in report["layers"].values())
    assert all("reason" in row or row["is_converted"] for row in report["layers"].values())
    assert result.report["validation_accuracy"] == accuracy(result.model.module, toy_task(), "validation")
    result.model.save(tmp_path / "model")
    loaded, x_BCHW = Model.load(tmp_path / "model"), toy_model().input.example()
    assert torch.equal(loaded(x_BCHW), result.model(x_BCHW))
    with pytest.raises(ValueError, match="name a conversion"):
        PruneConfig(conversion_share=0.5)
    with pytest.raises(ValueError, match="leave no fine-tuning"):
        PruneConfig(conversion="depthwise", conversion_share=0.5, sparsity="group_lasso", sparsity_share=0.5)


def test_what_is_measured_decides_and_names_what_is_out_of_reach(tmp_path, monkeypatch):
    whole = cost_of(toy_model()).macs

    def parts_of(_, model):
        return {"size_bytes": 0.3 + 0.7 * cost_of(model).macs / whole}

    for name in ("reached", "missed"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr("compress.prune.session.Session.parts_of", parts_of)
    report = run(tmp_path / "reached", budget="size_bytes=0.8").report
    spent = {row["spent"] for row in report["cuts"][-1]["tries"]}
    assert (0.3 + 0.7 * report["cost"]["macs"] / whole) / 0.8 in spent
    assert report["cost"]["macs"] <= 0.5 / 0.7 * whole
    with pytest.raises(Infeasible, match="size_bytes"):
        run(tmp_path / "missed", budget="size_bytes=0.31")
