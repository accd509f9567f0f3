from dataclasses import replace

import torch
from torch import nn

from compress.train.recalibrate import recalibrate_batch_norm
from tests.toys import toy_model, toy_task


def test_statistics_become_those_of_the_training_inputs():
    task = toy_task()
    net = nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 3))
    net[0].running_mean.fill_(100.0)
    recalibrate_batch_norm(net, task, num_batches=100, batch_size=48)
    x_NCHW = torch.cat([x for x, _ in task.batches("train", batch_size=96)])
    assert torch.allclose(net[0].running_mean, x_NCHW.mean().reshape(1), atol=1e-5)
    assert torch.allclose(net[0].running_var, x_NCHW.var().reshape(1), rtol=0.02)
    assert int(net[0].num_batches_tracked) == 2


def test_only_buffers_change_and_modes_come_back():
    module = toy_model().module.train()
    module.bn1.momentum = 0.3
    module.block.eval()
    weights = {name: value.clone() for name, value in module.named_parameters()}
    recalibrate_batch_norm(module, toy_task(), num_batches=2, batch_size=16)
    assert all(torch.equal(value, weights[name]) for name, value in module.named_parameters())
    assert module.bn1.momentum == 0.3
    assert module.training
    assert module.bn1.training
    assert not module.block.bn1.training


def test_repeats_and_depends_on_the_seed():
    found = []
    for seed in (0, 0, 1):
        module = toy_model().module
        recalibrate_batch_norm(module, toy_task(), num_batches=1, batch_size=16, seed=seed)
        found.append(module.bn2.running_mean.clone())
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_does_not_augment():
    def spoil(images, draw):
        raise AssertionError("augmented")

    recalibrate_batch_norm(toy_model().module, replace(toy_task(), augment=spoil), num_batches=1, batch_size=8)


def test_without_batch_norm_nothing_happens():
    recalibrate_batch_norm(nn.Linear(1, 1), toy_task())
