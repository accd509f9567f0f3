"""Switched off without a cut: the answers of the cut network, and a way back."""

import pytest
import torch
from torch import nn

from compress import models  # noqa: F401  (registers the builders)
from compress.core.lineage import BUILDERS
from compress.core.model import Model
from compress.core.random import generator
from compress.core.task import InputSpec
from compress.graph.groups import find_blocks, trace_groups
from compress.graph.surgery import cut, plan_from_kept
from compress.prune.schedules import Choice, zeroed
from compress.prune.schedules.zeroing import branch_ends
from compress.train.checkpoint import state_digest
from tests.toys import toy_model

SPEC = InputSpec(shape=(3, 16, 16), mean=(0.5,) * 3, std=(0.25,) * 3, class_names=("a", "b", "c"))


def lively(model):
    """Give norms statistics, scales and biases as a trained network has them."""
    draw = generator(0, "lively")
    for layer in model.module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            with torch.no_grad():
                for value, low, high in (
                    (layer.weight, 0.5, 1.5),
                    (layer.bias, -0.5, 0.5),
                    (layer.running_mean, -0.2, 0.2),
                    (layer.running_var, 0.5, 2.0),
                ):
                    value.copy_(low + (high - low) * torch.rand(value.shape, generator=draw))
    return model


def built(name, **options):
    return lively(Model.build(BUILDERS.bind(name, **options), SPEC, seed=0))


def every_second(model, dropped=()):
    groups = trace_groups(model.module, model.input.example(), is_verified=False)
    kept = {group.name: torch.arange(group.num_channels) % 2 == 0 for group in groups}
    return Choice(groups, kept, tuple(dropped))


def answers(module, spec):
    x_BCHW = torch.rand(4, *spec.shape, generator=generator(0, "pictures"))
    with torch.no_grad():
        return module.eval()(x_BCHW)


@pytest.mark.parametrize(
    ("make", "tolerance"),
    [
        (lambda: lively(toy_model()), 1e-5),
        (lambda: built("vgg_small", width=0.125), 1e-5),
        (lambda: built("mobilenet_v2_small", width=0.25), 1e-5),
        (lambda: built("resnet_cifar", depth=14, width=4), 2e-2),
    ],
    ids=["toy", "vgg", "mobilenet", "resnet with shortcuts that pad"],
)
@pytest.mark.parametrize("is_dropping", [False, True])
def test_answers_of_the_cut_network_in_the_old_structure(make, tolerance, is_dropping):
    model = make()
    before = state_digest(model.module)
    dropped = [block.name for block in find_blocks(model.module)][::2] if is_dropping else []
    choice = every_second(model, dropped)
    off = zeroed(model, choice)
    smaller = cut(model.module, plan_from_kept(choice.groups, choice.kept, choice.dropped))
    wanted, whole = answers(smaller, model.input), answers(model.module, model.input)
    effect = (wanted - whole).abs().max()
    assert effect > 0.01
    assert (answers(off.module, model.input) - wanted).abs().max() <= tolerance * effect
    assert [value.shape for value in off.module.parameters()] == [value.shape for value in model.module.parameters()]
    assert off.lineage == model.lineage
    assert state_digest(model.module) == before


@pytest.mark.parametrize("name", ["resnet_cifar", "mobilenet_v2_small"])
def test_the_zeroed_network_cuts_like_the_first_one(name):
    model = built(name)
    choice = every_second(model)
    plan = plan_from_kept(choice.groups, choice.kept)
    first, second = cut(model.module, plan), cut(zeroed(model, choice).module, plan)
    torch.testing.assert_close(answers(second, SPEC), answers(first, SPEC))


def test_nothing_chosen_is_the_same_model():
    model = toy_model()
    assert zeroed(model, Choice((), {})) is model


def step(module):
    """Descend once on the mean of squares of the answers' distance to 1."""
    x_BCHW = torch.rand(8, 1, 8, 8, generator=generator(0, "step"))
    module.train()
    (module(x_BCHW) - 1).square().mean().backward()
    with torch.no_grad():
        for value in module.parameters():
            value -= 0.1 * value.grad
            value.grad = None


def test_what_is_off_comes_back_when_it_is_trained():
    model = lively(toy_model())
    choice = every_second(model, ["block"])
    module = zeroed(model, choice).module
    gone_16 = ~choice.kept["conv2"]
    assert bool((module.linear.weight[:, gone_16] == 0).all())
    assert bool((module.block.bn2.weight == 0).all())
    step(module)
    assert bool((module.linear.weight[:, gone_16] != 0).all())
    assert bool((module.block.bn2.weight[choice.kept["conv1"]] != 0).all())
    before = module.conv2.weight[gone_16].clone()
    step(module)
    assert not torch.equal(module.conv2.weight[gone_16], before)
    assert bool((module.block.bn2.weight != 0).all())


def test_zero_kernels_behind_a_norm_and_a_relu_would_never_come_back():
    """Why readers are zeroed: a filter of zeros whose norm has no bias gets no gradient at all."""
    module = lively(toy_model()).module
    with torch.no_grad():
        module.conv2.weight[0] = 0
        module.bn2.bias[0] = 0
    step(module)
    assert bool((module.conv2.weight[0] == 0).all())


class PreActivation(nn.Module):
    is_droppable = True

    def __init__(self):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(4), nn.Conv2d(4, 6, 1)
        self.bn2, self.conv2 = nn.BatchNorm2d(6), nn.Conv2d(6, 4, 1)

    def forward(self, x_BCHW):
        y_BCHW = self.conv1(torch.relu(self.bn1(x_BCHW)))
        return x_BCHW + self.conv2(torch.relu(self.bn2(y_BCHW)))


def test_ends_of_a_branch():
    net = nn.Sequential(nn.Conv2d(3, 4, 1), PreActivation(), nn.Flatten(), nn.Linear(256, 2))
    groups = trace_groups(net, torch.rand(2, 3, 8, 8), is_verified=False)
    assert branch_ends(net, groups, "1") == ("1.conv2",)
    assert branch_ends(net, (), "1") == ("1.conv2",)
    toy = toy_model()
    assert branch_ends(toy.module, every_second(toy).groups, "block") == ("block.bn2",)
    mobile = built("mobilenet_v2_small", width=0.25)
    (block, *_) = find_blocks(mobile.module)
    assert branch_ends(mobile.module, every_second(mobile).groups, block.name) == (f"{block.name}.norm",)
