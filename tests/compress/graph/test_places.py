"""Rows of weights and slices of activations: each channel gets its own and nothing else."""

import pytest
import torch
from torch import nn

from compress.graph.groups import trace_groups
from compress.graph.places import Place
from compress.graph.stats import gather
from compress.graph.units import Member
from compress.models.mobilenet_v2_small import mobilenet_v2_small
from compress.train.folding import folded
from tests.compress.graph.networks import network
from tests.toys import toy_model


def single(size):
    return tuple((k,) for k in range(size))


def place_of(layer, axis, index, size):
    return Place(nn.ModuleDict({"layer": layer}), "group", Member("layer", axis, index, size))


def test_rows_of_a_grouped_convolution():
    """Channel c is position c of the first group of the convolution and position c of the second."""
    layer = nn.Conv2d(6, 4, 3, groups=2)
    index = ((0, 3), (1, 4), (2, 5))
    rows_CK = place_of(layer, "in", index, 6).rows(layer.weight)
    expected = torch.cat([layer.weight[:2, 1].flatten(), layer.weight[2:, 1].flatten()])
    assert torch.equal(rows_CK[1], expected)
    rows_CK = place_of(layer, "out", ((0, 2), (1, 3)), 4).rows(layer.weight)
    assert torch.equal(rows_CK[1], torch.cat([layer.weight[1].flatten(), layer.weight[3].flatten()]))


def test_rows_of_a_transposed_and_a_depthwise_convolution():
    up, depthwise = nn.ConvTranspose2d(4, 3, 2), nn.Conv2d(5, 5, 3, groups=5)
    assert torch.equal(place_of(up, "in", single(4), 4).rows(up.weight)[2], up.weight[2].flatten())
    assert torch.equal(place_of(up, "out", single(3), 3).rows(up.weight)[2], up.weight[:, 2].flatten())
    assert torch.equal(
        place_of(depthwise, "out", single(5), 5).rows(depthwise.weight)[2], depthwise.weight[2].flatten()
    )


def test_parameters_that_belong_to_no_layer():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.in_proj_weight, self.in_proj_bias = nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(6))
            self.layer_scale = nn.Parameter(torch.randn(4, 1, 1))
            self.table = nn.Parameter(torch.randn(9, 4))

    layer = Attention()
    reads, makes = (place_of(layer, f"in_proj_weight.{dim}", single(size), size) for dim, size in ((1, 4), (0, 6)))
    assert torch.equal(reads.rows(reads.weight), layer.in_proj_weight.T)
    assert [place.reads for place in (reads, makes)] == [True, False]
    assert [place.part(torch.zeros(0)).axis for place in (reads, makes)] == ["in", "out"]
    assert place_of(layer, "layer_scale.0", single(4), 4).is_norm
    assert all(place_of(layer, axis, single(4), 4).weight is None for axis in ("table.1", "in_proj_bias.0"))


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Conv2d(3, 3, 1), (2, 3, 4, 5), (4, 5)),
        (nn.LayerNorm(3), (2, 4, 5, 3), (4, 5)),
        (nn.Linear(3, 3), (2, 7, 3), (7,)),
        (nn.Linear(3, 3), (2, 3), ()),
    ],
)
def test_channels_come_first_whatever_the_layer(layer, shape, expected):
    axis = "out" if isinstance(layer, nn.LayerNorm) else "in"
    place, x = place_of(layer, axis, ((2,), (0,)), 3), torch.randn(*shape)
    assert place.map_size(x) == expected
    own_BCP = place.pick(place.channels_first(x, 2))
    channel = x[:, 2] if isinstance(layer, nn.Conv2d) else x[..., 2]
    assert torch.equal(own_BCP[:, 0], channel.reshape(2, -1))


def test_windows_of_one_picture_are_places_of_one_input():
    """Four windows of each of 2 pictures, one after the other, 5 tokens each."""
    place, x_RTC = place_of(nn.Linear(3, 3), "in", single(3), 3), torch.randn(8, 5, 3)
    own_BCP = place.channels_first(x_RTC, 2)
    assert own_BCP.shape == (2, 3, 20)
    assert torch.equal(own_BCP[1, 2], x_RTC[4:, :, 2].flatten())


