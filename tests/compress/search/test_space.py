import pytest
import torch
from torch import nn

from compress.graph.dependencies import Untraceable
from compress.graph.groups import trace_groups
from compress.search.spaces import cuts  # noqa: F401
from compress.search.spaces.cuts import counts_of
from compress.search.spaces.space import SPACES, Candidate, is_idle
from tests.toys import TOY_INPUT, toy_model


@pytest.fixture(scope="module")
def space():
    return SPACES.bind("widths_and_blocks", min_kept_ratio=0.5, step=0.25)(toy_model().module, TOY_INPUT.example(2))


@pytest.mark.parametrize(
    ("num_channels", "ratio", "step", "round_to", "expected"),
    [
        (8, 0.5, 0.25, 1, (4, 6, 8)),
        (8, 0.25, 0.125, 2, (2, 4, 6, 8)),
        (10, 0.25, 0.25, 4, (4, 8, 10)),
        (3, 0.1, 0.45, 1, (1, 2, 3)),
        (2, 0.5, 0.5, 8, (2,)),
        (6, 1.0, 0.5, 1, (6,)),
    ],
)
def test_counts(num_channels, ratio, step, round_to, expected):
    assert counts_of(num_channels, min_kept_ratio=ratio, step=step, round_to=round_to) == expected


@pytest.mark.parametrize("wrong", [{"min_kept_ratio": 0.0}, {"step": 0.0}, {"round_to": 0}, {"min_kept_ratio": 1.5}])
def test_senseless_options_are_refused(wrong):
    options = {"min_kept_ratio": 0.5, "step": 0.25, "round_to": 2} | wrong
    with pytest.raises(ValueError, match="choose a ratio"):
        counts_of(8, **options)


def test_the_toy_space_has_three_groups_and_a_block(space):
    assert space.counts == {"conv1": (4, 6, 8), "block.conv1": (4, 6, 8), "conv2": (8, 12, 16)}
    assert space.blocks == ("block",)
    assert space.num_candidates == 2 * 27
    assert space.largest == Candidate(widths={"conv1": 8, "block.conv1": 8, "conv2": 16})
    assert space.smallest.dropped == ("block",)


def test_a_group_inside_a_dropped_block_is_idle_and_full(space):
    inner = next(group for group in space.groups if group.name == "block.conv1")
    stream = next(group for group in space.groups if group.name == "conv1")
    assert is_idle(inner, ("block",))
    assert not is_idle(inner, ())
    assert not is_idle(stream, ("block",))
    one = space.settled({"conv1": 4, "block.conv1": 4, "conv2": 8}, ("block",))
    two = space.settled({"conv1": 4, "block.conv1": 6, "conv2": 8}, ("block",))
    assert one == two
    assert one.key == two.key
    assert one.widths["block.conv1"] == 8


def test_decisions_come_back(space):
    candidate = space.settled({"conv1": 4, "block.conv1": 6, "conv2": 12}, ())
    decisions = space.decisions_of(candidate)
    assert decisions == {"keep block": True, "width conv1": 4, "width block.conv1": 6, "width conv2": 12}
    assert space.candidate_of(decisions) == candidate
    assert set(space.choices()) == set(decisions) == set(space.distributions())


def test_widths_alone_and_blocks_alone():
    module, x_BCHW = toy_model().module, TOY_INPUT.example(2)
    assert SPACES.bind("widths")(module, x_BCHW).blocks == ()
    alone = SPACES.bind("blocks")(module, x_BCHW)
    assert alone.choices() == {"keep block": (False, True)}
    assert alone.candidate_of({"keep block": False}).dropped == ("block",)


def test_a_space_without_a_choice_is_refused():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 2))
    assert trace_groups(net, torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match="nothing varies"):
        SPACES.bind("blocks")(net, torch.zeros(1, 1, 4, 4))


def test_blocks_of_a_network_that_cannot_be_traced_can_still_be_left_out():
    from compress.graph import groups

    def refuse(module, x_BCHW):
        raise Untraceable(module, ZeroDivisionError("modulo by zero"))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groups, "components", refuse)
        space = SPACES.bind("blocks")(toy_model().module, TOY_INPUT.example(2))
        with pytest.raises(Untraceable, match="ToyNet cannot be traced"):
            SPACES.bind("widths")(toy_model().module, TOY_INPUT.example(2))
    assert space.choices() == {"keep block": (False, True)}
    assert (space.largest.widths, space.smallest.dropped) == ({}, ("block",))
