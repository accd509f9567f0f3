"""Judge, curves and how far two sets of curves agree."""

import itertools
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from compress.core.budget import RelativeBudget
from compress.core.journal import Journal
from compress.graph.groups import trace_groups
from compress.graph.surgery import cut, plan_from_kept
from compress.graph.units import BLOCKS
from compress.measure import cost_of
from compress.prune.allocators import ALLOCATORS
from compress.prune.compensating import Compensator
from compress.prune.compensations import COMPENSATIONS
from compress.prune.sensitivity import Curve, agreement, curves, kendall, spearman
from compress.prune.session import Session, Target
from compress.prune.trials import Judge
from compress.stages.prune import PruneConfig
from compress.train.recalibrate import recalibrate_batch_norm
from compress.train.scoring import accuracy
from tests.compress.search.toy_training import trained_toy
from tests.toys import toy_model, toy_task

SETTINGS = {"num_batches": 2, "batch_size": 32, "limit": 0, "seed": 0}
RATIOS = (0.75, 0.5, 0.25, 0.1)


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "trials.jsonl")


def judge_of(journal, compensation="none", task=None, **more):
    model, task = trained_toy(), task or toy_task()
    groups = trace_groups(model.module, model.input.example())
    sizes = {"num_batches": 4, "batch_size": 32, "seed": 0}
    compensator = Compensator(model, groups, task, COMPENSATIONS.bind(compensation), **sizes)
    return groups, Judge(compensator, journal, **(SETTINGS | more))


def scores_of(groups):
    return {group.name: torch.arange(float(group.num_channels)) for group in groups}


def test_a_trial_is_the_cut_recalibrated_network(journal):
    groups, judge = judge_of(journal)
    mask_C = torch.arange(16) >= 6
    found = judge({"conv2": mask_C, BLOCKS: torch.tensor([False])})
    plan = plan_from_kept(groups, {"conv2": mask_C}, ["block"])
    module = cut(trained_toy().module, plan)
    recalibrate_batch_norm(module, toy_task(), num_batches=2, batch_size=32, seed=0)
    assert found["accuracy"] == accuracy(module, toy_task(), "validation")
    cost = cost_of(replace(trained_toy(), module=module))
    assert (found["macs"], found["params"]) == (cost.macs, cost.params)
    assert [block.name for block in judge.blocks] == ["block"]


def test_no_clock_says_that_the_reference_fits(tmp_path):
    """A machine that stutters may time a network at half of its own latency; another one's time is believed."""
    config, clock = PruneConfig(budget="latency_ms=0.75"), SimpleNamespace(measure=lambda _: {"ratio": 0.5})
    for reference, part in ((trained_toy(), 1.0), (toy_model(), 0.5)):
        target = Target.of(RelativeBudget.parse(config.budget), reference)
        session = Session(config, toy_task(), tmp_path, trained_toy(), target, clock)
        assert session.part == {"latency_ms": part}
        assert session.is_needed == (part == 1.0)


def test_a_trial_is_what_the_stage_would_cut(journal, tmp_path):
    """With what the remaining channels take over: a trial of the stage's own masks has the stage's own accuracy."""
    options = {"budget": "macs=0.6", "score_batches": 4, "batch_size": 32, "recalibrate_batches": 2}
    config = PruneConfig.from_json(options)
    target = Target.of(RelativeBudget.parse(config.budget), trained_toy())
    session = Session(config, toy_task(), tmp_path, trained_toy(), target, None)
    session.prune_to(trained_toy(), 1.0)
    masks = session.choice.kept
    assert not all(mask_C.all() for mask_C in masks.values())
    found = judge_of(journal, "least_squares")[1](masks)
    assert found["accuracy"] == session.cuts[0].accuracy_recalibrated
    assert found["macs"] == session.cuts[0].cost["macs"]
    assert found["loss"] != judge_of(Journal(tmp_path / "plain.jsonl"))[1](masks)["loss"]


def test_judging_leaves_the_network_alone_and_is_not_done_twice(journal):
    before = {name: value.clone() for name, value in trained_toy().module.state_dict().items()}
    groups, judge = judge_of(journal)
    first = judge({"conv2": torch.arange(16) >= 6})
    assert journal.num_new == 1
    everything = {group.name: torch.ones(group.num_channels, dtype=torch.bool) for group in groups}
    again = everything | {"conv2": torch.arange(16) >= 6, BLOCKS: torch.tensor([True])}
    assert judge(again) == first
    assert journal.num_new == 1
    assert all(torch.equal(before[name], value) for name, value in trained_toy().module.state_dict().items())


def test_without_recalibration_statistics_stay(journal):
    _, judge = judge_of(journal, num_batches=0)
    assert judge({})["accuracy"] == accuracy(trained_toy().module, toy_task(), "validation")
    logits_BC = trained_toy()(torch.cat([x_BCHW for x_BCHW, _ in toy_task().batches("validation", batch_size=48)]))
    loss = toy_task().loss(logits_BC, toy_task().split("validation").labels_B)
    assert judge({})["loss"] == pytest.approx(float(loss), rel=1e-5)


