import torch
from torch import nn

from compress.train.averaging import WeightAverage


def test_average_by_hand():
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(1.0)
    average = WeightAverage(layer, 0.5)
    layer.weight.data.fill_(3.0)
    average.follow(0)
    assert round(float(average.module.weight), 5) == 2.8
    average.follow(100)
    assert round(float(average.module.weight), 5) == 2.9


def test_buffers_follow_and_counters_are_copied():
    norm = nn.BatchNorm1d(2)
    average = WeightAverage(norm, 0.5)
    norm.running_mean.fill_(4.0)
    norm.num_batches_tracked.fill_(7)
    average.follow(100)
    assert average.module.running_mean.tolist() == [2.0, 2.0]
    assert int(average.module.num_batches_tracked) == 7


def test_the_average_is_not_trained():
    average = WeightAverage(nn.Linear(1, 1), 0.5)
    assert not any(parameter.requires_grad for parameter in average.module.parameters())
    assert not average.module.training
    assert torch.is_grad_enabled()
