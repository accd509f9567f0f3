"""Budgets that pruning can keep."""

import pytest
import torch
from torch import nn

from compress.core.budget import Budget, Cost, Infeasible
from compress.graph.cost_model import CostModel
from compress.graph.groups import trace_groups
from compress.graph.latency_model import LatencyModel
from compress.prune.allocators import ALLOCATORS
from compress.prune.spending import Amounts, limits_at, spending, steerable


def test_only_what_can_be_foreseen():
    assert steerable("macs=0.5, latency_ms=0.4").latency_ms == 0.4
    with pytest.raises(ValueError, match="cannot be steered by peak_memory_bytes"):
        steerable("peak_memory_bytes=0.5")
    with pytest.raises(ValueError, match="Did you mean 'macs'"):
        steerable("mac=0.5")


def test_limits_go_from_the_start_to_the_target():
    start, target = Cost(macs=100, params=10), Budget(macs=60, params=20)
    assert limits_at(0.25, start, target) == {"macs": 90.0, "params": 20}
    assert limits_at(1.0, start, target) == {"macs": 60, "params": 20}


def counted():
    module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.Flatten(), nn.Linear(16 * 36, 4))
    x_BCHW = torch.randn(1, 3, 8, 8)
    groups = trace_groups(module, x_BCHW)
    model = CostModel(module, groups, x_BCHW)
    scores = {group.name: torch.arange(group.num_channels).float() for group in groups}
    return model, scores


def test_two_limits_hold_at_once():
    model, scores = counted()
    limits = {"macs": 0.7 * model.macs({}), "params": 0.4 * model.params({})}
    cost, limit = spending(model, limits)
    kept = ALLOCATORS.bind("uniform")(scores, cost, limit, None)
    assert limit == 1.0
    assert model.macs(kept) <= limits["macs"]
    assert model.params(kept) <= limits["params"]
    cost, limit = spending(model, {"params": 9.0})
    assert (cost({}), limit) == (model.params({}), 9.0)


class Prepared:
    """A table by which a layer takes as long as it has weights; it refuses what it was not told of before."""

    def __init__(self):
        self.portions, self.known = [], set()

    def prepare(self, layers):
        new = set(layers) - self.known
        self.portions += [len(new)] if new else []
        self.known |= new

    def layer_ms(self, kind, in_, out):
        assert (kind, in_, out) in self.known
        return float(in_ * out)


@pytest.mark.parametrize("limits", [{"latency_ms": 1500.0}, {"latency_ms": 1500.0, "macs": 30_000.0}])
def test_what_is_asked_of_a_latency_table_is_prepared_together(limits):
    counts, scores = counted()
    module = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 1), nn.Flatten(), nn.Linear(16 * 36, 4))
    table = Prepared()
    amounts = Amounts(counts, (), LatencyModel(module, counts, torch.randn(1, 3, 8, 8), table))
    cost, limit = spending(amounts, limits)
    kept = ALLOCATORS.bind("latency_knapsack", round_to=4)(scores, cost, limit, None)
    assert amounts.quantity("latency_ms")(kept) <= 1500
    assert cost({}) > limit, "something had to go"
    assert max(table.portions[1:]) >= 4, "the widths of both groups are timed in turns"


@pytest.mark.parametrize("name", sorted(ALLOCATORS))
def test_two_limits_that_cannot_hold_are_named_in_their_own_units(name):
    model, scores = counted()
    one = {group: torch.arange(len(scores_C)) < 1 for group, scores_C in scores.items()}
    smallest = {"macs": model.macs(one), "params": model.params(one)}
    limits = {"macs": 2 * smallest["macs"], "params": 0.5 * smallest["params"]}
    with pytest.raises(Infeasible) as caught:
        ALLOCATORS.bind(name, min_kept_ratio=0.0, round_to=1)(scores, *spending(model, limits), lambda kept: 0.0)
    error = caught.value
    assert (error.what, error.limit, error.smallest) == ("params", limits["params"], smallest["params"])
    assert str(error).startswith(
        f"no model fits macs <= {limits['macs']:,.6g} and params <= {limits['params']:,.6g}: the smallest reachable "
        f"has macs = {smallest['macs']:,.6g} and params = {smallest['params']:,.6g}. Raise the limit of params, or"
    )
