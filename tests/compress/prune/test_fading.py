"""Fading: the old network at the start, the new one at the end, and nothing lost between."""

import pytest
import torch
from torch import nn

from compress.blocks.fading import Fading
from compress.core.model import Model
from compress.prune.conversions import CONVERSIONS, Site
from compress.prune.fading import advance, fade, set_alpha, settled
from compress.train.fit import FitConfig, fit
from tests.toys import TOY_INPUT, toy_model, toy_task

PIECES = {
    "grouped": {"groups": 2},
    "depthwise": {},
    "low_rank": {"rank": 3},
    "separable": {"rank": 3},
    "decoupled": {"pairs": 1},
}
PATHS = ("block.conv1", "block.conv2", "conv2")


def choices_for(model, name, paths=PATHS):
    piece = CONVERSIONS.bind(name, **PIECES[name])
    return {path: piece(Site.of(model.module.get_submodule(path))) for path in paths}


def faded(name, alpha):
    fading = fade(toy_model(), choices_for(toy_model(), name))
    set_alpha(fading.module, alpha)
    return fading


@pytest.mark.parametrize("name", sorted(PIECES))
class TestEveryFade:
    def test_starts_as_the_old_network(self, name):
        x_BCHW = TOY_INPUT.example()
        assert torch.allclose(faded(name, 0.0)(x_BCHW), toy_model()(x_BCHW), atol=1e-6)

    def test_ends_as_the_new_network(self, name):
        x_BCHW, end = TOY_INPUT.example(), faded(name, 1.0)
        new = settled(end, stage="prune", config={"epochs": 1})
        assert torch.allclose(end(x_BCHW), new(x_BCHW), atol=1e-5)
        assert not any(isinstance(part, Fading) for part in new.module.modules())
        assert [step.plan["kind"] for step in new.lineage.steps] == ["convert"]
        assert not torch.allclose(end(x_BCHW), toy_model()(x_BCHW), atol=1e-4)

    def test_changes_steadily_between(self, name):
        x_BCHW = TOY_INPUT.example()
        layer_inputs = {}
        for alpha in (0.0, 0.5, 1.0):
            layer = faded(name, alpha).module.block.conv1
            with torch.no_grad():
                layer_inputs[alpha] = layer(x_BCHW.repeat(1, 8, 1, 1))
        middle = (layer_inputs[0.0] + layer_inputs[1.0]) / 2
        assert torch.allclose(layer_inputs[0.5], middle, atol=1e-5)

    def test_trains_and_can_be_stored_afterwards(self, name, tmp_path):
        fading = fade(toy_model(), choices_for(toy_model(), name))
        seen = []

        def taps(module, progress):
            advance(module, progress)
            seen.append(float(module.conv2.alpha))
            return {}

        config = FitConfig(max_steps=8, batch_size=16, select="last")
        before = fading.module.linear.weight.clone()
        fit(fading.module, toy_task(), config, scratch=None, what="fade", taps=taps)
        assert seen[0] == 0
        assert seen[-1] == 1
        assert seen == sorted(seen)
        assert not torch.equal(before, fading.module.linear.weight)
        new = settled(fading, stage="prune", config={})
        new.save(tmp_path)
        x_BCHW = TOY_INPUT.example()
        assert torch.equal(Model.load(tmp_path)(x_BCHW), new(x_BCHW))
        assert torch.allclose(new(x_BCHW), fading(x_BCHW), atol=1e-5)


def test_weights_inside_the_groups_are_trained_all_the_time():
    fading = faded("grouped", 1.0)
    fading.module(TOY_INPUT.example()).square().sum().backward()
    layer = fading.module.conv2
    inside_DC = layer.inside[:, :, 0, 0].bool()
    slope_DC = layer.dense.weight.grad.abs().sum((2, 3))
    assert (slope_DC[inside_DC] > 0).all()
    assert not slope_DC[~inside_DC].any()


def test_alpha_follows_the_progress():
    module = fade(toy_model(), choices_for(toy_model(), "grouped")).module
    for progress, alpha in ((0.0, 0.0), (0.3, 0.4), (0.75, 1.0), (1.0, 1.0)):
        advance(module, progress)
        assert float(module.conv2.alpha) == pytest.approx(alpha)
    advance(module, 0.3, until=0.5)
    assert float(module.conv2.alpha) == pytest.approx(0.6)
    with pytest.raises(ValueError, match="until=0"):
        advance(module, 0.5, until=0.0)


def test_nothing_happens_in_place_and_what_stays_is_passed_over():
    model = toy_model()
    choices = choices_for(model, "grouped", ("conv2",))
    choices["conv1"] = CONVERSIONS.bind("none")(Site.of(model.module.conv1))
    fading = fade(model, choices)
    assert type(model.module.conv2) is nn.Conv2d
    assert type(fading.module.conv1) is nn.Conv2d
    new = settled(fading, stage="prune", config={})
    assert isinstance(fading.module.conv2, Fading)
    assert set(new.lineage.steps[0].plan["layers"]) == {"conv2"}
    assert "to='grouped'" in repr(fading.module)
