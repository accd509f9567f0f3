"""What every objective keeps to."""

import pytest
import torch

from compress.core.random import generator
from compress.graph.groups import trace_groups
from compress.prune.live_groups import LiveGroups
from compress.train.checkpoint import state_digest
from compress.train.objectives import OBJECTIVES
from compress.train.objectives.activations import rectified_outputs
from tests.toys import TOY_INPUT, toy_model

ACTIVE = sorted(set(OBJECTIVES) - {"none"})
KNOWN_NEEDS = {"groups", "progress", "activations"}


def value_of(name, module, **options):
    """Return an objective's value half-way through a training."""
    groups = trace_groups(module, TOY_INPUT.example(), is_verified=False)
    x_BCHW = torch.rand(4, 1, 8, 8, generator=generator(0, "pictures"))
    is_training = module.training
    with rectified_outputs(module.eval()) as activations:
        module(x_BCHW)
    module.train(is_training)
    taps = {**LiveGroups(module, groups)(module, 0.5), "progress": 0.5, "activations": tuple(activations)}
    needs = OBJECTIVES[name].needs
    return OBJECTIVES.bind(name, **options)(module, {need: taps[need] for need in needs})


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
class TestEveryObjective:
    def test_card_is_filled_in(self, name):
        card = OBJECTIVES[name]
        assert set(card.needs) <= KNOWN_NEEDS
        for part in ("Args:", "Returns:", "Differs from the paper:", "Cost:", "Reference:", ">>>"):
            assert part in card.function.__doc__

    def test_a_finite_scalar_that_is_never_negative(self, name):
        value = value_of(name, toy_model().module)
        assert value.shape == ()
        assert bool(value.isfinite())
        assert value.item() >= 0

    def test_writes_nothing(self, name):
        module = toy_model().module.train()
        before = state_digest(module)
        value_of(name, module)
        assert state_digest(module) == before
        assert module.training


@pytest.mark.parametrize("name", ACTIVE)
class TestEveryActiveObjective:
    def test_has_a_source_and_a_weight(self, name):
        card = OBJECTIVES[name]
        assert card.idea
        assert card.paper or "no paper" in card.function.__doc__
        assert "weight" in card.options

    def test_the_weight_is_a_factor(self, name):
        module = toy_model().module
        once, thrice = (value_of(name, module, weight=weight).item() for weight in (1.0, 3.0))
        assert once > 0
        assert thrice == pytest.approx(3 * once)

    def test_a_small_step_against_the_gradient_lowers_it(self, name):
        module = toy_model().module
        before = value_of(name, module)
        before.backward()
        slopes = [p.grad for p in module.parameters() if p.grad is not None]
        length = torch.stack([slope.norm() for slope in slopes]).norm()
        assert bool(length.isfinite())
        assert length > 0
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.grad is not None:
                    parameter -= 1e-3 * parameter.grad / length
        assert value_of(name, module).item() < before.item()

    def test_has_finite_slopes_where_all_weights_are_zero(self, name):
        module = toy_model().module
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.zero_()
        value = value_of(name, module)
        value.backward()
        assert bool(value.isfinite())
        assert all(bool(p.grad.isfinite().all()) for p in module.parameters() if p.grad is not None)
