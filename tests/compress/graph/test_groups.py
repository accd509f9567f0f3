"""Which channels hang together, and which blocks can go."""

import warnings
import weakref

import pytest
import torch
from torch import Tensor, nn

from compress.core.garbage import no_collection
from compress.core.random import seeded
from compress.graph.dependencies import Untraceable
from compress.graph.groups import (
    Member,
    NotPrunable,
    NotVerified,
    find_blocks,
    is_inside,
    kept_masks,
    trace_groups,
)
from compress.graph.verification import unlike
from compress.models.resnet_cifar import resnet_cifar
from tests.compress.graph.networks import network
from tests.toys import toy_model


def slots(groups: tuple, name: str) -> dict[tuple[str, str], tuple]:
    group = next(group for group in groups if group.name == name)
    return {(m.path, m.axis): m.index for m in group.members}


def test_toy_by_hand() -> None:
    model = toy_model()
    groups = trace_groups(model.module, model.input.example())
    assert [(g.name, g.num_channels) for g in groups] == [("conv1", 8), ("block.conv1", 8), ("conv2", 16)]
    stream = {("conv1", "out"), ("bn1", "out"), ("block.conv1", "in"), ("block.conv2", "out"), ("block.bn2", "out")}
    assert set(slots(groups, "conv1")) == stream | {("conv2", "in")}
    assert slots(groups, "conv2")["linear", "in"][5] == (5,)
    assert not any(m.path == "linear" and m.axis == "out" for g in groups for m in g.members)


def test_concat_flatten_depthwise_and_gate_by_hand() -> None:
    module, x_BCHW = network("plain")
    groups = trace_groups(module, x_BCHW)
    assert [g.name for g in groups] == ["a", "b", "up"]
    assert slots(groups, "a") == {
        ("a", "out"): tuple((c,) for c in range(6)),
        ("act", "out"): tuple((c,) for c in range(6)),
        ("b", "in"): tuple((c,) for c in range(6)),
        ("up", "in"): tuple((c,) for c in range(6)),
    }
    assert slots(groups, "b")["up", "in"] == ((6,), (7,), (8,), (9,))
    up = slots(groups, "up")
    assert set(up) == {("up", "out"), ("depthwise", "out"), ("gate", "out"), ("gate", "in"), ("linear", "in")}
    assert up["linear", "in"][2] == tuple(range(128, 192))


def test_pad_shortcut_decouples_its_input_from_its_output() -> None:
    module = resnet_cifar((3, 16, 16), 10, depth=8)
    groups = trace_groups(module, torch.randn(2, 3, 16, 16))
    assert slots(groups, "conv1")["layer2.0.shortcut", "in"] == tuple((c,) for c in range(16))
    assert slots(groups, "layer2.0.conv2")["layer2.0.shortcut", "out"] == tuple((c,) for c in range(32))
    assert ("layer2.0.conv2", "out") not in slots(groups, "conv1")


def test_tracing_changes_nothing_in_the_module() -> None:
    module = resnet_cifar((3, 16, 16), 10, depth=8).train().requires_grad_(False)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    kinds = [type(layer) for layer in module.modules()]
    trace_groups(module, torch.randn(2, 3, 16, 16))
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert kinds == [type(layer) for layer in module.modules()]
    assert all(layer.training for layer in module.modules())
    assert not any(p.requires_grad for p in module.parameters())


class Restless(nn.Module):
    """Writes into its weights whenever it runs, and changes those of a layer when it changes its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        self.norm = nn.BatchNorm2d(8)
        self.norm.running_var = nn.Parameter(torch.rand(8) + 0.5, requires_grad=False)  # type: ignore[assignment]

    def train(self, mode: bool = True) -> nn.Module:
        self.second.weight.data += 0.0 if mode else 0.1
        return super().train(mode)

    def forward(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        self.first.weight.data = torch.renorm(self.first.weight.data, 2, 0, 0.1)
        return self.second(torch.relu(self.norm(self.first(x_BCHW)))).mean((2, 3))


def test_no_copy_of_the_network_outlives_its_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where nobody searches for cyclic garbage."""
    made = []

    def noted(module: nn.Module) -> nn.Module:
        copied = unlike(module)
        made.append(weakref.ref(copied))
        return copied

    monkeypatch.setattr("compress.graph.verification.unlike", noted)
    with no_collection():
        trace_groups(resnet_cifar((3, 16, 16), 10, depth=8), torch.randn(2, 3, 16, 16))
        assert [copied() for copied in made] == [None]


