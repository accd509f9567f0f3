import pytest
import torch
from torch import nn

from compress.train.objectives.kurtosis import kurtosis, kurtosis_of, layer_kurtosis
from tests.toys import toy_model


def test_known_values():
    assert float(kurtosis_of(torch.tensor([-1.0, 1.0]))) == 1.0
    assert float(kurtosis_of(torch.tensor([0.0, 0.0, 0.0, 1.0]))) == pytest.approx(84 / 36)
    assert float(kurtosis_of(torch.linspace(-1, 1, 10_001))) == pytest.approx(1.8, abs=1e-3)
    assert float(kurtosis_of(torch.zeros(4))) == 0.0


def test_a_penalty_by_hand():
    net = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Linear(4, 1, bias=False))
    net[0].weight.data.copy_(torch.tensor([[-1.0, 1.0]]))
    net[1].weight.data.copy_(torch.tensor([[-1.0, 0.0, 0.0, 1.0]]))
    wanted = 2.0 * ((1.0 - 2.5) ** 2 + (2.0 - 2.5) ** 2) / 2
    assert kurtosis(net, {}, target=2.5, weight=2.0, fold=False).item() == pytest.approx(wanted)


def test_first_convolution_and_depthwise_are_left_out():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 2, 1), nn.Linear(2, 2))
    assert list(layer_kurtosis(net, fold=False)) == ["2", "3"]
    assert list(layer_kurtosis(toy_model().module)) == ["block.conv1", "block.conv2", "conv2", "linear"]


def test_folding_changes_the_kurtosis():
    module = toy_model().module
    module.bn2.weight.data.uniform_(0.1, 3.0)
    assert layer_kurtosis(module)["conv2"].item() != layer_kurtosis(module, fold=False)["conv2"].item()


def test_descent_reaches_the_target():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 20))
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    net[0].weight.data.normal_()
    for _ in range(200):
        optimizer.zero_grad()
        kurtosis(net, {}).backward()
        optimizer.step()
    assert kurtosis(net, {}).item() < 1e-3


def test_no_layers_no_penalty():
    assert float(kurtosis(nn.Sequential(nn.ReLU()), {})) == 0.0