def test_folded_kernels_are_those_of_the_folded_network():
    module, x_BCHW = mobilenet_v2_small((3, 16, 16), 10, width=0.5).eval(), torch.randn(2, 3, 16, 16)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.2)
            layer.running_var.uniform_(0.5, 1.5)
    groups = trace_groups(module, x_BCHW, is_verified=False)
    stats, merged = gather(module, groups, ("folded",)), dict(folded(module).named_modules())
    num_parts = 0
    for group in groups:
        for part in stats[group.name].folded_parts:
            layer = merged[part.path]
            expected = torch.cat([layer.weight.flatten(1), layer.bias.unsqueeze(1)], 1)
            assert torch.allclose(part.values, expected, atol=1e-5), part.path
            num_parts += 1
    assert num_parts > 20


def test_folded_kernels_without_norm_behind_keep_their_bias():
    module, x_BCHW = network("plain")
    groups = trace_groups(module, x_BCHW, is_verified=False)
    parts = {part.path: part.values for part in gather(module, groups, ("folded",))["up"].folded_parts}
    assert set(parts) == {"up", "depthwise", "gate"}
    assert torch.equal(parts["up"][:, -1], module.up.bias)
    assert torch.equal(parts["up"][1, :-1], module.up.weight[:, 1].flatten())
    assert parts["depthwise"].shape == (6, 10)


def test_norms_are_no_folded_kernels():
    model = toy_model()
    groups = trace_groups(model.module, model.input.example(), is_verified=False)
    assert [part.path for part in gather(model.module, groups, ("folded",))["conv2"].folded_parts] == ["conv2"]


def test_a_norm_without_running_statistics_has_no_scale_to_fold() -> None:
    module = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU(), nn.Conv2d(4, 2, 1)
    )
    groups = trace_groups(module.eval(), torch.randn(2, 3, 4, 4), is_verified=False)
    (part,) = gather(module, groups, ("folded",))["0"].folded_parts
    assert torch.equal(part.values, torch.cat([module[0].weight.flatten(1), module[0].bias[:, None]], 1))


class TwoWeights(nn.Module):
    """A layer with a bias that belongs to its second weight."""

    def __init__(self) -> None:
        super().__init__()
        self.in_weight, self.out_weight = nn.Parameter(torch.randn(12, 8)), nn.Parameter(torch.randn(8, 12))
        self.bias = nn.Parameter(torch.randn(8))

    def forward(self, x_BC: torch.Tensor) -> torch.Tensor:
        hidden_BC = torch.nn.functional.linear(x_BC, self.in_weight).relu()
        return torch.nn.functional.linear(hidden_BC, self.out_weight, self.bias)


class OneWeight(nn.Module):
    """A layer of one's own with bare parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(6, 8)), nn.Parameter(torch.randn(6))

    def forward(self, x_BC: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(x_BC, self.weight, self.bias)


def test_the_bias_of_a_bare_weight_is_folded() -> None:
    module = nn.Sequential(OneWeight(), nn.ReLU(), nn.Linear(6, 3)).eval()
    (group,) = trace_groups(module, torch.randn(2, 8), is_verified=False)
    (part,) = gather(module, (group,), ("folded",))[group.name].folded_parts
    assert torch.equal(part.values, torch.cat([module[0].weight, module[0].bias[:, None]], 1))


def test_a_bias_of_another_axis_is_not_folded() -> None:
    module = nn.Sequential(TwoWeights(), nn.Linear(8, 3)).eval()
    groups = trace_groups(module, torch.randn(2, 8), is_verified=False)
    hidden = next(group for group in groups if group.num_channels == 12)
    (part,) = gather(module, groups, ("folded",))[hidden.name].folded_parts
    assert torch.equal(part.values, torch.cat([module[0].in_weight, torch.zeros(12, 1)], 1))
