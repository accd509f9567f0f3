"""Channels in another order: the network computes the same."""

import pytest
import torch

from compress.core.random import generator
from compress.graph.groups import trace_groups
from compress.graph.renaming import group_on, is_renamable, renamed
from tests.compress.graph.networks import SMALL, network


@pytest.mark.parametrize("name", SMALL)
def test_outputs_stay_and_nothing_happens_in_place(name):
    module, x_BCHW = network(name)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with torch.no_grad():
        expected, changed = module(x_BCHW), module
        groups = [g for g in trace_groups(module, x_BCHW, is_verified=False) if is_renamable(module, g)]
        assert groups
        for group in groups:
            changed = renamed(changed, group, torch.randperm(group.num_channels, generator=generator(0)).tolist())
        assert torch.allclose(changed(x_BCHW), expected, atol=1e-4)
    assert all(torch.equal(before[key], value) for key, value in module.state_dict().items())
    assert any(not torch.equal(before[key], value) for key, value in changed.state_dict().items())


def test_a_table_in_the_structure_is_in_the_way():
    module, x_BCHW = network("resnet20")
    groups = {group.name: group for group in trace_groups(module, x_BCHW, is_verified=False)}
    assert not is_renamable(module, groups["conv1"])
    assert is_renamable(module, groups["layer1.0.conv1"])


def test_finds_the_group_that_owns_an_axis():
    module, x_BCHW = network("plain")
    groups = trace_groups(module, x_BCHW, is_verified=False)
    assert group_on(groups, "b", "in")[0].name == "a"
    assert group_on(groups, "up", "in") is None
    assert group_on(groups, "linear", "in") is None
    assert group_on(groups, "linear", "out") is None
