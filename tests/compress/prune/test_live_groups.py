"""Live weights of groups, channels first."""

import pytest
import torch
from torch import nn

from compress.graph.groups import trace_groups
from compress.graph.stats import gather
from compress.graph.units import ChannelGroup, Member
from compress.models.mobilenet_v2_small import MobileNetV2Small
from compress.models.resnet_cifar import ResNetCifar
from compress.prune.live_groups import LiveGroups
from tests.toys import TOY_INPUT, toy_model


def plain(path, axis, size):
    return Member(path, axis, tuple((c,) for c in range(size)), size)


def found(net, *members, num_channels=2):
    group = ChannelGroup(members[0].path, num_channels, members)
    (live,) = LiveGroups(net, (group,)).of(net)
    return live


def test_what_makes_the_channels_and_the_norms_they_pass():
    module = toy_model().module
    groups = trace_groups(module, TOY_INPUT.example(), is_verified=False)
    live = {group.name: group for group in LiveGroups(module, groups).of(module)}
    assert list(live) == ["conv1", "block.conv1", "conv2"]
    stem = live["conv1"]
    assert [tuple(kernel.shape) for kernel in stem.kernels] == [(8, 9), (8, 72)]
    assert [tuple(scale.shape) for scale in (*stem.scales, *stem.shifts)] == [(8,)] * 4
    assert torch.equal(stem.kernels[1], module.block.conv2.weight.flatten(1))
    assert stem.num_channels == 8


@pytest.mark.parametrize("net", [ResNetCifar(3, 10, num_blocks=1, width=4), MobileNetV2Small(3, 10, width=0.25)])
def test_rows_are_those_that_criteria_see(net):
    groups = trace_groups(net, torch.rand(2, 3, 16, 16), is_verified=False)
    stats = gather(net, groups, ("weight",))
    for live in LiveGroups(net, groups).of(net):
        parts = [part for part in stats[live.name].weight_parts if part.axis == "out"]
        wanted = [part.values for part in parts if not part.is_norm] + [part.values for part in parts if part.is_norm]
        assert torch.equal(live.rows(), torch.cat(wanted, 1))


def test_gradients_reach_the_network():
    module = toy_model().module
    groups = trace_groups(module, TOY_INPUT.example(), is_verified=False)
    live = LiveGroups(module, groups)(module, 0.0)["groups"]
    (live[0].kernels[1][3].sum() + 2 * live[0].scales[0][5] + 3 * live[0].shifts[1][1]).backward()
    slope = module.block.conv2.weight.grad
    assert torch.equal(slope.flatten(1).sum(1), 72.0 * (torch.arange(8) == 3))
    assert torch.equal(module.bn1.weight.grad, 2.0 * (torch.arange(8) == 5))
    assert torch.equal(module.block.bn2.bias.grad, 3.0 * (torch.arange(8) == 1))


def test_sees_the_weights_of_the_moment():
    module = toy_model().module
    live = LiveGroups(module, trace_groups(module, TOY_INPUT.example(), is_verified=False))
    with torch.no_grad():
        module.conv1.weight.fill_(7.0)
    assert bool((live.of(module)[0].kernels[0] == 7.0).all())


def test_transposed_convolution():
    net = nn.ModuleDict({"up": nn.ConvTranspose2d(3, 2, 1)})
    assert torch.equal(found(net, plain("up", "out", 2)).kernels[0], net["up"].weight[:, :, 0, 0].T)


def test_depthwise_convolution_is_a_kernel_of_its_own():
    net = nn.ModuleDict({"a": nn.Conv2d(1, 2, 1), "d": nn.ConvTranspose2d(2, 2, 3, groups=2)})
    live = found(net, plain("a", "out", 2), plain("d", "out", 2))
    assert torch.equal(live.kernels[1], net["d"].weight.flatten(1))


def test_linear_layer_and_what_only_reads_is_left_out():
    net = nn.ModuleDict({"a": nn.Linear(3, 2), "act": nn.PReLU(2), "b": nn.Linear(2, 4)})
    live = found(net, plain("a", "out", 2), plain("act", "out", 2), plain("b", "in", 2))
    assert len(live.kernels) == 1
    assert torch.equal(live.kernels[0], net["a"].weight)
    assert live.scales == ()


def test_part_of_a_layer_and_several_positions_a_channel():
    net = nn.ModuleDict({"a": nn.Linear(1, 6), "n": nn.BatchNorm1d(6)})
    with torch.no_grad():
        net["a"].weight[:, 0] = torch.arange(6.0)
        net["n"].weight.copy_(torch.arange(6.0))
    index = ((4, 5), (0, 1))
    live = found(net, Member("a", "out", index, 6), Member("n", "out", index, 6))
    assert live.kernels[0].tolist() == [[4.0, 5.0], [0.0, 1.0]]
    assert [scale.tolist() for scale in live.scales] == [[4.0, 0.0], [5.0, 1.0]]
    assert live.rows().tolist() == [[4.0, 5.0, 4.0, 5.0], [0.0, 1.0, 0.0, 1.0]]


def test_bare_parameters():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.in_proj_weight = nn.Parameter(torch.arange(12.0).view(4, 3))
            self.layer_scale = nn.Parameter(torch.tensor([[[1.0]], [[2.0]], [[3.0]]]))
            self.pos_embedding = nn.Parameter(torch.zeros(1, 5, 3))

    net = nn.ModuleDict({"a": Bare(), "b": nn.Linear(2, 3)})
    made = Member("a", "in_proj_weight.0", ((0, 2), (1, 3)), 4)
    assert found(net, made).kernels[0].tolist() == [[0.0, 1.0, 2.0, 6.0, 7.0, 8.0], [3.0, 4.0, 5.0, 9.0, 10.0, 11.0]]
    read, scale = plain("a", "in_proj_weight.1", 3), plain("a", "layer_scale.0", 3)
    live = found(net, plain("b", "out", 3), read, scale, plain("a", "pos_embedding.2", 3), num_channels=3)
    assert len(live.kernels) == 1
    assert [value.tolist() for value in (*live.scales, *live.shifts)] == [[1.0, 2.0, 3.0]]


def test_norm_without_weights():
    net = nn.ModuleDict({"a": nn.Linear(1, 2), "n": nn.BatchNorm1d(2, affine=False)})
    assert found(net, plain("a", "out", 2), plain("n", "out", 2)).scales == ()


def test_group_without_weights_is_left_out():
    net = nn.ModuleDict({"n": nn.Identity(), "a": nn.Linear(2, 2)})
    group = ChannelGroup("a", 2, (plain("a", "in", 2),))
    assert LiveGroups(net, (group,)).of(net) == ()
