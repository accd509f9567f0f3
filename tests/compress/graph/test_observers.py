"""Running sums equal the same figures of all inputs at once."""

import math
from collections import defaultdict

import pytest
import torch
from torch import nn
from torch.nn import functional

from compress.graph import observers
from compress.graph.groups import trace_groups
from compress.graph.observers import effective_rank
from compress.graph.stats import gather
from tests.compress.graph.networks import network
from tests.compress.graph.random_task import random_task, small_resnet

NEEDS = ("moment", "activity", "spectrum", "influence")


def case(name):
    module, x_BCHW = small_resnet() if name == "resnet8" else network(name)
    groups = trace_groups(module, x_BCHW, is_verified=False)
    return module, groups, random_task(tuple(x_BCHW.shape[1:]), 3 if name in ("toy", "plain", "resnet8") else 10)


def seen_by_readers(module, groups, task):
    """All inputs at once: (B, S, P) by path of each reader, and the labels."""
    x_BCHW, y_B = next(task.batches("train", batch_size=48))
    seen, paths = {}, {m.path for group in groups for m in group.members if m.axis == "in"}
    hooks = [
        module.get_submodule(path).register_forward_pre_hook(lambda _, args, p=path: seen.update({p: args[0]}))
        for path in paths
    ]
    with torch.no_grad():
        module(x_BCHW)
    for hook in hooks:
        hook.remove()
    return seen, y_B


def own_channels(group, path, x):
    member = next(m for m in group.members if (m.path, m.axis) == (path, "in"))
    x_BSP = x.flatten(2) if x.ndim > 2 else x.unsqueeze(2)
    return torch.stack([x_BSP[:, list(own)].flatten(1) for own in member.index], 1).double(), x_BSP.double()


@pytest.mark.parametrize("name", ["toy", "plain", "resnet8"])
def test_sums_over_batches_equal_all_inputs_at_once(name):
    module, groups, task = case(name)
    stats = gather(module, groups, NEEDS, task, num_batches=4, batch_size=13)
    seen, y_B = seen_by_readers(module, groups, task)
    assert len(seen) >= 4
    for group in groups:
        own = stats[group.name]
        readers = [member.path for member in group.members if member.axis == "in"]
        assert [m.path for m in own.moments] == [a.path for a in own.activities] == readers
        for moments, activity, turn in zip(own.moments, own.activities, own.influence_parts, strict=True):
            x_BCP, whole_BSP = own_channels(group, moments.path, seen[moments.path])
            x_CN = x_BCP.movedim(1, 0).flatten(1)
            assert moments.count == x_CN.shape[1]
            assert torch.allclose(moments.mean_C, x_CN.mean(1), atol=1e-6)
            expected_CC = torch.cov(x_CN, correction=0).view(len(x_CN), -1)
            assert torch.allclose(moments.covariance_CC, expected_CC, atol=1e-5)
            assert torch.allclose(moments.second_CC, x_CN @ x_CN.T / x_CN.shape[1], atol=1e-5)
            assert torch.allclose(activity.zeros_C, (x_CN == 0).double().mean(1).float())
            assert torch.allclose(activity.mean_C, x_CN.abs().mean(1).float(), atol=1e-6)
            peaks = torch.stack([x_BCP[y_B == k].abs().mean((0, 2)) for k in range(3)])
            fires = torch.stack([(x_BCP[y_B == k] != 0).double().mean((0, 2)) for k in range(3)])
            assert torch.allclose(activity.peak_C, peaks.amax(0).float(), atol=1e-6)
            assert torch.allclose(activity.firing_C, fires.amax(0).float(), atol=1e-6)
            assert (activity.firing_C >= 1 - activity.zeros_C - 1e-6).all()
            assert torch.allclose(turn.values[:, 0], turns(group, moments.path, whole_BSP), atol=1e-5)


def turns(group, path, whole_BSP):
    """1 - cos of what a layer reads with and without each channel, literally."""
    member = next(m for m in group.members if (m.path, m.axis) == (path, "in"))
    found = []
    for own in member.index:
        without = whole_BSP.clone()
        without[:, list(own)] = 0
        found.append((1 - functional.cosine_similarity(whole_BSP.flatten(1), without.flatten(1), eps=1e-30)).mean())
    return torch.stack(found).float()


def test_few_of_many_places_are_enough(monkeypatch):
    module, groups, task = case("toy")
    whole = gather(module, groups, ("moment",), task)["conv1"].moments[0]
    monkeypatch.setattr(observers, "MOST_PLACES", 48)
    some, again = (gather(module, groups, ("moment",), task)["conv1"].moments[0] for _ in range(2))
    assert (some.count, whole.count) == (48 * 48, 48 * 64)
    assert torch.equal(some.covariance_CC, again.covariance_CC)
    assert torch.allclose(some.mean_C, whole.mean_C, atol=0.1)
    assert not torch.equal(some.mean_C, whole.mean_C)


def test_ranks_of_maps(monkeypatch):
    module, groups, task = case("toy")
    seen, _ = seen_by_readers(module, groups, task)
    ranks_BC = effective_rank(seen["block.conv2"])

    def gathered():
        parts = gather(module, groups, ("spectrum",), task, batch_size=13)["block.conv1"].rank_parts
        return next(part.values for part in parts if part.path == "block.conv2")

    some_C1 = gathered()
    assert (ranks_BC.amin(0).le(some_C1[:, 0]) & ranks_BC.amax(0).ge(some_C1[:, 0])).all()
    monkeypatch.setattr(observers, "MOST_MAPS", 48)
    assert torch.allclose(gathered()[:, 0], ranks_BC.mean(0), atol=1e-4)


def test_a_group_that_only_linear_layers_read_is_looked_at_where_it_is_made():
    module, groups, task = case("toy")
    (part,) = gather(module, groups, ("spectrum",), task)["conv2"].rank_parts
    assert (part.path, part.axis) == ("bn2", "out")
    assert (part.values > 1).all()


def test_effective_rank_by_hand():
    sigma = torch.diag(torch.tensor([3.0, 1.0]))
    assert effective_rank(sigma).item() == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))
    one = torch.outer(torch.arange(1.0, 6), torch.ones(4))
    assert effective_rank(one).item() == pytest.approx(1, abs=1e-4)


def test_a_channel_that_fires_for_one_class_alone_is_seen():
    class Specialist(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear = nn.Conv2d(1, 2, 1), nn.Linear(2, 3)

        def forward(self, x_BCHW):
            return self.linear(torch.relu(self.conv(x_BCHW)).mean((2, 3)))

    module, task = Specialist().eval(), random_task((1, 4, 4), 3)
    with torch.no_grad():
        module.conv.weight.fill_(1)
        module.conv.bias[:] = torch.tensor([-0.9, 9.0])
    groups = trace_groups(module, torch.randn(2, 1, 4, 4))
    activity = gather(module, groups, ("activity",), task)["conv"].activities[0]
    assert activity.zeros_C[1] == 0
    assert activity.peak_C[0] > activity.mean_C[0]
    rates = defaultdict(list)
    x_BCHW, y_B = next(task.batches("train", batch_size=48))
    for value, label in zip(torch.relu(module.conv(x_BCHW)).mean((2, 3))[:, 0], y_B.tolist(), strict=True):
        rates[label].append(float(value > 0))
    assert activity.firing_C[0].item() == pytest.approx(max(sum(own) / len(own) for own in rates.values()))
