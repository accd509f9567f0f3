"""What every objective keeps to."""

import pytest
import torch

from compress.train.checkpoint import state_digest
from compress.train.objectives import OBJECTIVES
from tests.toys import toy_model

pytestmark = pytest.mark.parametrize("name", sorted(OBJECTIVES))


def test_card_is_filled_in(name):
    card = OBJECTIVES[name]
    assert card.paper
    assert card.idea
    assert "weight" in card.options
    for part in ("Args:", "Returns:", "Differs from the paper:", "Cost:", "Reference:", ">>>"):
        assert part in card.function.__doc__


def test_a_finite_scalar_that_is_never_negative(name):
    value = OBJECTIVES.bind(name)(toy_model().module, {})
    assert value.shape == ()
    assert bool(value.isfinite())
    assert value.item() >= 0


def test_writes_nothing(name):
    module = toy_model().module.train()
    before = state_digest(module)
    OBJECTIVES.bind(name)(module, {})
    assert state_digest(module) == before
    assert module.training


def test_the_weight_is_a_factor(name):
    module = toy_model().module
    once, thrice = (OBJECTIVES.bind(name, weight=weight)(module, {}).item() for weight in (1.0, 3.0))
    assert once > 0
    assert thrice == pytest.approx(3 * once)


def test_a_small_step_against_the_gradient_lowers_it(name):
    module = toy_model().module
    objective = OBJECTIVES.bind(name)
    before = objective(module, {})
    before.backward()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.grad is not None:
                parameter -= 1e-3 * parameter.grad
    assert objective(module, {}).item() < before.item()
