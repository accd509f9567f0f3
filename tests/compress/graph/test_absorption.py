"""Nothing is lost where removed channels really are copies or constants, and less is lost otherwise."""

import copy

import pytest
import torch
from torch import nn

from compress.graph.absorption import Mix, absorb
from compress.graph.groups import trace_groups
from compress.graph.stats import gather
from compress.graph.surgery import cut, masked, plan_from_kept
from compress.graph.units import BLOCKS
from compress.prune.compensations import COMPENSATIONS
from tests.compress.graph.networks import network, random_masks
from tests.compress.graph.random_task import random_task, small_resnet

EXACT = [("twin", {}), ("least_squares", {"ridge": 1e-9})]


class Grouped(nn.Module):
    """A grouped convolution with batch norm, and a last layer that reads every place by itself."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3)
        self.grouped, self.norm = nn.Conv2d(8, 8, 3, groups=2, bias=False), nn.BatchNorm2d(8)
        self.last = nn.Linear(8 * 16, 3)

    def forward(self, x_BCHW):
        y = torch.relu(self.first(x_BCHW))
        return self.last(torch.relu(self.norm(self.grouped(y))).flatten(1))


def made(name):
    if name == "grouped":
        torch.manual_seed(1)
        module, x_BCHW = Grouped().eval(), torch.randn(2, 2, 8, 8)
    else:
        module, x_BCHW = small_resnet() if name == "resnet8" else network(name)
    if name == "plain":
        brighten(module)
    return module, trace_groups(module, x_BCHW, is_verified=False), random_task(tuple(x_BCHW.shape[1:]), 3)


def brighten(module):
    """Shift the depthwise layer's outputs, so that hardly any are cut off by the ReLU behind."""
    with torch.no_grad():
        module.up.weight.mul_(4)
        module.depthwise.bias += 1


def group_named(groups, name):
    return next(group for group in groups if group.name == name)


def twinned(module, group, source, target, *, factor=1.0):
    """Make channel `target` of a group do what `source` does: same weights, norms and biases, times a factor.

    The factor is laid on the first norm or, without one, on the first layer; a ReLU behind hands it on.
    """
    scaled = next(
        (m.path for m in group.members if isinstance(module.get_submodule(m.path), nn.BatchNorm2d)), group.name
    )
    with torch.no_grad():
        for member in group.members:
            layer = module.get_submodule(member.path)
            if member.axis == "in":
                continue
            here, there = list(member.index[source]), list(member.index[target])
            own = factor if member.path == scaled else 1.0
            for name in ("weight", "bias", "running_mean", "running_var"):
                value = getattr(layer, name, None)
                if value is None:
                    continue
                rows = value.movedim(1, 0) if name == "weight" and getattr(layer, "transposed", False) else value
                rows[there] = rows[here] * (own if name in ("weight", "bias") else 1.0)


def outputs(module, task):
    x_BCHW, _ = next(iter(task.batches("train", batch_size=48)))
    with torch.no_grad():
        return module(x_BCHW)


def after_cut(module, groups, kept, task, name, **options):
    """What the network answers once its readers have taken over and the channels are gone."""
    compensation = COMPENSATIONS.bind(name, **options)
    stats = gather(module, groups, compensation.card.needs, task)
    moments = {group.name: stats[group.name].moments for group in groups} if compensation.card.needs else {}
    ready = absorb(module, groups, kept, moments, compensation)
    return outputs(cut(ready, plan_from_kept(groups, kept)), task)


def without(group, *channels):
    mask_C = torch.ones(group.num_channels, dtype=torch.bool)
    mask_C[list(channels)] = False
    return {group.name: mask_C}


#: Network and group: read by a padded convolution with batch norm; by two layers across a shortcut; by a linear
#: layer behind a mean; through a depthwise layer by a gate and a flatten; by a transposed convolution behind a
#: concatenation; by a grouped convolution; by a flatten.
READ = [
    ("toy", "block.conv1"),
    ("toy", "conv1"),
    ("toy", "conv2"),
    ("plain", "up"),
    ("plain", "b"),
    ("grouped", "first"),
    ("grouped", "grouped"),
    ("resnet8", "layer2.0.conv1"),
]


