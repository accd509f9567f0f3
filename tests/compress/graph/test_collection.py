"""Everything from one pass, blocks beside channels, and needs that are trained for."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from compress.graph import stats as stats_module
from compress.graph.groups import find_blocks, trace_groups
from compress.graph.stats import GATHERERS, NEEDS, OF_BLOCKS, NotSeen, Part, gather
from compress.graph.units import BLOCKS, Block
from compress.prune.criteria import CRITERIA
from tests.compress.graph.networks import network
from tests.compress.graph.random_task import random_task
from tests.toys import toy_model, toy_task


def toy():
    model = toy_model()
    torch.manual_seed(0)
    for layer in model.module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0.2, 0.3)
    return model.module, trace_groups(model.module, model.input.example(), is_verified=False), toy_task()


def test_all_needs_together_take_one_forward_and_one_backward_pass_a_batch(monkeypatch):
    module, groups, task = toy()
    calls = {"forward": 0, "backward": 0}
    module.register_forward_hook(lambda *_: calls.update(forward=calls["forward"] + 1))
    grad = torch.autograd.grad

    def counted(*args, **more):
        calls["backward"] += 1
        return grad(*args, **more)

    monkeypatch.setattr(torch.autograd, "grad", counted)
    gather(module, groups, NEEDS, task, num_batches=3, batch_size=8)
    assert calls == {"forward": 3, "backward": 3}
    gather(module, groups, OF_BLOCKS, task, num_batches=3, batch_size=8, blocks=find_blocks(module))
    assert calls == {"forward": 6, "backward": 6}
    gather(module, groups, ("moment", "activity", "spectrum", "influence"), task, num_batches=3, batch_size=8)
    assert calls == {"forward": 9, "backward": 6}
    gather(module, groups, ("weight", "folded"))
    assert calls == {"forward": 9, "backward": 6}


@pytest.mark.parametrize("name", ["toy", "plain"])
def test_a_statistic_does_not_depend_on_what_else_is_asked_for(name):
    module, x_BCHW = network(name)
    groups, task = trace_groups(module, x_BCHW, is_verified=False), random_task(tuple(x_BCHW.shape[1:]), 3)
    together = gather(module, groups, NEEDS, task, num_batches=2, batch_size=16)
    for need in NEEDS:
        alone = gather(module, groups, (need,), task, num_batches=2, batch_size=16)
        for group in groups:
            for one, other in zip(alone[group.name].parts(need), together[group.name].parts(need), strict=True):
                for a, b in zip(vars(one).values(), vars(other).values(), strict=True):
                    assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("name", ["toy", "plain", "resnet20"])
def test_gates_of_inputs_add_up_to_the_gates_of_batches(name):
    module, x_BCHW = network(name)
    groups = trace_groups(module, x_BCHW, is_verified=False)
    task = random_task(tuple(x_BCHW.shape[1:]), 3 if name in ("toy", "plain") else 10)
    stats = gather(module, groups, ("gate", "sample_gate"), task, num_batches=2, batch_size=6)
    for group in groups:
        (part,) = stats[group.name].sample_gate_parts
        assert part.values.shape == (12, group.num_channels)
        means_NC = part.values.view(2, 6, -1).mean(1)
        gates_NC = sum(part.values for part in stats[group.name].gate_parts if part.axis == "in")
        assert torch.allclose(means_NC, gates_NC, atol=1e-5 * float(1 + gates_NC.abs().max())), group.name


def test_the_gate_of_an_input_is_that_of_a_batch_of_one():
    module, groups, task = toy()
    together = gather(module, groups, ("sample_gate",), task, num_batches=1, batch_size=5)
    single = gather(module, groups, ("gate",), task, num_batches=5, batch_size=1)
    for group in groups:
        gates_NC = sum(part.values for part in single[group.name].gate_parts if part.axis == "in")
        assert torch.allclose(together[group.name].sample_gate_parts[0].values, gates_NC, atol=1e-6)


def with_factor(module, path, factor):
    """A copy in which a block adds `factor` times what it adds."""
    scaled = copy.deepcopy(module).double()
    block = scaled.get_submodule(path)
    block.register_forward_hook(lambda _, args, output: args[0] + factor * (output - args[0]))
    return scaled


def test_gates_of_blocks_equal_finite_differences():
    module, groups, task = toy()
    blocks = find_blocks(module)
    assert [block.name for block in blocks] == ["block"]
    stats = gather(module, groups, ("gate", "sample_gate"), task, num_batches=1, batch_size=96, blocks=blocks)[BLOCKS]
    x_BCHW, y_B = next(iter(task.batches("train", batch_size=96)))
    more, less = (
        task.loss(with_factor(module, "block", 1 + step)(x_BCHW.double()), y_B).item() for step in (1e-4, -1e-4)
    )
    slope = (more - less) / 2e-4
    (gate,), (each,) = stats.gate_parts, stats.sample_gate_parts
    assert (gate.values.shape, each.values.shape, stats.num_channels) == ((1, 1), (96, 1), 1)
    assert gate.values.item() == pytest.approx(slope, rel=1e-3)
    assert each.values.mean().item() == pytest.approx(slope, rel=1e-3)


def test_influence_of_blocks():
    module, _, task = toy()
    found = {}
    module.block.register_forward_hook(lambda _, args, output: found.update(before=args[0], after=output))
    (part,) = gather(module, (), ("influence",), task, num_batches=1, blocks=find_blocks(module))[
        BLOCKS
    ].influence_parts
    x_BCHW, _ = next(iter(task.batches("train", batch_size=96)))
    with torch.no_grad():
        module(x_BCHW)
    before, after = (found[key].flatten(1) for key in ("before", "after"))
    cosine_B = (before * after).sum(1) / before.norm(dim=1) / after.norm(dim=1)
    assert part.values.shape == (1, 1)
    assert part.values.item() == pytest.approx(1 - cosine_B.mean().item(), abs=5e-3)


def test_blocks_without_any_group():
    module, _, task = toy()
    module.requires_grad_(False)
    stats = gather(module, (), OF_BLOCKS, task, num_batches=2, batch_size=8, blocks=(Block("block"),))
    assert list(stats) == [BLOCKS]
    assert stats[BLOCKS].gate_parts[0].values.abs().sum() > 0


def test_blocks_have_no_weights():
    module, groups, task = toy()
    for need in sorted(set(NEEDS) - set(OF_BLOCKS)):
        with pytest.raises(ValueError, match=f"'{need}', which blocks do not have: it scores channels only"):
            gather(module, groups, (need,), task, blocks=find_blocks(module))


@pytest.mark.parametrize("name", [name for name in sorted(CRITERIA) if CRITERIA[name].extra.get("scores_blocks")])
def test_criteria_that_score_blocks_get_what_they_need(name):
    if set(CRITERIA[name].needs) & set(GATHERERS):
        pytest.skip("trained")
    module, groups, task = toy()
    stats = gather(module, groups, CRITERIA[name].needs, task, num_batches=2, batch_size=8, blocks=find_blocks(module))
    assert list(stats) == [*(group.name for group in groups), BLOCKS]
    assert all(CRITERIA.bind(name)(own).shape == (own.num_channels,) for own in stats.values())


def test_a_network_that_changes_tensors_in_place():
    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.block, self.linear = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 3)

        def forward(self, x_BCHW):
            x_BCHW -= 1
            y = self.block(self.conv(x_BCHW).relu_()).relu_()
            return self.linear(y.mean((2, 3)))

    module, task = InPlace(), random_task((1, 8, 8), 3)
    groups = trace_groups(module, torch.randn(2, 1, 8, 8), is_verified=False)
    needs = ("gate", "sample_gate", "moment")
    for blocks in ((), (Block("block"),)):
        stats = gather(module, groups, needs[: 2 if blocks else 3], task, num_batches=1, batch_size=8, blocks=blocks)
        gates_NC = sum(part.values for part in stats["conv"].gate_parts if part.axis == "in")
        assert torch.allclose(stats["conv"].sample_gate_parts[0].values.mean(0), gates_NC[0], atol=1e-6)


def test_a_layer_whose_weights_somebody_else_takes():
    class Borrowed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

        def forward(self, x_BCHW):
            return nn.functional.linear(self.conv(x_BCHW).mean((2, 3)), self.linear.weight)

    module, task = Borrowed(), random_task((1, 8, 8), 3)
    groups = trace_groups(module, torch.randn(2, 1, 8, 8))
    with pytest.warns(NotSeen, match="'sample_gate' of conv leaves out linear"):
        stats = gather(module, groups, ("gate", "sample_gate"), task, num_batches=1)["conv"]
    with pytest.warns(NotSeen, match="'moment' of conv leaves out linear"):
        assert gather(module, groups, ("moment",), task, num_batches=1)["conv"].moments == ()
    assert stats.sample_gate_parts == ()
    assert len(stats.gate_parts) == 2


def test_needs_that_are_trained_for(monkeypatch):
    module, groups, task = toy()
    asked = []

    def trained(module, groups, task, settings):
        asked.append(settings)
        names = [*(group.name for group in groups), BLOCKS]
        return {name: (Part(name, "in", False, torch.ones(2, 1)),) for name in names}

    monkeypatch.setitem(stats_module.GATHERERS, "attention", trained)
    settings = {"num_batches": 2, "batch_size": 8, "seed": 3, "blocks": find_blocks(module), "limits": {"macs": 1.0}}
    stats = gather(module, groups, ("attention", "gate"), task, **settings)
    assert stats["conv1"].parts("attention")[0].values.shape == (2, 1)
    assert stats[BLOCKS].parts("attention")[0].path == BLOCKS
    assert len(stats["conv1"].gate_parts) > 2
    assert asked == [stats_module.Settings(**settings)]
    with pytest.raises(ValueError, match="'attention' and needs data"):
        gather(module, groups, ("attention",))


def test_training_inputs_are_seen_as_they_are():
    """No augmentation, whatever the task does for training."""
    module, groups, task = toy()
    noisy = replace(task, augment=lambda x_BCHW, draw: x_BCHW * 0)
    plain, other = (gather(module, groups, ("moment",), one, num_batches=2)["conv1"] for one in (task, noisy))
    assert torch.equal(plain.moments[0].covariance_CC, other.moments[0].covariance_CC)
