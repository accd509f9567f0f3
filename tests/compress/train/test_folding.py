import pytest
import torch
from torch import nn

from compress.train.folding import folded, folded_weights, norm_after
from tests.toys import toy_model


def shaken(module):
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.weight.data.uniform_(0.5, 2.0)
            part.bias.data.uniform_(-1.0, 1.0)
            part.running_mean.uniform_(-1.0, 1.0)
            part.running_var.uniform_(0.5, 2.0)
    return module.eval()


def test_finds_the_norm_behind_each_convolution():
    wanted = {"conv1": "bn1", "block.conv1": "block.bn1", "block.conv2": "block.bn2", "conv2": "bn2"}
    assert norm_after(toy_model().module) == wanted


def test_folded_network_answers_the_same_without_norms():
    torch.manual_seed(0)
    module = shaken(toy_model().module)
    merged = folded(module)
    x_BCHW = torch.randn(4, 1, 8, 8)
    assert torch.allclose(merged(x_BCHW), module(x_BCHW), atol=1e-4)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in merged.modules())
    assert sum(isinstance(part, nn.BatchNorm2d) for part in module.modules()) == 4


def test_folded_weight_by_hand():
    net = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0.0)).eval()
    net[0].weight.data.fill_(3.0)
    net[1].weight.data.fill_(2.0)
    net[1].running_var.fill_(4.0)
    assert folded_weights(net)["0"].item() == 3.0
    net[1].weight.data.fill_(4.0)
    assert folded_weights(net)["0"].item() == 6.0
    folded_weights(net)["0"].sum().backward()
    assert float(net[1].weight.grad) == 1.5


def test_norms_without_scale_and_linear_layers_fold():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3, affine=False)).eval()
    net[2].running_mean.uniform_()
    x_BCHW = torch.randn(5, 1, 2, 2)
    assert torch.allclose(folded(net)(x_BCHW), net(x_BCHW), atol=1e-6)


class Twice(nn.Module):
    """The convolution's output is read by the norm and by the sum."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        self.norm = nn.BatchNorm2d(1)

    def forward(self, x_BCHW):
        y_BCHW = self.conv(x_BCHW)
        return y_BCHW + self.norm(y_BCHW)


class Shared(Twice):
    """The convolution is called twice."""

    def forward(self, x_BCHW):
        return self.norm(self.conv(self.conv(x_BCHW)))


@pytest.mark.parametrize("kind", [Twice, Shared])
def test_what_cannot_be_merged_is_left(kind):
    module = shaken(kind())
    x_BCHW = torch.randn(2, 1, 3, 3)
    assert norm_after(module) == {}
    assert torch.equal(folded(module)(x_BCHW), module(x_BCHW))


def test_a_network_that_cannot_be_traced_warns():
    class Branches(nn.Module):
        def forward(self, x_BCHW):
            return x_BCHW if x_BCHW.sum() > 0 else -x_BCHW

    with pytest.warns(UserWarning, match="no batch norm is folded"):
        assert norm_after(Branches()) == {}


def test_a_norm_without_running_statistics_is_left_out() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)).eval()
    assert norm_after(net) == {}
    x_BCHW = torch.randn(2, 3, 4, 4)
    assert torch.equal(folded(net)(x_BCHW), net(x_BCHW))