def test_curves_of_every_group_and_block(journal):
    groups, judge = judge_of(journal)
    found = curves(scores_of(groups), judge, RATIOS)
    assert [(curve.group, curve.kind) for curve in found] == [
        *((group.name, "channels") for group in groups),
        ("block", "block"),
    ]
    by_name = {curve.group: curve for curve in found}
    assert by_name["conv2"].kept == (16, 12, 8, 4, 2)
    assert by_name["conv2"].ratios == (1.0, 0.75, 0.5, 0.25, 0.125)
    assert by_name["conv1"].kept == (8, 6, 4, 2, 1)
    assert (by_name["block"].kept, by_name["block"].ratios) == ((1, 0), (1.0, 0.0))
    whole = judge({})
    for curve in found:
        columns = (curve.ratios, curve.losses, curve.accuracies, curve.macs, curve.params, curve.keys)
        assert {len(column) for column in columns} == {len(curve.kept)}
        assert (curve.losses[0], curve.accuracies[0], curve.macs[0]) == (
            whole["loss"],
            whole["accuracy"],
            whole["macs"],
        )
        assert list(curve.macs) == sorted(curve.macs, reverse=True)
        assert all(math.isfinite(loss) for loss in curve.losses)
        assert Curve.from_json(json.loads(json.dumps(curve.as_json()))) == curve
    assert by_name["conv2"].damage == pytest.approx(sum(by_name["conv2"].losses[1:]) / 4 - whole["loss"])
    assert len(journal) == 1 + 3 * 4 + 1


def test_a_group_of_one_channel_has_no_curve(journal):
    _, judge = judge_of(journal)
    assert [curve.kind for curve in curves({"one": torch.ones(1)}, judge, RATIOS)] == ["block"]


def test_the_allocator_asks_for_losses_that_the_curves_hold(journal):
    groups, judge = judge_of(journal)
    found = [curve.as_json() for curve in curves(scores_of(groups), judge, RATIOS)]
    judge.learn({"judged": judge.settings, "curves": found})
    asked = journal.num_new

    def count(kept):
        return float(sum(int(mask_C.sum()) for mask_C in kept.values()))

    bound = ALLOCATORS.bind("sensitivity", ratios=RATIOS)
    kept = bound(scores_of(groups), count, 16, judge.loss)
    assert count(kept) == 16
    assert journal.num_new == asked
    told = {"judged": judge.settings, "curves": found}
    with pytest.raises(ValueError, match=r"seed 0 \(here 1\)"):
        judge_of(journal, seed=1)[1].learn(told)
    with pytest.raises(ValueError, match=r"compensation none \(here .*least_squares"):
        judge_of(journal, "least_squares")[1].learn(told)
    with pytest.raises(ValueError, match="data "):
        judge_of(journal, task=toy_task(seed=1))[1].learn(told)


def curve(group, *losses, kind="channels", kept=(4, 2)):
    same = (0.0,) * len(losses)
    columns = {"accuracies": same, "macs": same, "params": same, "keys": ("",) * len(losses)}
    return Curve(group=group, kind=kind, kept=kept, ratios=kept, losses=losses, **columns)


def test_agreement_is_about_the_order_of_common_groups():
    one = [curve("a", 0.1, 1.0), curve("b", 0.1, 2.0), curve("c", 0.1, 3.0), curve("only", 0.1, 9.0)]
    other = [curve("c", 5.0, 50.0), curve("a", 5.0, 10.0), curve("b", 5.0, 30.0), curve("x", 0, 7, kind="block")]
    assert agreement(one, other) == {"num_groups": 3.0, "spearman": pytest.approx(1), "kendall": pytest.approx(1)}
    turned = [curve("a", 0, 3), curve("b", 0, 2), curve("c", 0, 1)]
    assert agreement(one, turned)["spearman"] == agreement(one, turned)["kendall"] == pytest.approx(-1)
    assert agreement(one, other, kind="block") == {"num_groups": 0.0, "spearman": None, "kendall": None}
    assert agreement([curve("a", 0, 1)], [curve("a", 0, 2)])["spearman"] is None


def test_curves_at_other_numbers_are_not_compared():
    with pytest.raises(ValueError, match=r"a was cut to \(4, 2\) in one and \(4, 1\) in the other: .* same ratios"):
        agreement([curve("a", 0, 1)], [curve("a", 0, 1, kept=(4, 1))])


def test_rank_correlations_are_those_of_the_definitions():
    generator = torch.Generator().manual_seed(0)
    x_N, y_N = (torch.randint(0, 6, (30,), generator=generator).tolist() for _ in range(2))
    pairs = list(itertools.combinations(range(30), 2))
    signs = [((x_N[i] > x_N[j]) - (x_N[i] < x_N[j]), (y_N[i] > y_N[j]) - (y_N[i] < y_N[j])) for i, j in pairs]
    untied = [sum(1 for pair in signs if pair[side]) for side in (0, 1)]
    tau = sum(a * b for a, b in signs) / math.sqrt(untied[0] * untied[1])
    assert kendall(x_N, y_N) == pytest.approx(tau)

    def ranks(values):
        return [sum(v < value for v in values) + (values.count(value) + 1) / 2 for value in values]

    expected = torch.corrcoef(torch.tensor([ranks(x_N), ranks(y_N)], dtype=torch.float64))[0, 1]
    assert spearman(x_N, y_N) == pytest.approx(float(expected))
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
    assert math.isnan(kendall([1, 2, 3], [1, 1, 1]))
    assert math.isnan(spearman([], []))
    assert math.isnan(kendall([1], [1]))