@pytest.mark.parametrize(("network_name", "group_name"), READ)
@pytest.mark.parametrize(("name", "options"), EXACT)
def test_a_copy_can_go_without_a_trace(network_name, group_name, name, options):
    module, groups, task = made(network_name)
    group = group_named(groups, group_name)
    twinned(module, group, 0, 1)
    whole, kept = outputs(module, task), without(group, 1)
    found = after_cut(module, groups, kept, task, name, **options)
    missed = after_cut(module, groups, kept, task, "none")
    assert torch.allclose(found, whole, atol=1e-4 * float(whole.abs().max())), (found - whole).abs().max()
    assert (missed - whole).abs().max() > 20 * (found - whole).abs().max()


@pytest.mark.parametrize(("name", "options"), EXACT)
@pytest.mark.parametrize("group_name", ["block.conv1", "conv2"])
def test_a_copy_of_another_size_can_go_without_a_trace(name, options, group_name):
    module, groups, task = made("toy")
    group = group_named(groups, group_name)
    twinned(module, group, 2, 5, factor=3.0)
    whole = outputs(module, task)
    found = after_cut(module, groups, without(group, 5), task, name, **options)
    assert torch.allclose(found, whole, atol=1e-4 * float(whole.abs().max()))


def constant_at(module, norm_path, channel, value):
    """Let a batch norm give the same for every input."""
    norm = module.get_submodule(norm_path)
    with torch.no_grad():
        norm.weight[channel], norm.bias[channel] = 0, value


@pytest.mark.parametrize("name", sorted(set(COMPENSATIONS) - {"none"}))
class TestConstants:
    def test_the_bias_of_a_linear_layer_takes_it(self, name):
        module, groups, task = made("toy")
        constant_at(module, "bn2", 4, 0.7)
        whole, kept = outputs(module, task), without(group_named(groups, "conv2"), 4)
        assert torch.allclose(after_cut(module, groups, kept, task, name), whole, atol=1e-4)
        assert not torch.allclose(after_cut(module, groups, kept, task, "none"), whole, atol=1e-2)

    def test_the_running_mean_takes_it_where_there_is_no_bias(self, name):
        module, groups, task = made("grouped")
        with torch.no_grad():
            module.first.weight[[1, 5]] = 0
            module.first.bias[[1, 5]] = torch.tensor([0.9, 0.9])
        group = group_named(groups, "first")
        channel = next(c for c, own in enumerate(group.members[0].index) if 1 in own)
        assert group.members[0].index[channel] == (1, 5)
        whole, kept = outputs(module, task), without(group, channel)
        assert torch.allclose(after_cut(module, groups, kept, task, name), whole, atol=1e-4)
        assert not torch.allclose(after_cut(module, groups, kept, task, "none"), whole, atol=1e-2)

    def test_at_a_padded_edge_it_is_not_exact(self, name):
        """The bias adds the constant where the kernel hangs over the edge, too; everywhere else it is exact."""
        torch.manual_seed(0)
        module, task = Padded().eval(), random_task((2, 8, 8), 3)
        constant_at(module, "norm", 2, 0.7)
        groups = trace_groups(module, torch.randn(2, 2, 8, 8))
        group = group_named(groups, "first")
        moments = {"first": gather(module, groups, ("moment",), task)["first"].moments}
        ready = absorb(module, groups, without(group, 2), moments, COMPENSATIONS.bind(name))
        smaller, x_BCHW = cut(ready, plan_from_kept(groups, without(group, 2))), torch.randn(2, 2, 8, 8)
        with torch.no_grad():
            gap = (smaller.maps(x_BCHW) - module.maps(x_BCHW)).abs()
        assert gap[..., 1:-1, 1:-1].max() < 1e-5
        assert gap.max() > 1e-3