def test_a_network_that_writes_into_its_weights_keeps_them_when_it_is_traced() -> None:
    module = Restless()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    assert [group.name for group in trace_groups(module, torch.randn(2, 3, 8, 8))] == ["first"]
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())


class Halves(nn.Module):
    """Two halves of one layer meet: channels c and c + 2 must go together."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 4, 1)
        self.b = nn.Conv2d(2, 3, 1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y = self.a(x_BCHW)
        return self.b(torch.relu(y[:, :2] + y[:, 2:])).mean((2, 3))


def test_channels_that_meet_in_one_channel_are_one_unit() -> None:
    groups = trace_groups(Halves().eval(), torch.randn(2, 1, 4, 4), is_verified=False)
    assert slots(groups, "a") == {("a", "out"): ((0, 2), (1, 3)), ("b", "in"): ((0,), (1,))}


class Fixed(nn.Module):
    """Cannot be cut in one group (a reshape with fixed numbers), can in the other."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 4, 1)
        self.b = nn.Conv2d(4, 6, 1)
        self.c = nn.Linear(6, 2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y = self.a(x_BCHW)
        y = y.reshape(y.shape[0], 2, 2, 4, 4).transpose(1, 2).reshape(y.shape[0], 4, 4, 4)
        return self.c(torch.relu(self.b(y)).mean((2, 3)))


def test_what_defeats_the_tracing_is_left_out_with_a_warning() -> None:
    with pytest.warns(NotPrunable, match=r"channels of a are never cut: cutting them does not equal"):
        groups = trace_groups(Fixed().eval(), torch.randn(2, 1, 4, 4))
    assert [g.name for g in groups] == ["b"]


def test_each_group_of_a_convolution_loses_the_same_channels() -> None:
    module = nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.Conv2d(4, 8, 3, groups=2), nn.Conv2d(8, 5, 1), nn.ReLU(), nn.Conv2d(5, 2, 1)
    )
    groups = trace_groups(module, torch.randn(1, 1, 6, 6))
    assert [g.name for g in groups] == ["0", "1", "2"]
    assert slots(groups, "0") == {("0", "out"): ((0, 2), (1, 3)), ("1", "in"): ((0, 2), (1, 3))}
    assert slots(groups, "1")["1", "out"] == ((0, 4), (1, 5), (2, 6), (3, 7))


