"""Gathering: the right rows of the right weights, gradients that are gradients, nothing else touched."""

import copy

import pytest
import torch
from torch import nn

from compress.graph.groups import trace_groups
from compress.graph.slopes import Wanted, slopes
from compress.graph.stats import NEEDS, UndeclaredReadError, gather
from compress.graph.surgery import masked
from compress.models.resnet_cifar import resnet_cifar
from compress.prune.criteria import CRITERIA
from tests.compress.graph.networks import network
from tests.toys import toy_model, toy_task


def part_of(parts, path, axis):
    return next(part for part in parts if (part.path, part.axis) == (path, axis))


def test_weights_by_hand():
    model = toy_model()
    groups = trace_groups(model.module, model.input.example(), is_verified=False)
    parts = gather(model.module, groups, ("weight",))["conv2"].weight_parts
    assert [(p.path, p.axis, p.is_norm, tuple(p.values.shape)) for p in parts] == [
        ("conv2", "out", False, (16, 72)),
        ("bn2", "out", True, (16, 1)),
        ("linear", "in", False, (16, 3)),
    ]
    assert torch.equal(parts[0].values[5], model.module.conv2.weight[5].flatten())
    assert torch.equal(parts[2].values[5], model.module.linear.weight[:, 5])


def test_flatten_and_transposed_rows_by_hand():
    module, x_BCHW = network("plain")
    groups = trace_groups(module, x_BCHW, is_verified=False)
    stats = gather(module, groups, ("weight",))
    linear = part_of(stats["up"].weight_parts, "linear", "in").values
    assert torch.equal(linear[2].view(64, 3), module.linear.weight[:, 128:192].T)
    up = part_of(stats["up"].weight_parts, "up", "out").values
    assert torch.equal(up[3], module.up.weight[:, 3].flatten())
    assert torch.equal(part_of(stats["b"].weight_parts, "up", "in").values[1], module.up.weight[7].flatten())
    assert "act" not in {part.path for part in stats["a"].weight_parts}


def test_gradients_are_those_of_the_mean_loss():
    model, task = toy_model(), toy_task()
    groups = trace_groups(model.module, model.input.example(), is_verified=False)
    stats = gather(model.module, groups, ("weight", "gradient", "gate"), task, num_batches=1, batch_size=96)["conv2"]
    x_BCHW, y_B = next(iter(task.batches("train", batch_size=96)))
    loss = task.loss(model.module(x_BCHW), y_B)
    (slope,) = torch.autograd.grad(loss, [model.module.linear.weight])
    assert torch.allclose(part_of(stats.gradient_parts, "linear", "in").values, slope.T, atol=1e-6)
    gate_C = (model.module.linear.weight * slope).sum(0)
    assert torch.allclose(part_of(stats.gate_parts, "linear", "in").values, gate_C[None], atol=1e-6)


def test_gates_of_the_readers_are_the_slope_of_the_loss_towards_the_cut():
    """Scaling what a channel's readers see by 1 - h moves the loss by -h times their gates."""
    model, task = toy_model(), toy_task()
    module = model.module.double()
    groups = trace_groups(module, model.input.example().double(), is_verified=False)
    x_BCHW, y_B = next(iter(task.batches("train", batch_size=96)))

    kept = {"conv1": torch.arange(8) != 3}
    whole, cut = module, masked(module, groups, kept)
    near = masked(module, groups, {})
    with torch.no_grad():
        for (name, parameter), target in zip(near.named_parameters(), cut.parameters(), strict=True):
            if name in ("block.conv1.weight", "conv2.weight"):
                parameter += 1e-5 * (target - parameter)
    x = x_BCHW.double()
    moved = (task.loss(near(x), y_B) - task.loss(whole(x), y_B)) / 1e-5
    weights = [module.block.conv1.weight, module.conv2.weight]
    slopes = torch.autograd.grad(task.loss(whole(x), y_B), weights)
    gate = sum((w * g)[:, 3].sum() for w, g in zip(weights, slopes, strict=True))
    assert moved.item() == pytest.approx(-gate.item(), rel=1e-2)


def uneven_resnet():
    """A CIFAR ResNet for the toy task whose channels differ much from each other."""
    torch.manual_seed(0)
    module = resnet_cifar((1, 8, 8), 3, depth=8, width=4)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, 0.3, 0.3)
            layer.running_var.uniform_(0.5, 2.0)
    return module.eval()


def loss_with_factor(module, group, channel, factor):
    """The loss over all training inputs when every reader of a channel sees it times `factor`."""
    task, scaled = toy_task(), copy.deepcopy(module).double()
    for member in group.members:
        if member.axis == "in":
            factors_C = torch.ones(member.size, dtype=torch.float64)
            factors_C[list(member.index[channel])] = factor
            shape = (1, -1) if isinstance(scaled.get_submodule(member.path), nn.Linear) else (1, -1, 1, 1)
            factors = factors_C.view(shape)
            scaled.get_submodule(member.path).register_forward_pre_hook(lambda _, args, f=factors: (args[0] * f,))
    x_BCHW, y_B = next(iter(task.batches("train", batch_size=96)))
    with torch.no_grad():
        return task.loss(scaled(x_BCHW.double()), y_B).item()


