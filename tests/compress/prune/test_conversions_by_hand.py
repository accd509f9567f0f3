"""Conversions of layers whose answer is known."""

import pytest
import torch
from torch import nn

from compress.core.random import generator, seeded
from compress.graph.conversion import convolutions, group_mask
from compress.prune.conversions import CONVERSIONS, NotConvertible, Site
from compress.prune.conversions.partition import balanced, copartition, kept_energy, orders
from compress.prune.conversions.sites import dense_of


def site(*shape, seed=0, **use):
    with seeded(seed, "layer"):
        return Site.of(nn.Conv2d(*shape, **use))


def agrees(found, at, tolerance=1e-5):
    x_BCHW = torch.randn(2, at.layer.in_channels, 9, 9, generator=generator(0, "x"))
    with torch.no_grad():
        return torch.allclose(found.layer(x_BCHW), at.layer(x_BCHW), atol=tolerance)


def shuffled_blocks(num_outputs, num_inputs, groups, seed):
    """Return a layer that is grouped but for the order of its channels."""
    draw, at = generator(seed, "blocks"), site(num_inputs, num_outputs, 3, seed=seed, padding=1)
    label_D = (torch.arange(num_outputs) * groups // num_outputs)[torch.randperm(num_outputs, generator=draw)]
    label_C = (torch.arange(num_inputs) * groups // num_inputs)[torch.randperm(num_inputs, generator=draw)]
    at.layer.weight.data *= (label_D[:, None] == label_C)[:, :, None, None]
    return at


@pytest.mark.parametrize("groups", [2, 4, 8])
@pytest.mark.parametrize("seed", range(4))
def test_planted_groups_are_found(groups, seed):
    at = shuffled_blocks(32, 16, groups, seed)
    found = CONVERSIONS.bind("grouped", groups=groups)(at)
    assert found.kept_energy == pytest.approx(1)
    assert agrees(found, at)
    assert [part.groups for part in convolutions(found.layer)] == [groups]


def test_planted_groups_are_found_in_noise():
    at = shuffled_blocks(64, 64, 4, 0)
    at.layer.weight.data += 0.01 * torch.randn(64, 64, 3, 3, generator=generator(1)) / 24
    assert CONVERSIONS.bind("grouped")(at).kept_energy > 0.99


def test_more_freedom_keeps_more_energy():
    at = site(32, 32, 3)
    kept = {
        name: CONVERSIONS.bind("grouped", permuted=name, min_gain=0.0)(at).kept_energy
        for name in ("none", "in", "out", "both")
    }
    assert kept["none"] == pytest.approx(0.25, abs=0.02)
    assert kept["none"] < min(kept["in"], kept["out"])
    assert max(kept["in"], kept["out"]) <= kept["both"]


def test_an_order_that_costs_a_copy_must_pay():
    at = site(16, 16, 3)
    assert set(CONVERSIONS.bind("grouped", min_gain=1.0)(at).target) == {"to", "groups"}
    free = Site(at.layer, at.scale_D, frozenset({"out"}))
    assert set(CONVERSIONS.bind("grouped", min_gain=1.0)(free).target) == {"to", "groups", "out_order"}
    assert set(CONVERSIONS.bind("depthwise", min_gain=1.0)(at).target) == {"to", "groups"}
    assert set(CONVERSIONS.bind("depthwise", min_gain=1.0)(free).target) == {"to", "groups", "out_order"}


def test_one_group_is_the_layer_itself():
    at = site(6, 4, 3)
    found = CONVERSIONS.bind("grouped", groups=1)(at)
    assert not found.is_change
    assert agrees(found, at, 0)


def test_outputs_count_as_much_as_batch_norm_lets_through():
    """Two outputs want the same input; the louder one gets it."""
    layer = nn.Conv2d(2, 2, 1, bias=False)
    layer.weight.data[:, :, 0, 0] = torch.tensor([[2.0, 1.0], [3.0, 0.0]])
    quiet, loud = (
        CONVERSIONS.bind("depthwise")(Site(layer, torch.tensor(scale))) for scale in ([10.0, 1.0], [1.0, 1.0])
    )
    assert "out_order" not in quiet.target
    assert loud.target["out_order"] == [1, 0]


def test_a_depthwise_layer_comes_back_from_its_dense_form():
    with seeded(0, "depthwise"):
        layer = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    at = Site.of(dense_of(layer))
    found = CONVERSIONS.bind("depthwise")(at)
    assert found.target == {"to": "grouped", "groups": 8}
    assert torch.equal(found.layer.weight, layer.weight)
    assert agrees(found, at)


def test_depthwise_with_other_numbers_of_channels_mixes_them():
    found = CONVERSIONS.bind("depthwise")(site(4, 8, 3))
    assert [(part.groups, part.out_channels) for part in convolutions(found.layer)] == [(4, 4), (1, 8)]


FULL = {
    "low_rank": {"rank": 12},
    "separable": {"rank": 15},
    "decoupled": {"pairs": 9},
}


@pytest.mark.parametrize(
    "use", [{}, {"padding": 1, "stride": 2}, {"padding": 2, "dilation": 2}, {"bias": False}], ids=str
)
@pytest.mark.parametrize("name", sorted(FULL))
def test_full_rank_gives_equal_outputs(name, use):
    at = site(5, 12, 3, **use)
    at = Site(at.layer, torch.linspace(0.0, 3.0, 12))
    found = CONVERSIONS.bind(name, **FULL[name])(at)
    assert agrees(found, at)
    assert found.kept_energy == pytest.approx(1)


@pytest.mark.parametrize("name", sorted(FULL))
def test_the_rank_is_the_smallest_that_keeps_the_energy(name):
    at, key = site(8, 8, 3), next(iter(FULL[name]))
    found = CONVERSIONS.bind(name, energy=0.7)(at)
    fewer = CONVERSIONS.bind(name, **{key: found.target[key] - 1})(at)
    assert fewer.kept_energy < 0.7 <= found.kept_energy
    with pytest.raises(NotConvertible):
        CONVERSIONS.bind(name, **{key: 1000})(at)
    with pytest.raises(ValueError, match=f"{key}=-1"):
        CONVERSIONS.bind(name, **{key: -1})(at)
    with pytest.raises(ValueError, match=r"energy=1\.5"):
        CONVERSIONS.bind(name, energy=1.5)(at)


def test_twins_by_hand():
    at = site(3, 5, 3)
    weight, bias = at.layer.weight.data, at.layer.bias.data
    weight[3], bias[3] = 2 * weight[0], 2 * bias[0]
    weight[4], bias[4] = -weight[1], -bias[1]
    found = CONVERSIONS.bind("twins")(Site.of(at.layer))
    assert [(j, i) for j, i, _ in found.twins] == [(3, 0)]
    assert found.twins[0][2] == pytest.approx(2)
    assert found.kept_energy == pytest.approx(1)
    assert len(CONVERSIONS.bind("twins", tolerance=1.99)(Site.of(at.layer)).twins) == 4
    with pytest.raises(NotConvertible, match="cannot be merged"):
        CONVERSIONS.bind("twins")(Site(at.layer, at.scale_D))
    with pytest.raises(ValueError, match="tolerance=2"):
        CONVERSIONS.bind("twins", tolerance=2)(at)


def test_a_dead_channel_is_nobodys_twin():
    layer = nn.Conv2d(2, 3, 1, bias=False)
    nn.init.zeros_(layer.weight)
    assert not CONVERSIONS.bind("twins")(Site.of(layer)).is_change


@pytest.mark.parametrize("groups", [1, 4, 24])
@pytest.mark.parametrize("seed", range(5))
def test_balanced_is_balanced_and_no_swap_is_left(seed, groups):
    gain_NG = torch.rand(24, groups, generator=generator(seed), dtype=torch.float64)
    label_N = balanced(gain_NG)
    assert label_N.bincount(minlength=groups).tolist() == [24 // groups] * groups
    own = gain_NG[torch.arange(24), label_N]
    change = gain_NG[:, label_N] + gain_NG[:, label_N].T - own - own[:, None]
    assert change.max() <= 1e-8


def test_orders_put_the_groups_where_a_grouped_convolution_has_them():
    energy_DC = torch.rand(8, 6, generator=generator(0), dtype=torch.float64)
    label_D, label_C = copartition(energy_DC, 2)
    in_order, out_order = orders(label_D, label_C)
    mask_DC = group_mask(nn.Conv2d(6, 8, 1), {"groups": 2, "in_order": in_order, "out_order": out_order})
    assert torch.equal(mask_DC.bool(), label_D[:, None] == label_C)
    assert float((mask_DC * energy_DC).sum() / energy_DC.sum()) == pytest.approx(
        float(kept_energy(energy_DC, label_D, label_C))
    )


@pytest.mark.parametrize("groups", [2, 3, 6])
def test_the_dense_form_does_the_same(groups):
    with seeded(0, "dense"):
        layer = nn.Conv2d(6, 12, 3, padding=1, stride=2, groups=groups)
    x_BCHW = torch.randn(2, 6, 7, 7, generator=generator(0))
    with torch.no_grad():
        assert torch.allclose(dense_of(layer)(x_BCHW), layer(x_BCHW), atol=1e-6)
    plain = nn.Conv2d(2, 2, 1)
    assert dense_of(plain) is plain


@pytest.mark.parametrize("option", [{"groups": 0}, {"groups": -2}])
def test_bad_groups(option):
    with pytest.raises(ValueError, match="groups="):
        CONVERSIONS.bind("grouped", **option)(site(4, 4, 3))
