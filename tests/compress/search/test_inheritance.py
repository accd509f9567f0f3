import pytest
import torch
from torch import nn

from compress.core.lineage import rebuild
from compress.graph.groups import trace_groups
from compress.graph.units import ChannelGroup, Member
from compress.measure.costs import cost_of
from compress.search.inheritance import Inheritance, kernel_norms
from compress.search.spaces import cuts  # noqa: F401
from compress.search.spaces.space import SPACES
from tests.toys import TOY_INPUT, toy_model


def test_kernel_norms_by_hand():
    net = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([3.0, -4.0]).view(2, 1, 1, 1))
    (group,) = trace_groups(net, torch.zeros(2, 1, 1, 1))
    assert kernel_norms(net, group).tolist() == [3.0, 4.0]
    assert kernel_norms(net, group, ("0",)).tolist() == [0.0, 0.0]


def test_transposed_kernels_make_channels_along_their_second_axis():
    net = nn.Sequential(nn.ConvTranspose2d(2, 3, 1, bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[3.0, 0.0, 1.0], [4.0, 2.0, 0.0]]).view(2, 3, 1, 1))
    group = ChannelGroup("0", 3, (Member("0", "out", ((0,), (1,), (2,)), 3),))
    assert kernel_norms(net, group).tolist() == [5.0, 2.0, 1.0]


@pytest.fixture(scope="module")
def inheritance():
    model = toy_model()
    return Inheritance(model, SPACES.bind("widths_and_blocks")(model.module, TOY_INPUT.example(2)))


def test_the_largest_kernels_are_kept_and_wider_keeps_all_of_narrower(inheritance):
    space = inheritance.space
    narrow, wide = ({"conv1": k, "block.conv1": 8, "conv2": 16} for k in (2, 4))
    few, more = inheritance.kept(space.settled(narrow, ()))["conv1"], inheritance.kept(space.settled(wide, ()))["conv1"]
    assert (few.sum(), more.sum()) == (2, 4)
    assert bool((more | ~few).all())
    group = next(group for group in space.groups if group.name == "conv1")
    norms_C = kernel_norms(inheritance.parent.module, group)
    assert norms_C[few].min() >= norms_C[~few].max()


def test_dropped_blocks_have_no_say_in_the_order(inheritance):
    group = next(group for group in inheritance.space.groups if group.name == "conv1")
    alone_C = inheritance.parent.module.conv1.weight.detach().double().flatten(1).norm(dim=1)
    assert torch.allclose(kernel_norms(inheritance.parent.module, group, ("block",)), alone_C)
    assert not torch.allclose(kernel_norms(inheritance.parent.module, group), alone_C)


@pytest.mark.parametrize("dropped", [(), ("block",)])
def test_counts_equal_what_is_measured_on_the_built_candidate(inheritance, dropped):
    candidate = inheritance.space.settled({"conv1": 4, "block.conv1": 2, "conv2": 10}, dropped)
    built = inheritance.build(candidate, config={"budget": "macs=0.4"})
    cost = cost_of(built)
    assert inheritance.count("macs", candidate) == cost.macs
    assert inheritance.count("params", candidate) == cost.params
    assert built.lineage.steps[-1].stage == "search"
    state = {key: value.shape for key, value in rebuild(built.lineage).state_dict().items()}
    assert state == {key: value.shape for key, value in built.module.state_dict().items()}


def test_the_parent_is_left_alone(inheritance):
    before = {key: value.clone() for key, value in inheritance.parent.module.state_dict().items()}
    inheritance.build(inheritance.space.smallest)
    after = inheritance.parent.module.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
