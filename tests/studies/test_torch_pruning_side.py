"""Torch-Pruning on our networks."""

import pytest
import torch
from torch import nn

from compress import catalogue
from compress.core.model import BUILDERS, Model
from compress.core.random import generator
from compress.core.task import TASKS
from compress.measure.measures import macs
from compress.models.resnet_cifar import PadShortcut
from studies.torch_pruning_side import IMPORTANCES, Cutter, Way, cut_by_torch_pruning, ignored_layers

catalogue.load()

SIZES = {"batches": 1, "batch_size": 16, "seed": 0}


@pytest.fixture(scope="module")
def task():
    return TASKS.bind("digits", limit=64)()


@pytest.fixture(scope="module")
def model(task):
    made = Model.build(BUILDERS.bind("resnet_cifar", depth=8, width=8), task.input, seed=0)
    for path, layer in made.module.named_modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5, generator=generator(0, "scales", path))
    return made


@pytest.mark.parametrize("importance", sorted(IMPORTANCES))
def test_it_ends_below_the_limit_and_close_to_it(model, task, importance):
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    x_BCHW = task.input.example(3)
    found = cut_by_torch_pruning(model, task, importance, 0.5, Way(reach="inside"), **SIZES)
    assert 0.4 < macs(found.module, x_BCHW) / macs(model.module, x_BCHW) <= 0.5
    assert found.module(x_BCHW).shape == (3, 10)
    assert all(torch.equal(value, before[name]) for name, value in model.module.state_dict().items())


@pytest.mark.parametrize("importance", ["taylor", "magnitude"])
def test_a_second_cut_by_the_same_cutter_is_that_of_a_new_one(model, task, importance):
    """Gradients are computed once; the first cut, which slices them, does not change what the second one sees."""
    cutter = Cutter(model, task, importance, **SIZES)
    for steps in (50, 1):
        for ratio in (0.4, 0.6):
            again = cutter(ratio, Way(steps=steps)).module.state_dict()
            fresh = cut_by_torch_pruning(model, task, importance, ratio, Way(steps=steps), **SIZES).module.state_dict()
            assert all(torch.equal(again[name], value) for name, value in fresh.items())
    assert bool(cutter.gradients) == (importance == "taylor")


@pytest.mark.parametrize("steps", [1, 50])
def test_all_channels_take_the_stream_with_them_and_those_inside_leave_it_whole(model, task, steps):
    whole = cut_by_torch_pruning(model, task, "magnitude", 0.5, Way(reach="inside", steps=steps), **SIZES).module
    cut = cut_by_torch_pruning(model, task, "magnitude", 0.3, Way(reach="all", steps=steps), **SIZES).module
    assert (whole.conv1.out_channels, whole.layer2[0].conv2.out_channels) == (8, 16)
    assert whole.layer1[0].conv1.out_channels < 8
    assert cut.conv1.out_channels < 8
    assert isinstance(cut.layer2[0].shortcut, PadShortcut)
    assert cut.layer2[0].shortcut.in_channels == cut.layer1[0].conv2.out_channels
    assert cut.layer2[0].shortcut.out_channels == cut.layer2[0].conv2.out_channels
    assert cut(task.input.example(2)).shape == (2, 10)


@pytest.mark.parametrize("reach", ["all", "inside"])
def test_rounded_widths_are_multiples(model, task, reach):
    x_BCHW = task.input.example(1)
    way = Way(reach=reach, steps=100, round_to=4)
    found = cut_by_torch_pruning(model, task, "magnitude", 0.5, way, **SIZES).module
    widths = [layer.out_channels for layer in found.modules() if isinstance(layer, nn.Conv2d)]
    assert macs(found, x_BCHW) <= 0.5 * macs(model.module, x_BCHW)
    assert all(width % 4 == 0 for width in widths)


def test_the_smallest_kernels_go_first(model, task):
    marked = model.copy()
    conv1 = marked.module.layer3[0].conv1
    with torch.no_grad():
        conv1.weight[:16] *= 1e-6
        marked.module.layer3[0].bn1.weight[:16] *= 1e-6
        marked.module.layer3[0].conv2.weight[:, :16] *= 1e-6
    found = cut_by_torch_pruning(marked, task, "magnitude", 0.9, Way(reach="inside"), **SIZES).module.layer3[0]
    left = found.conv1.weight.abs().amax((1, 2, 3))
    assert left.shape[0] < 32
    assert found.bn1.weight[left > 1e-4].numel() == 16, "none of the large kernels went"


def test_outputs_are_never_cut_and_streams_only_on_request(model):
    assert ignored_layers(model, "all") == ["linear"]
    inside = ignored_layers(model, "inside")
    assert {"conv1", "layer1.0.conv2", "linear"} <= set(inside)
    assert "layer1.0.conv1" not in inside
    with pytest.raises(ValueError, match="use all or inside"):
        ignored_layers(model, "some")


def test_an_impossible_limit_is_refused(model, task):
    for steps in (1, 20):
        with pytest.raises(ValueError, match="reaches no network"):
            cut_by_torch_pruning(model, task, "magnitude", 1e-6, Way(reach="inside", steps=steps), **SIZES)


@pytest.mark.parametrize("importance", ["taylor", "random"])
@pytest.mark.parametrize("steps", [1, 50])
def test_several_parts_at_once_are_those_of_one_after_the_other(model, task, importance, steps):
    cutter, way = Cutter(model, task, importance, **SIZES), Way(steps=steps)
    more, none, fewer = cutter.several([0.6, 1e-6, 0.4], way)
    assert none is None
    for cut, ratio in ((more, 0.6), (fewer, 0.4)):
        alone = cutter(ratio, way).module.state_dict()
        assert cut.module.state_dict().keys() == alone.keys()
        assert all(torch.equal(value, alone[name]) for name, value in cut.module.state_dict().items())


def test_chance_follows_the_seed(model, task):
    def weights(seed):
        way = Way(reach="inside")
        module = cut_by_torch_pruning(model, task, "random", 0.6, way, **(SIZES | {"seed": seed})).module
        return [layer.weight for layer in module.modules() if isinstance(layer, nn.Conv2d)]

    assert all(torch.equal(a, b) for a, b in zip(weights(1), weights(1), strict=True))
    assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(weights(1), weights(2), strict=True))
