"""Gathering: the right rows of the right weights, gradients that are gradients, nothing else touched."""

import pytest
import torch
from torch import nn

from compress.graph.groups import trace_groups
from compress.graph.stats import UndeclaredReadError, gather
from compress.graph.surgery import masked
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


def test_nothing_is_left_behind():
    model, task = toy_model(), toy_task()
    module = model.module.train().requires_grad_(False)
    module.bn1.eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    groups = trace_groups(module, model.input.example(), is_verified=False)
    stats = gather(module, groups, ("weight", "gate"), task, num_batches=2, batch_size=8)
    stats["conv1"].weight_parts[0].values.zero_()
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
    with pytest.raises(ValueError, match="name a task"):
        gather(model.module, groups, ("gate",))


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