def test_gates_of_a_stream_with_padding_shortcuts_equal_finite_differences():
    module = uneven_resnet()
    groups = trace_groups(module, torch.randn(2, 1, 8, 8))
    stream = next(group for group in groups if group.name == "conv1")
    assert ("layer2.0.shortcut", "in") in {(member.path, member.axis) for member in stream.members}
    stats = gather(module, groups, ("gate",), toy_task(), num_batches=1, batch_size=96)
    for group in groups:
        gate_C = sum(part.values[0] for part in stats[group.name].gate_parts if part.axis == "in")
        step = 1e-4
        for channel in range(0, group.num_channels, 3):
            more, less = (loss_with_factor(module, group, channel, 1 + sign * step) for sign in (1, -1))
            slope = (more - less) / (2 * step)
            assert gate_C[channel].item() == pytest.approx(slope, rel=5e-3, abs=2e-5), (group.name, channel)


def test_a_channel_that_only_a_padding_shortcut_reads_is_worth_something():
    module = uneven_resnet()
    with torch.no_grad():
        for path in ("layer1.0.conv1", "layer2.0.conv1"):
            module.get_submodule(path).weight[:, 2] = 0
    groups = trace_groups(module, torch.randn(2, 1, 8, 8))
    stats = gather(module, groups, ("gate",), toy_task(), num_batches=2, batch_size=48)
    part = part_of(stats["conv1"].gate_parts, "layer2.0.shortcut", "in")
    assert (part.is_norm, tuple(part.values.shape)) == (False, (2, 4))
    scores_C = CRITERIA.bind("taylor")(stats["conv1"])
    assert scores_C[2] == part.values[:, 2].square().mean() > 0


def test_a_reader_that_runs_twice_counts_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.same = nn.Linear(1, 3), nn.Identity()

        def forward(self, x_B1HW):
            x_BC = x_B1HW.mean((1, 2, 3))[:, None] * torch.tensor([[1.0, 2.0, 3.0]])
            return self.linear(x_B1HW.mean((2, 3))) * 0 + self.same(x_BC) + self.same(x_BC)

    module, task = Twice(), toy_task()
    batch = next(iter(task.batches("train", batch_size=32)))
    weights = {"linear": module.linear.weight.requires_grad_(True)}
    x_BC = (batch[0].mean((1, 2, 3))[:, None] * torch.tensor([[1.0, 2.0, 3.0]])).requires_grad_(True)
    (slope_BC,) = torch.autograd.grad(task.loss(2 * x_BC, batch[1]), x_BC)
    module.same.register_forward_pre_hook(lambda _, args: (args[0] + 0 * module.linear.weight.sum(),))
    (found,) = slopes(module, Wanted(weights=weights, inputs=("same",)), task, [batch])
    assert torch.allclose(found.inputs["same"], (x_BC * slope_BC).sum(0), atol=1e-6)
    assert len(module.same._forward_pre_hooks) == 1


def test_nothing_is_left_behind():
    model, task = toy_model(), toy_task()
    module = model.module.train().requires_grad_(False)
    module.bn1.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    groups = trace_groups(module, model.input.example(), is_verified=False)
    stats = gather(module, groups, NEEDS, task, num_batches=2, batch_size=8)
    for parts in (stats["conv1"].weight_parts, stats["conv1"].folded_parts):
        for part in parts:
            part.values.zero_()
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in module.modules())
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert not any(p.requires_grad or p.grad is not None for p in module.parameters())
    assert module.bn2.training
    assert not module.bn1.training
    assert stats["conv1"].gate_parts[0].values.shape == (2, 8)


def test_only_what_was_declared_can_be_read():
    model = toy_model()
    groups = trace_groups(model.module, model.input.example(), is_verified=False)
    stats = gather(model.module, groups, ("weight",))["conv1"]
    with pytest.raises(UndeclaredReadError, match="'gate' of conv1"):
        _ = stats.gate_parts
    for need in sorted(set(NEEDS) - {"weight", "folded"}):
        with pytest.raises(ValueError, match=f"'{need}' and needs data: name a task"):
            gather(model.module, groups, (need,))
    with pytest.raises(AssertionError, match="no statistic 'wait'"):
        gather(model.module, groups, ("wait",))
    with pytest.raises(TypeError, match="num_batch"):
        gather(model.module, groups, ("weight",), num_batch=3)


def test_same_seed_same_inputs():
    model, task = toy_model(), toy_task()
    groups = trace_groups(model.module, model.input.example(), is_verified=False)
    one, two, other = (
        gather(model.module, groups, ("gate",), task, num_batches=1, batch_size=8, seed=seed)["conv1"].gate_parts[0]
        for seed in (0, 0, 1)
    )
    assert torch.equal(one.values, two.values)
    assert not torch.equal(one.values, other.values)


def test_norms_without_scale_have_no_part():
    module = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3, affine=False), nn.Conv2d(3, 2, 1)).eval()
    groups = trace_groups(module, torch.randn(2, 1, 4, 4))
    assert [p.path for p in gather(module, groups, ("weight",))["0"].weight_parts] == ["0", "2"]
