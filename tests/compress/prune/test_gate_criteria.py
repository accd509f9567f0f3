"""Criteria from trained gates find what is planted: channels and blocks that the task does not need."""

import functools

import pytest
import torch
from torch import nn

from compress.core.random import generator
from compress.graph.groups import find_blocks, trace_groups
from compress.graph.parts import GroupStats, Part
from compress.graph.stats import gather
from compress.graph.units import BLOCKS
from compress.prune.criteria import CRITERIA
from compress.prune.criteria.family import NeutralScores
from tests.toys import ToyBlock, ToyNet, toy_task

CRITERIA_OF_GATES = ("attention", "learned_gates")


class Planted(ToyNet):
    """A toy network of which half of the last channels, and the second block, do nothing for the task."""

    def __init__(self):
        super().__init__(1, 3)
        self.useless = ToyBlock(8)

    def forward(self, x_BCHW):
        y_BCHW = self.block(torch.relu(self.bn1(self.conv1(x_BCHW))))
        y_BCHW = torch.relu(self.bn2(self.conv2(self.useless(y_BCHW))))
        return self.linear(y_BCHW.mean((2, 3)))


@functools.cache
def planted():
    """Train with all of it silent; then let the block and the odd channels speak, softly and at random."""
    torch.manual_seed(0)
    module, task = Planted(), toy_task()
    nn.init.zeros_(module.useless.bn2.weight)
    silent = [module.useless.bn2.weight]
    odd = torch.arange(16) % 2 == 1
    optimizer = torch.optim.Adam([p for p in module.parameters() if all(p is not one for one in silent)], lr=0.02)
    ((x_BCHW, y_B),) = task.batches("train", batch_size=96)
    for _ in range(60):
        module.linear.weight.data[:, odd] = 0
        optimizer.zero_grad()
        task.loss(module(x_BCHW), y_B).backward()
        optimizer.step()
    draw = generator(0, "planted")
    module.linear.weight.data[:, odd] = 0.02 * torch.randn(3, 8, generator=draw)
    module.useless.bn2.weight.data = 0.02 * torch.randn(8, generator=draw)
    module.zero_grad()
    return module.eval(), trace_groups(module, x_BCHW[:2])


@functools.cache
def scores(criterion, limit=None):
    module, groups = planted()
    blocks = find_blocks(module)
    limits = None if limit is None else {"macs": limit}
    stats = gather(
        module,
        groups,
        CRITERIA[criterion].needs,
        toy_task(),
        num_batches=8,
        batch_size=32,
        blocks=blocks,
        limits=limits,
    )
    return {name: CRITERIA.bind(criterion)(own) for name, own in stats.items()}


@pytest.mark.parametrize("criterion", CRITERIA_OF_GATES)
class TestBoth:
    def test_useless_channels_come_last(self, criterion):
        scores_C = scores(criterion)["conv2"]
        assert scores_C.shape == (16,)
        useless = scores_C[1::2]
        assert (scores_C[::2] > useless.max()).sum() >= 4
        assert useless.mean() < 0.5 * scores_C[::2].mean()
        assert set(scores_C.argsort()[:6].tolist()) <= set(range(1, 16, 2))

    def test_the_useless_block_comes_last(self, criterion):
        module, _ = planted()
        assert [block.name for block in find_blocks(module)] == ["block", "useless"]
        needed, useless = scores(criterion)[BLOCKS].tolist()
        assert needed > useless

    def test_scores_are_strictly_ordered(self, criterion):
        for name, own in scores(criterion).items():
            assert (own >= 0).all()
            assert len(own.unique()) == len(own), name

    def test_the_network_is_as_it_was(self, criterion):
        module, _ = planted()
        before = {name: value.clone() for name, value in module.state_dict().items()}
        scores.__wrapped__(criterion)
        assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
        assert all(parameter.requires_grad and parameter.grad is None for parameter in module.parameters())

    def test_a_group_without_gates_scores_the_same_everywhere(self, criterion):
        need = CRITERIA[criterion].needs[0]
        with pytest.warns(NeutralScores, match="no gate"):
            assert CRITERIA.bind(criterion)(GroupStats("a", 3, {need: ()})).tolist() == [1, 1, 1]


def test_attention_by_hand():
    gates = Part("a", "in", False, torch.tensor([[0.0, 0.0], [20.0, -20.0], [20.0, 20.0]]))
    assert CRITERIA.bind("attention")(GroupStats("a", 3, {"attention": [gates]})).tolist() == pytest.approx(
        [0.5, 0.5, 1]
    )


def test_learned_gates_by_hand():
    gates = Part("a", "in", False, torch.tensor([[0.0], [30.0], [31.0]]))
    found = CRITERIA.bind("learned_gates")(GroupStats("a", 3, {"hard_concrete": [gates]}))
    assert found.tolist() == pytest.approx([0.6931, 30, 31], abs=1e-4)


def test_a_tighter_limit_shuts_more_gates():
    wide, tight = (scores("learned_gates", limit) for limit in (60_000.0, 20_000.0))
    shut = [sum(int((own_C < 0.693).sum()) for own_C in found.values()) for found in (wide, tight)]
    assert shut[0] < shut[1]