class Scaled(nn.Module):
    """A GroupNorm, whose groups must lose the same, and a bare parameter along the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(1, 4, 1), nn.GroupNorm(2, 4)
        self.b, self.scale = nn.Conv2d(4, 6, 1), nn.Parameter(torch.ones(6, 1, 1))
        self.c, self.d = nn.Conv2d(6, 3, 1), nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.d(torch.relu(self.c(self.b(self.norm(self.a(x))) * self.scale)))


def test_group_norm_and_bare_parameters_can_be_cut() -> None:
    groups = trace_groups(Scaled(), torch.randn(1, 1, 4, 4))
    assert slots(groups, "a")["norm", "out"] == ((0, 2), (1, 3))
    assert slots(groups, "b")["", "scale.0"] == tuple((c,) for c in range(6))


def test_what_cannot_be_cut_is_left_out_with_a_warning() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 6, 1), nn.Conv2d(6, 4, 1)
            self.table = nn.Parameter(torch.randn(6, 6))
            self.d = nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.b(self.a(x) + x)
            z = torch.relu(self.c(torch.einsum("bchw,cd->bdhw", y, self.table)))
            return self.d(z.cumprod(1))

    with pytest.warns(NotPrunable) as caught:
        groups = trace_groups(Mixed(), torch.randn(1, 3, 4, 4))
    assert groups == ()
    texts = [str(item.message) for item in caught]
    assert "channels of a are never cut: they touch a tensor of shape (1, 3, 4, 4) that stays whole." in texts
    assert "channels of b are never cut: they touch a product with other channels." in texts
    assert any(text.startswith("channels of c are never cut: they touch the operation cumprod") for text in texts)


def test_nothing_warns_on_an_ordinary_network() -> None:
    model = toy_model()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        trace_groups(model.module, model.input.example())


def test_layer_norm_can_be_cut() -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 2))
    groups = trace_groups(module, torch.randn(3, 4))
    assert {(m.path, m.axis) for m in groups[0].members} == {("0", "out"), ("1", "out"), ("3", "in")}


class Flipped(nn.Module):
    """What reads channel c is at position 5 - c; behind it stands a LayerNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 6, 1)
        self.norm, self.c = nn.LayerNorm(6), nn.Linear(6, 5)
        self.d = nn.Linear(5, 2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y = torch.relu(self.b(torch.relu(self.a(x_BCHW)).flip(1))).mean((2, 3)).flip(1)
        return self.d(torch.relu(self.c(self.norm(y))))


def test_channels_are_followed_where_they_go() -> None:
    with seeded(0):
        module, x_BCHW = Flipped().eval(), torch.randn(2, 1, 4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        groups = trace_groups(module, x_BCHW)
    assert [g.name for g in groups] == ["a", "b", "c"]
    assert slots(groups, "a")["b", "in"] == ((3,), (2,), (1,), (0,))
    assert slots(groups, "b")["c", "in"] == slots(groups, "b")["norm", "out"] == tuple((5 - c,) for c in range(6))


def test_a_network_that_cannot_be_traced_says_what_can_be_done() -> None:
    class Suspicious(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(1, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            if torch._C._len_torch_dispatch_stack():
                raise TypeError("I am watched")
            return self.a(x)

    assert issubclass(Untraceable, ValueError)
    with pytest.raises(Untraceable, match=r'Suspicious cannot be traced.*TypeError: I am watched.*space "blocks"'):
        trace_groups(Suspicious(), torch.randn(1, 1, 4, 4))


def test_a_comparison_that_shows_nothing_warns() -> None:
    class Deaf(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x)) * 0

    with pytest.warns(NotVerified, match="zeroing some of the channels of a changes no output"):
        assert [g.name for g in trace_groups(Deaf(), torch.randn(1, 1, 4, 4))] == ["a"]


def test_an_input_that_does_not_fit_is_not_called_untraceable() -> None:
    with pytest.raises(RuntimeError, match="expected input"):
        trace_groups(toy_model().module, torch.randn(1, 2, 8, 8))


def test_blocks_of_the_families() -> None:
    import torchvision

    assert [b.name for b in find_blocks(toy_model().module)] == ["block"]
    cifar = [b.name for b in find_blocks(resnet_cifar((3, 16, 16), 10, depth=14))]
    assert cifar == ["layer1.0", "layer1.1", "layer2.1", "layer3.1"]
    resnet = [b.name for b in find_blocks(torchvision.models.resnet18())]
    assert resnet == ["layer1.0", "layer1.1", "layer2.1", "layer3.1", "layer4.1"]
    mobilenet = [b.name for b in find_blocks(torchvision.models.mobilenet_v2())]
    assert mobilenet[0] == "features.3"
    assert len(mobilenet) == 10


def test_masks_are_checked() -> None:
    model = toy_model()
    groups = trace_groups(model.module, model.input.example(), is_verified=False)
    assert kept_masks(groups, {})["conv2"].all()
    with pytest.raises(ValueError, match="no group 'conv9'"):
        kept_masks(groups, {"conv9": torch.ones(8, dtype=torch.bool)})
    with pytest.raises(ValueError, match="has 8 channels"):
        kept_masks(groups, {"conv1": torch.ones(9, dtype=torch.bool)})
    with pytest.raises(ValueError, match="keeps nothing"):
        kept_masks(groups, {"conv1": torch.zeros(8, dtype=torch.bool)})


def test_member_positions_and_paths() -> None:
    member = Member("linear", "in", ((0, 1), (2, 3), (4, 5)), 6)
    assert member.multiplicity == 2
    assert member.positions(torch.tensor([True, False, True])) == [0, 1, 4, 5]
    assert is_inside("a.b", ["a"])
    assert not is_inside("ab", ["a"])


class UsedTwice(nn.Module):
    """A bare weight that is a layer's, and is added up as well; pairs of its rows are joined."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.randn(6, 5)), nn.Linear(3, 2)
        self.inner = nn.Linear(4, 5)

    def forward(self, x_BC: torch.Tensor) -> torch.Tensor:
        y_BC = nn.functional.linear(self.inner(x_BC), self.weight) + self.weight.sum(1)
        y_B2C = y_BC.view(-1, 2, 3)
        return self.head(y_B2C[:, 0] + y_B2C[:, 1])


def test_a_position_is_named_once() -> None:
    groups = trace_groups(UsedTwice(), torch.randn(2, 4), is_verified=False)
    positions = slots(groups, groups[0].name)[("", "weight.0")]
    assert positions == ((0, 3), (1, 4), (2, 5))
