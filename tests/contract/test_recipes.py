"""What every recipe keeps to."""

import math

import pytest
import torch
from torch import nn

from compress.train.checkpoint import load_optimizer, optimizer_parts
from compress.train.recipes import RECIPES

pytestmark = pytest.mark.parametrize("name", sorted(RECIPES))


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))


def walk(module, optimizer, scheduler, num_steps):
    rates = []
    draw = torch.Generator().manual_seed(1)
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.zero_grad()
        module(torch.randn(16, 4, generator=draw)).square().mean().backward()
        optimizer.step()
        scheduler.step()
    return rates


def test_card_is_filled_in(name):
    card = RECIPES[name]
    assert card.paper
    assert {"lr", "weight_decay", "decay_norm"} <= set(card.options)
    for part in ("Args:", "Returns:", "Differs from the paper:", "Cost:", "Reference:", ">>>"):
        assert part in card.function.__doc__


def test_rates_are_positive_stay_below_the_peak_and_end_low(name):
    module = net()
    rates = walk(module, *RECIPES.bind(name, lr=0.02)(module, 40), 40)
    assert all(0 < rate <= 0.02 * 1.000001 for rate in rates)
    assert max(rates) == pytest.approx(0.02, rel=0.02)
    assert rates[-1] < 0.1 * max(rates)


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7])
def test_short_runs_work(name, num_steps):
    module = net()
    rates = walk(module, *RECIPES.bind(name)(module, num_steps), num_steps)
    assert all(math.isfinite(rate) for rate in rates)


def test_every_parameter_is_trained_once(name):
    module = net()
    optimizer, _ = RECIPES.bind(name)(module, 10)
    trained = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    assert sorted(trained) == sorted(id(parameter) for parameter in module.parameters())


def test_the_loss_falls(name):
    module = net()
    x_BC = torch.randn(64, 4, generator=torch.Generator().manual_seed(2))
    before = module(x_BC).square().mean().item()
    walk(module, *RECIPES.bind(name, lr=0.05)(module, 60), 60)
    assert module(x_BC).square().mean().item() < 0.5 * before


def test_goes_on_after_a_stop_as_if_nothing_happened(name):
    whole, parts = net(), net()
    walk(whole, *RECIPES.bind(name)(whole, 10), 10)
    optimizer, scheduler = RECIPES.bind(name)(parts, 10)
    draw = torch.Generator().manual_seed(1)
    for step in range(10):
        if step == 4:
            tensors, facts = optimizer_parts(optimizer)
            stored = {key: value.clone() for key, value in tensors.items()}
            position = scheduler.state_dict()
            optimizer, scheduler = RECIPES.bind(name)(parts, 10)
            load_optimizer(optimizer, stored, facts)
            scheduler.load_state_dict(position)
        optimizer.zero_grad()
        parts(torch.randn(16, 4, generator=draw)).square().mean().backward()
        optimizer.step()
        scheduler.step()
    assert torch.equal(whole[0].weight, parts[0].weight)