class Padded(nn.Module):
    """Two padded convolutions, and a mean over places so that there is a loss."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 3, 3, padding=1)

    def maps(self, x_BCHW):
        return self.second(torch.relu(self.norm(self.first(x_BCHW))))

    def forward(self, x_BCHW):
        return self.maps(x_BCHW).mean((2, 3))


@pytest.mark.parametrize("network_name", ["toy", "plain", "grouped", "resnet8"])
def test_with_every_compensation_the_outputs_stay_closer(network_name):
    """Random channels of every group go, with shortcuts that pad among the readers of resnet8."""
    module, groups, task = made(network_name)
    whole, errors = outputs(module, task), dict.fromkeys(("none", "bias_absorption", "twin", "least_squares"), 0.0)
    for seed in range(4):
        masks = random_masks(groups, seed)
        for group in groups:
            for name in errors:
                found = after_cut(module, groups, {group.name: masks[group.name]}, task, name)
                errors[name] += float((found - whole).square().mean())
    assert max(errors["bias_absorption"], errors["twin"], errors["least_squares"]) < 0.8 * errors["none"]
    if network_name != "grouped":
        assert errors["least_squares"] == min(errors.values())


def test_a_masked_network_takes_over_like_a_cut_one():
    module, groups, task = made("plain")
    stats = gather(module, groups, ("moment",), task)
    kept = random_masks(groups, 3)
    moments = {group.name: stats[group.name].moments for group in groups}
    ready = absorb(module, groups, kept, moments, COMPENSATIONS.bind("least_squares"))
    expected = outputs(masked(ready, groups, kept), task)
    assert torch.allclose(outputs(cut(ready, plan_from_kept(groups, kept)), task), expected, atol=1e-4)


def test_the_groups_of_a_convolution_take_over_each_by_itself():
    """Channel 1 is twice channel 0 in the first group and -3 times channel 0, plus 1, in the second."""
    module, groups, task = made("grouped")
    with torch.no_grad():
        module.first.bias.fill_(9)
        for position, source, factor, shift in ((1, 0, 2.0, 0.0), (5, 4, -3.0, 91.0)):
            module.first.weight[position] = factor * module.first.weight[source]
            module.first.bias[position] = factor * module.first.bias[source] + shift
    group, whole = group_named(groups, "first"), outputs(module, task)
    assert [group.members[0].index[c] for c in (0, 1)] == [(0, 4), (1, 5)]
    found = after_cut(module, groups, without(group, 1), task, "twin")
    assert torch.allclose(found, whole, atol=1e-4 * float(whole.abs().max()))


def test_weights_by_hand():
    """Channel 1 is 2 times channel 0 plus 3: kernel 0 gains twice kernel 1, the bias 3 times the sum of kernel 1."""
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 1), nn.Flatten(), nn.Linear(16, 2))
    groups = trace_groups(module, torch.randn(2, 1, 4, 4))
    with torch.no_grad():
        module[1].weight[:] = torch.tensor([5.0, 7.0]).view(1, 2, 1, 1)
        module[1].bias[:] = 1.0
    moments = {"0": gather(module, groups, ("moment",), random_task((1, 4, 4), 2))["0"].moments}
    mix = Mix(torch.tensor([[2.0]]), torch.tensor([3.0]))
    ready = absorb(module, groups, {"0": torch.tensor([True, False])}, moments, lambda moments, kept_C: mix)
    assert ready[1].weight[0, 0].item() == 5 + 2 * 7
    assert ready[1].bias.item() == 1 + 7 * 3


def test_nothing_else_changes():
    module, groups, task = made("resnet8")
    before = copy.deepcopy(module.state_dict())
    stats = gather(module, groups, ("moment",), task, num_batches=1, batch_size=16)
    moments = {group.name: stats[group.name].moments for group in groups}
    compensation, group = COMPENSATIONS.bind("least_squares"), group_named(groups, "layer1.0.conv1")
    kept = without(group, 0, 3) | {BLOCKS: torch.tensor([True, False])}
    ready = absorb(module, groups, kept, moments, compensation)
    changed = {name for name, value in ready.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"layer1.0.conv2.weight", "layer1.0.bn2.running_mean"}
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    for same in (absorb(module, groups, {}, moments, compensation), absorb(module, groups, kept, {}, compensation)):
        assert all(torch.equal(value, before[name]) for name, value in same.state_dict().items())


def test_without_a_place_for_it_the_shift_is_left_out():
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Conv2d(2, 1, 1, bias=False), nn.Flatten(), nn.Linear(16, 2))
    groups = trace_groups(module, torch.randn(2, 1, 4, 4))
    moments = {"0": gather(module, groups, ("moment",), random_task((1, 4, 4), 2))["0"].moments}
    ready = absorb(module, groups, {"0": torch.tensor([True, False])}, moments, COMPENSATIONS.bind("bias_absorption"))
    assert all(torch.equal(a, b) for a, b in zip(ready.parameters(), module.parameters(), strict=True))


def test_a_shortcut_that_pads_takes_nothing_over():
    module, groups, task = made("resnet8")
    stream = group_named(groups, "conv1")
    stats = gather(module, groups, ("moment",), task, num_batches=1)
    moments = {"conv1": stats["conv1"].moments}
    assert "layer2.0.shortcut" in {own.path for own in moments["conv1"]}
    ready = absorb(module, groups, without(stream, 1), moments, COMPENSATIONS.bind("twin"))
    assert ready.get_submodule("layer2.0.shortcut").source == module.get_submodule("layer2.0.shortcut").source
    assert not torch.equal(ready.layer2[0].conv1.weight, module.layer2[0].conv1.weight)
