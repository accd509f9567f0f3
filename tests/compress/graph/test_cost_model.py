"""The computed cost is the measured cost of the network that was really cut."""

import pytest
import torch
from torch import nn

from compress.graph.cost_model import CostModel
from compress.graph.groups import ChannelGroup, Member, find_blocks, trace_groups
from compress.graph.surgery import cut, plan_from_kept
from compress.measure import MEASURES
from tests.compress.graph.networks import SMALL, TORCHVISION, network, random_masks


def check_costs(name: str, num_trials: int) -> None:
    module, x_BCHW = network(name)
    groups = trace_groups(module, x_BCHW, is_verified=False)
    blocks = [block.name for block in find_blocks(module)]
    model = CostModel(module, groups, x_BCHW)
    for trial in range(num_trials):
        kept, dropped = random_masks(groups, trial), blocks[: trial * 2 : 2]
        smaller = cut(module, plan_from_kept(groups, kept, dropped))
        assert model.macs(kept, dropped) == MEASURES.bind("macs")(smaller, x_BCHW)
        assert model.params(kept, dropped) == MEASURES.bind("params")(smaller, x_BCHW)


@pytest.mark.parametrize("name", SMALL)
def test_cost_equals_measured_cost_of_the_cut(name: str) -> None:
    check_costs(name, 6)


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_cost_equals_measured_cost_of_the_cut_torchvision(name: str) -> None:
    check_costs(name, 2)


def test_by_hand() -> None:
    module = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 9, 5))
    flat = tuple(tuple(range(9 * c, 9 * c + 9)) for c in range(4))
    one = tuple((c,) for c in range(4))
    group = ChannelGroup("0", 4, (Member("0", "out", one, 4), Member("1", "out", one, 4), Member("3", "in", flat, 36)))
    model = CostModel(module, (group,), torch.zeros(1, 2, 3, 3))
    assert model.macs({}) == 9 * 2 * 4 * 9 + 36 * 5
    assert model.params({}) == 4 * 2 * 9 + 4 + 8 + 36 * 5 + 5
    half = {"0": torch.tensor([True, False, False, True])}
    assert model.macs(half) == 9 * 2 * 2 * 9 + 18 * 5
    assert model.params(half) == 2 * 2 * 9 + 2 + 4 + 18 * 5 + 5
    assert model.quantity("macs")(half) == model.macs(half)


def test_a_shared_weight_counts_once() -> None:
    first = nn.Conv2d(3, 3, 1, bias=False)
    second = nn.Conv2d(3, 3, 1, bias=False)
    second.weight = first.weight
    model = CostModel(nn.Sequential(first, second), (), torch.zeros(1, 3, 2, 2))
    assert model.params({}) == 9
    assert model.macs({}) == 2 * 4 * 9


def test_products_of_activations_are_counted_as_constant() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.linear(x.flatten(2))
            return y @ y.transpose(1, 2)

    module, x_BCHW = Attention(), torch.zeros(1, 3, 2, 2)
    assert CostModel(module, (), x_BCHW).macs({}) == 3 * 16 + 3 * 4 * 3 == MEASURES.bind("macs")(module, x_BCHW)


def test_a_quantity_that_cannot_be_computed_is_an_error() -> None:
    model = CostModel(nn.Conv2d(1, 1, 1), (), torch.zeros(1, 1, 2, 2))
    with pytest.raises(ValueError, match=r"latency_ms .* macs and params"):
        model.quantity("latency_ms")


def test_measuring_leaves_the_module_in_its_modes() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2).eval(), nn.Dropout()).train()
    module[1].eval()
    CostModel(module, (), torch.zeros(1, 1, 2, 2))
    assert [layer.training for layer in module] == [True, False, True]
    assert not module[0]._forward_hooks
