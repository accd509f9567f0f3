import pytest
import torch
from torch import nn

from compress.train.recipes import RECIPES, parameter_groups


def rates(name, num_steps, **options):
    optimizer, scheduler = RECIPES.bind(name, **options)(nn.Linear(2, 1), num_steps)
    found = []
    for _ in range(num_steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return found


def test_cosine_with_warm_up():
    wanted = [0.5, 1.0, 1.0, 0.75, 0.25]
    assert rates("sgd_cosine", 5, lr=1.0, warmup_ratio=0.4)[:3] == pytest.approx(wanted[:3])
    assert rates("sgd_cosine", 5, lr=1.0, warmup_ratio=0.4)[3:] == pytest.approx(wanted[3:])


def test_one_cycle_peaks_once():
    found = rates("adamw_one_cycle", 20, lr=1.0, warmup_ratio=0.3)
    assert found[0] == pytest.approx(0.04)
    assert max(found) == pytest.approx(1.0)
    assert found.index(max(found)) == 5
    assert found[-1] < 0.03


@pytest.mark.parametrize("num_steps", [1, 2, 3, 4, 10])
@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.5])
def test_short_one_cycles_work(num_steps, ratio):
    assert len(rates("sgd_one_cycle", num_steps, warmup_ratio=ratio)) == num_steps


def test_scales_and_biases_do_not_decay_unless_told():
    net = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    kernels, rest = parameter_groups(net, weight_decay=0.1, decay_norm=False)
    assert (kernels["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    assert (len(kernels["params"]), len(rest["params"])) == (1, 3)
    (together,) = parameter_groups(net, weight_decay=0.1, decay_norm=True)
    assert len(together["params"]) == 4


def test_frozen_parameters_are_left_out():
    layer = nn.Linear(2, 1)
    layer.bias.requires_grad_(False)
    (group,) = parameter_groups(layer, weight_decay=0.0, decay_norm=False)
    assert group["params"] == [layer.weight]
    layer.weight.requires_grad_(False)
    with pytest.raises(ValueError, match="nothing to train"):
        parameter_groups(layer, weight_decay=0.0, decay_norm=False)


@pytest.mark.parametrize(("name", "ratio"), [("sgd_cosine", 1.0), ("sgd_one_cycle", 0.0), ("adamw_cosine", -0.1)])
def test_warm_up_out_of_range_is_refused(name, ratio):
    with pytest.raises(ValueError, match="warmup_ratio"):
        RECIPES.bind(name, warmup_ratio=ratio)(nn.Linear(2, 1), 10)


def test_without_momentum_nesterov_is_off():
    optimizer, _ = RECIPES.bind("sgd_cosine", momentum=0.0)(nn.Linear(2, 1), 10)
    assert not optimizer.param_groups[0]["nesterov"]
    assert isinstance(optimizer, torch.optim.SGD)
