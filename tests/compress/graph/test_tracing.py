"""Labels follow channels through whatever a network does with its tensors. Every group is verified by numbers."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from compress.core.random import generator, seeded
from compress.graph.groups import NotPrunable, trace_groups
from compress.graph.movements import _factors


class Between(nn.Module):
    """A convolution to 8 channels, something, and a convolution that reads what comes of it."""

    def __init__(self, between: Callable[[Tensor], Tensor], channels: int, made: int = 8) -> None:
        super().__init__()
        self.a, self.between, self.b = nn.Conv2d(2, made, 1), between, nn.Conv2d(channels, 3, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.b(torch.relu(self.between(self.a(x_BCHW))))


def units(between: Callable[[Tensor], Tensor], channels: int) -> tuple[list, list] | None:
    """Return the units: which outputs of the first convolution, and which inputs of the second; None without any."""
    with seeded(0):
        groups = trace_groups(Between(between, channels).eval(), torch.randn(2, 2, 4, 4))
    if not groups:
        return None
    (group,) = groups
    found = {member.path: [list(own) for own in member.index] for member in group.members}
    return found["a"], found["b"]


ONE = [[c] for c in range(8)]
PAIRS = [[c, c + 4] for c in range(4)]


@pytest.mark.parametrize(
    ("between", "channels", "made", "read"),
    [
        (lambda x: x, 8, ONE, ONE),
        (lambda x: torch.cat([x, x.flip(1)], 1), 16, ONE, [[c, 15 - c] for c in range(8)]),
        (lambda x: functional.pad(x, (1, 1, 1, 0)).roll(1, 2)[..., :4, :4], 8, ONE, ONE),
        (lambda x: functional.interpolate(functional.max_pool2d(x, 2), scale_factor=2), 8, ONE, ONE),
        (lambda x: x.permute(0, 2, 3, 1).flatten(1, 2).mT.unflatten(2, (4, 4)), 8, ONE, ONE),
        (lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1].sigmoid(), 4, PAIRS, [[c] for c in range(4)]),
        (lambda x: torch.stack(x.chunk(2, 1), 2).flatten(1, 2), 8, PAIRS, [[2 * c, 2 * c + 1] for c in range(4)]),
        (lambda x: x.unflatten(1, (2, -1)).sum(1), 4, PAIRS, [[c] for c in range(4)]),
        (lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)), 8, ONE, ONE),
        (lambda x: functional.normalize(x, dim=-1), 8, ONE, ONE),
        (lambda x: torch.where(x > 0, x, 0.1 * x).clamp(max=3), 8, ONE, ONE),
    ],
)
def test_units(between, channels, made, read):
    assert units(between, channels) == (made, read)


@pytest.mark.parametrize(
    ("between", "channels", "reason"),
    [
        (lambda x: x.softmax(1), 8, "8 of them stand or fall together"),
        (lambda x: x + torch.ones(8, 1, 1), 8, r"a tensor of shape \(8, 1, 1\) that stays whole"),
        (lambda x: torch.cat([part.relu() for part in x.split([3, 5], 1)], 1), 8, "a split into 3, 5"),
        (lambda x: functional.pad(x, (0, 0, 0, 0, 0, 2)), 10, "a padding of channels"),
        (lambda x: x.sort(1).values, 8, "the operation sort"),
        (lambda x: x.roll(1, 1), 8, "a roll of channels"),
        (lambda x: x.reshape(2, 8, 4, 4)[:, [0, 1, 2, 3, 4, 5, 6, 7]], 8, "cutting them does not equal zeroing them"),
    ],
)
def test_what_cannot_be_cut(between, channels, reason):
    with pytest.warns(NotPrunable, match=reason):
        assert units(between, channels) is None


class Odd(nn.Module):
    """Weights outside of layers: of a functional linear layer, and computed ones."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(5, 2)), nn.Parameter(torch.randn(5))
        self.a, self.b, self.c = nn.Linear(5, 4), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x_BC: Tensor) -> Tensor:
        y = torch.relu(self.a(torch.relu(functional.linear(x_BC, self.weight, self.bias))))
        return self.c(functional.linear(y, self.b.weight / self.b.weight.norm(), self.b.bias))


def test_a_bare_weight_is_a_layer_and_a_computed_one_is_an_obstacle():
    with pytest.warns(NotPrunable, match="channels of a are never cut: they touch a linear layer whose weights are"):
        groups = trace_groups(Odd().eval(), torch.randn(3, 2))
    assert [(g.name, g.num_channels) for g in groups] == [("", 5)]
    assert [(m.path, m.axis) for m in groups[0].members] == [("", "bias.0"), ("", "weight.0"), ("a", "in")]


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))
        self.c.weight = self.b.weight

    def forward(self, x_BC: Tensor) -> Tensor:
        return self.d(torch.relu(self.c(torch.relu(self.b(torch.relu(self.a(x_BC)))))))


def test_layers_that_share_a_weight_stay_whole():
    with pytest.warns(NotPrunable, match="b, which shares weights with c"):
        assert trace_groups(Tied().eval(), torch.randn(3, 4)) == ()


class Tokens(nn.Module):
    """A class token, a table of positions, one layer that mixes places, and one that mixes channels."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.token = nn.Conv2d(1, 6, 2, stride=2), nn.Parameter(torch.zeros(1, 1, 6))
        self.position = nn.Parameter(torch.zeros(1, 5, 6))
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 9), nn.Linear(9, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y = self.embed(x_BCHW).flatten(2).mT
        y = torch.cat([self.token.expand(len(y), -1, -1), y], 1) + self.position
        y = y + self.down(functional.gelu(self.up(self.norm(y))))
        return self.head(y[:, 0])


def test_tokens_and_positions_go_with_their_channels():
    groups = trace_groups(Tokens().eval(), torch.randn(2, 1, 4, 4, generator=generator(0)))
    assert [(g.name, g.num_channels) for g in groups] == [("embed", 6), ("up", 9)]
    axes = {(m.path, m.axis): m.index for m in groups[0].members}
    assert axes["", "token.2"] == axes["", "position.2"] == tuple((c,) for c in range(6))


def test_a_layer_that_mixes_places_keeps_its_channels():
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mix, self.head = nn.Conv2d(1, 6, 2, stride=2), nn.Linear(4, 4), nn.Linear(6, 2)

        def forward(self, x_BCHW: Tensor) -> Tensor:
            return self.head(torch.relu(self.mix(self.embed(x_BCHW).flatten(2))).mean(2))

    with pytest.warns(NotPrunable, match="channels of embed are never cut: they touch mix, which mixes places"):
        assert trace_groups(Mixer().eval(), torch.randn(2, 1, 4, 4)) == ()


def test_norms_without_weights_are_cut_too():
    module = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4, affine=False), nn.GroupNorm(1, 4, affine=False), nn.Conv2d(4, 2, 1)
    ).eval()
    (group,) = trace_groups(module, torch.randn(2, 1, 4, 4))
    assert [member.path for member in group.members] == ["0", "1", "2", "3"]


def test_factors_of_a_view():
    assert _factors((4, 6), (2, 2, 6)) == [([0], [0, 1]), ([1], [2])]
    assert _factors((2, 3, 4), (6, 1, 4)) == [([0, 1], [0]), ([2], [2])]
    assert _factors((6, 4), (4, 6)) == [([0, 1], [0, 1])]
