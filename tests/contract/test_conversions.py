"""What every conversion promises."""

import copy
import json

import pytest
import torch
from torch import nn

from compress.core.random import generator, seeded
from compress.graph.conversion import cheaper
from compress.prune.conversions import CONVERSIONS, Converted, Merged, NotConvertible, Site

LAYERS = {
    "plain": ((8, 8, 3), {}),
    "bias": ((4, 8, 3), {"bias": True}),
    "narrowing": ((8, 4, (3, 5)), {"bias": True}),
    "even": ((4, 4, 2), {}),
}
USES = ({"padding": 1}, {"stride": 2, "padding": 1}, {"padding": 2, "dilation": 2}, {"stride": (2, 1)})


def site(name, seed=0, **use):
    """Return a random convolution behind which a batch norm scales every output differently."""
    (in_, out, kernel), more = LAYERS[name]
    with seeded(seed, name):
        layer = nn.Conv2d(in_, out, kernel, **({"bias": False} | more | use))
        scale_D = torch.rand(out) + 0.2
    return Site(layer, scale_D, rows_DK=Site.of(layer).rows_DK)


def converted(piece, at):
    """Return what the piece makes, or skip a layer that does not suit it."""
    try:
        return piece(at)
    except NotConvertible as refusal:
        pytest.skip(str(refusal))


def effective_weight(layer, like):
    """Return the dense weight that does what `layer` does, found with one impulse a weight."""
    _, num_inputs, height, width = like.weight.shape
    num = num_inputs * height * width
    with torch.no_grad():
        y_BD = layer(torch.eye(num).view(num, num_inputs, height, width)) - layer(torch.zeros(1, *like.weight[0].shape))
    return y_BD.flatten(1).T.reshape(like.weight.shape)


@pytest.mark.parametrize("layer", sorted(LAYERS))
@pytest.mark.parametrize("name", sorted(CONVERSIONS))
class TestEveryConversion:
    def test_the_kept_energy_is_what_the_new_layer_keeps(self, name, layer):
        at = site(layer)
        found = converted(CONVERSIONS.bind(name), at)
        assert 0 <= found.kept_energy <= 1
        if isinstance(found, Converted):
            scale_D = at.scale_D[:, None, None, None]
            error = (scale_D * (effective_weight(found.layer, at.layer) - at.layer.weight)).square().sum()
            whole = (scale_D * at.layer.weight).square().sum()
            assert float((error / whole).detach()) == pytest.approx(1 - found.kept_energy, abs=1e-5)

    def test_the_target_rebuilds_the_layer(self, name, layer):
        at = site(layer)
        found = converted(CONVERSIONS.bind(name), at)
        if isinstance(found, Merged) or not found.is_change:
            return
        again = cheaper(at.layer, json.loads(json.dumps(found.target)))
        again.load_state_dict(found.layer.state_dict())
        x_BCHW = torch.randn(2, at.layer.in_channels, 9, 9, generator=generator(1, "x"))
        assert torch.equal(again(x_BCHW), found.layer(x_BCHW))

    @pytest.mark.parametrize("use", USES, ids=str)
    def test_shape_and_bias_stay(self, name, layer, use):
        at = site(layer, **use)
        found = converted(CONVERSIONS.bind(name), at)
        if isinstance(found, Converted):
            x_BCHW = torch.zeros(2, at.layer.in_channels, 9, 9)
            assert torch.allclose(found.layer(x_BCHW), at.layer(x_BCHW), atol=1e-6)

    def test_nothing_is_written_and_it_repeats(self, name, layer):
        at = site(layer)
        before, state = copy.deepcopy(at.layer.state_dict()), torch.get_rng_state()
        first, second = (converted(CONVERSIONS.bind(name), at) for _ in range(2))
        assert all(torch.equal(before[key], value) for key, value in at.layer.state_dict().items())
        assert torch.equal(state, torch.get_rng_state())
        assert first.kept_energy == second.kept_energy
        if isinstance(first, Converted):
            assert first.target == second.target
            assert all(map(torch.equal, first.layer.state_dict().values(), second.layer.state_dict().values()))
            assert first.layer is not at.layer
        else:
            assert first.twins == second.twins

    def test_frozen_weights_stay_frozen(self, name, layer):
        at = site(layer)
        at.layer.requires_grad_(False)
        found = converted(CONVERSIONS.bind(name), at)
        if isinstance(found, Converted):
            assert not any(parameter.requires_grad for parameter in found.layer.parameters())


@pytest.mark.parametrize("shape", [(3, 7, 3), (1, 1, 1), (5, 5, 1)])
@pytest.mark.parametrize("name", sorted(CONVERSIONS))
def test_a_layer_that_does_not_suit_is_refused_with_a_reason(name, shape):
    reasons = []
    try:
        CONVERSIONS.bind(name)(Site.of(nn.Conv2d(*shape)))
    except NotConvertible as refusal:
        reasons.append(str(refusal))
    assert all(len(reason) > 10 for reason in reasons)


@pytest.mark.parametrize("name", sorted(CONVERSIONS))
def test_card_is_filled_in(name):
    card = CONVERSIONS[name]
    assert card.paper or name == "none"
    for word in ("Args:", "Returns:", "Differs from the paper:", "Cost:", "Reference:", ">>>"):
        assert word in card.function.__doc__
