"""What rectifiers give, heard without naming them."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from compress.train.fit import FitConfig, fit
from compress.train.objectives import OBJECTIVES
from compress.train.objectives.activations import rectified_outputs
from tests.toys import toy_model, toy_task


class Calls(nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, x_BC):
        return self.call(x_BC)


@pytest.mark.parametrize(
    "call",
    [
        nn.ReLU(),
        nn.ReLU(inplace=True),
        nn.ReLU6(),
        functional.relu,
        torch.relu,
        torch.Tensor.relu,
        torch.relu_,
        torch.Tensor.relu_,
        lambda x: functional.relu(x, inplace=True),
    ],
    ids=lambda way: getattr(way, "__qualname__", None) or str(way),
)
def test_every_way_to_write_a_relu(call):
    net, x_BC = Calls(call), torch.tensor([[-1.0, 2.0]], requires_grad=True)
    with rectified_outputs(net) as outputs:
        net(x_BC * 1)
    assert [output.tolist() for output in outputs] == [[[0.0, 2.0]]]
    outputs[0].sum().backward()
    assert x_BC.grad.tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize(
    "call",
    [nn.GELU(), nn.Hardswish(), nn.Hardsigmoid(), nn.Hardtanh(), nn.Sigmoid()],
    ids=lambda way: getattr(way, "__qualname__", None) or str(way),
)
def test_what_is_no_rectifier_is_not_heard(call):
    net = Calls(call)
    with rectified_outputs(net) as outputs:
        net(torch.ones(1, 2))
    assert outputs == []


def test_in_order_and_over_several_calls():
    net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4), nn.ReLU())
    with rectified_outputs(net) as outputs:
        net(torch.ones(5, 2))
        net(torch.ones(1, 2))
    assert [tuple(output.shape) for output in outputs] == [(5, 3), (5, 4), (1, 3), (1, 4)]


def test_what_others_call_is_not_heard():
    net, teacher = nn.ReLU(), nn.ReLU()
    with rectified_outputs(net) as outputs:
        teacher(torch.ones(2))
        torch.relu(net(torch.ones(1)))
    assert [len(output) for output in outputs] == [1]


def test_a_failure_ends_the_listening():
    def fail(x_BC):
        raise RuntimeError("broken")

    net = Calls(fail)
    with rectified_outputs(net) as outputs:
        with pytest.raises(RuntimeError, match="broken"):
            net(torch.ones(1))
        torch.relu(torch.ones(1))
    assert outputs == []
    assert not net._forward_hooks
    assert not net._forward_pre_hooks


def test_activation_sparsity_by_hand():
    first, second = torch.tensor([[[[0.0, 3.0]]]], requires_grad=True), torch.tensor([[1.0]], requires_grad=True)
    value = OBJECTIVES.bind("activation_sparsity", weight=2.0)(None, {"activations": (first, second)})
    assert value.item() == 2.0 * (1.5 + 1.0) / 2
    value.backward()
    assert first.grad.tolist() == [[[[0.0, 0.5]]]]
    assert second.grad.tolist() == [[1.0]]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_feature_maps_become_smaller_in_training(precision):
    found = {}
    for weight in (0.0, 2.0):
        module = toy_model().module
        penalty = OBJECTIVES.bind("activation_sparsity", weight=weight)
        config = FitConfig(max_steps=30, batch_size=16, precision=precision, select="last")
        fit(module, toy_task(), config, scratch=None, what="t", penalties=(penalty,))
        x_BCHW, _ = next(toy_task().batches("validation", batch_size=48))
        with rectified_outputs(module) as outputs:
            module(x_BCHW)
        found[weight] = sum(output.mean().item() for output in outputs)
    assert found[2.0] < 0.5 * found[0.0]


def test_a_network_without_a_relu_is_refused():
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    config = FitConfig(max_steps=2, batch_size=16)
    with pytest.raises(ValueError, match="has none: use 'kernel_sparsity'"):
        fit(module, toy_task(), config, scratch=None, what="t", penalties=(OBJECTIVES.bind("activation_sparsity"),))
