"""What is planted in a network is found: copies, dead channels, scales of nothing; and names do not matter."""

import copy

import pytest
import torch
from torch import nn

from compress.graph.absorption import absorb
from compress.graph.groups import trace_groups
from compress.graph.slicers import is_depthwise
from compress.graph.stats import GATHERERS, gather
from compress.graph.surgery import cut, plan_from_kept
from compress.prune.allocators.family import best
from compress.prune.compensations import COMPENSATIONS
from compress.prune.criteria import CRITERIA
from tests.compress.graph.networks import network
from tests.compress.graph.random_task import random_task

SETTINGS = {"num_batches": 3, "batch_size": 16}
PASSED = [name for name in sorted(CRITERIA) if not set(CRITERIA[name].needs) & set(GATHERERS)]


class Chain(nn.Module):
    """Convolution, batch norm, ReLU; the same again; a mean and a linear layer. Every kernel has the same size."""

    def __init__(self):
        super().__init__()
        self.a, self.a_norm = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16)
        self.b, self.b_norm = nn.Conv2d(16, 12, 3, bias=False), nn.BatchNorm2d(12)
        self.linear = nn.Linear(12, 4)

    def forward(self, x_BCHW):
        y = torch.relu(self.a_norm(self.a(x_BCHW)))
        return self.linear(torch.relu(self.b_norm(self.b(y))).mean((2, 3)))


def chain():
    torch.manual_seed(3)
    module = Chain().eval()
    with torch.no_grad():
        for conv in (module.a, module.b):
            conv.weight /= conv.weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        module.a.bias.zero_()
        for norm in (module.a_norm, module.b_norm):
            norm.bias.normal_(0.1, 0.05)
    return module, random_task((3, 10, 10), 4)


def groups_of(module):
    return trace_groups(module, torch.randn(2, 3, 10, 10), is_verified=False)


def scores_of(module, task, name, groups=None, **options):
    groups = groups_of(module) if groups is None else groups
    criterion = CRITERIA.bind(name, **options)
    stats = gather(module, groups, criterion.card.needs, task, **SETTINGS)
    return {group.name: criterion(stats[group.name]) for group in groups}


def lowest(scores_C, count):
    return set(scores_C.argsort(stable=True)[:count].tolist())


def copy_channel(module, source, target, factor=1.0):
    """Let channel `target` of the first convolution give `factor` times what `source` gives."""
    with torch.no_grad():
        for values in (module.a.weight, module.a.bias):
            values[target] = values[source] * factor
        for name in ("weight", "bias"):
            getattr(module.a_norm, name)[target] = getattr(module.a_norm, name)[source]
        module.a_norm.running_mean[target] = module.a_norm.running_mean[source] * factor
        module.a_norm.running_var[target] = module.a_norm.running_var[source] * factor**2
        module.a_norm.eps = 1e-12


REDUNDANCY = [
    ("kernel_distance", {"neighbours": 1}),
    ("kernel_angle", {}),
    ("feature_similarity", {}),
]


@pytest.mark.parametrize(("name", "options"), REDUNDANCY)
def test_copies_are_found_and_can_go(name, options):
    """Three of 16 channels are copies: they, or the channels they copy, are worth least, and a twin carries on."""
    module, task = chain()
    pairs = [(2, 9), (4, 0), (7, 15)]
    for source, target in pairs:
        copy_channel(module, source, target)
    scores_C = scores_of(module, task, name, **options)["a"]
    number = 6 if name == "kernel_distance" else 3
    found = lowest(scores_C, number)
    assert all(len({source, target} & found) == number / 3 for source, target in pairs)
    assert scores_C[list(found)].max() < 0.05 * scores_C.median()
    removed = torch.zeros(16, dtype=torch.bool)
    removed[[next(c for c in pair if c in found) for pair in pairs]] = True
    assert gap_after(module, task, {"a": ~removed}, "twin") < 1e-4
    assert gap_after(module, task, {"a": ~removed}, "none") > 1e-2


def gap_after(module, task, kept, name):
    """By how much the answers differ after a cut with a compensation, as a part of their size."""
    groups = groups_of(module)
    moments = {n: own.moments for n, own in gather(module, groups, ("moment",), task, **SETTINGS).items()}
    ready = absorb(module, groups, kept, moments, COMPENSATIONS.bind(name))
    x_BCHW, _ = next(iter(task.batches("train", batch_size=48)))
    with torch.no_grad():
        whole, found = module(x_BCHW), cut(ready, plan_from_kept(groups, kept))(x_BCHW)
    return float((found - whole).abs().max() / whole.abs().max())


@pytest.mark.parametrize("name", ["geometric_median", "kernel_distance"])
def test_a_family_of_copies_is_nearest_to_all(name):
    """Of 16 kernels of one size 5 are the same: the mean distance to all others is smallest for these."""
    module, task = chain()
    family = {1, 3, 6, 10, 13}
    for target in family - {1}:
        copy_channel(module, 1, target)
    assert lowest(scores_of(module, task, name)["a"], 5) == family


@pytest.mark.parametrize("name", ["kernel_angle", "feature_similarity"])
def test_of_copies_the_strongest_is_spared(name):
    """Copies of half the size behind a batch norm without statistics: the original keeps its score."""
    module, task = chain()
    module.a_norm = nn.Identity()
    with torch.no_grad():
        for target in (5, 11):
            module.a.weight[target] = module.a.weight[8] / 2
            module.a.bias[target] = module.a.bias[8] / 2
    scores_C = scores_of(module, task, name)["a"]
    assert lowest(scores_C, 2) == {5, 11}
    assert scores_C[8] > 0.1 * scores_C.median()


def test_a_copy_that_batch_norm_hides_is_found_by_folded_kernels_alone():
    """Kernel times 4, running mean times 4, variance times 16: another kernel, the same channel."""
    module, task = chain()
    copy_channel(module, 2, 9, factor=4.0)
    assert lowest(scores_of(module, task, "kernel_distance", neighbours=1)["a"], 2) == {2, 9}
    assert scores_of(module, task, "kernel_angle")["a"].argmin() in (2, 9)
    assert scores_of(module, task, "geometric_median")["a"].argmax() == 9


@pytest.mark.parametrize(
    "name",
    ["activation_sparsity", "feature_similarity", "feature_rank", "influence", "taylor", "fisher", "mask_gradient"],
)
def test_dead_channels_are_worth_nothing(name):
    """A bias far below 0 in front of the ReLU: the kernels look as alive as ever."""
    module, task = chain()
    dead = {3, 8, 12}
    with torch.no_grad():
        module.a_norm.bias[list(dead)] = -50
    scores_C = scores_of(module, task, name)["a"]
    assert lowest(scores_C, 3) == dead
    assert scores_C[list(dead)].max() == 0
    assert scores_C.median() > 0


@pytest.mark.parametrize("name", ["magnitude", "batch_norm_scale", "kernel_sparsity"])
def test_criteria_that_look_at_weights_do_not_see_death(name):
    module, task = chain()
    before = scores_of(module, task, name)["a"]
    with torch.no_grad():
        module.a_norm.bias[3] = -50
    assert torch.equal(scores_of(module, task, name)["a"], before)


def test_low_scales_are_found():
    module, task = chain()
    with torch.no_grad():
        module.a_norm.weight[[1, 14]] = torch.tensor([0.01, -0.02])
        module.b_norm.weight[5] = 0.001
    scores = scores_of(module, task, "batch_norm_scale")
    assert lowest(scores["a"], 2) == {1, 14}
    assert lowest(scores["b"], 1) == {5}


def test_empty_kernels_are_found():
    """Three kernels have one weight, as large as a whole kernel: small in number, not in size."""
    module, task = chain()
    empty = [0, 6, 9]
    with torch.no_grad():
        module.a.weight[empty] = 0
        module.a.weight[empty, 1, 2, 0] = 2.0
    assert lowest(scores_of(module, task, "kernel_sparsity")["a"], 3) == set(empty)
    assert lowest(scores_of(module, task, "magnitude")["a"], 3).isdisjoint(empty)


def test_maps_of_rank_one_are_found():
    """A kernel of zeros and a bias: a map that is the same everywhere."""
    module, task = chain()
    with torch.no_grad():
        module.a.weight[4] = 0
        module.a_norm.bias[4] = 1.0
    scores_C = scores_of(module, task, "feature_rank")["a"]
    assert scores_C.argmin() == 4
    assert scores_C[4].item() == pytest.approx(1, abs=1e-3)
    assert scores_C.median() > 2


@pytest.mark.parametrize("name", ["taylor", "fisher", "mask_gradient"])
def test_channels_that_nobody_reads_are_worth_nothing(name):
    module, task = chain()
    with torch.no_grad():
        module.b.weight[:, [2, 7]] = 0
    scores_C = scores_of(module, task, name)["a"]
    assert lowest(scores_C, 2) == {2, 7}
    assert scores_C[[2, 7]].max() == 0


def relabelled(module, group, order):
    """The same network with the channels of a group in another order."""
    other = copy.deepcopy(module)
    with torch.no_grad():
        for member in group.members:
            layer = other.get_submodule(member.path)
            places = list(range(member.size))
            for new, old in enumerate(order.tolist()):
                for there, here in zip(member.index[new], member.index[old], strict=True):
                    places[there] = here
            is_first = (member.axis == "out") != bool(getattr(layer, "transposed", False)) or is_depthwise(layer)
            for name, value in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
                if name == "weight" and value.ndim > 1:
                    value.copy_(value.index_select(0 if is_first else 1, torch.tensor(places)))
                elif member.axis == "out" and value.ndim == 1:
                    value.copy_(value[places])
    return other


@pytest.mark.parametrize("name", PASSED)
@pytest.mark.parametrize("network_name", ["toy", "plain"])
def test_relabelling_channels_changes_nothing_but_the_order(name, network_name):
    if CRITERIA[name].extra.get("is_chance"):
        pytest.skip("scores by chance follow nothing")
    module, x_BCHW = network(network_name)
    groups, task = trace_groups(module, x_BCHW, is_verified=False), random_task(tuple(x_BCHW.shape[1:]), 3)
    before = scores_of(module, task, name, groups)
    for group in groups:
        order = torch.randperm(group.num_channels, generator=torch.Generator().manual_seed(1))
        other = relabelled(module, group, order)
        with torch.no_grad():
            assert torch.allclose(other(x_BCHW), module(x_BCHW), atol=1e-5)
        after = scores_of(other, task, name, groups)
        for one in groups:
            expected = before[one.name][order] if one.name == group.name else before[one.name]
            assert torch.allclose(after[one.name], expected, rtol=2e-3, atol=2e-3 * float(expected.max())), one.name


def test_relabelling_does_not_change_which_channels_stay():
    module, x_BCHW = network("toy")
    groups, task = trace_groups(module, x_BCHW, is_verified=False), random_task((1, 8, 8), 3)
    group = next(group for group in groups if group.name == "conv2")
    order = torch.randperm(16, generator=torch.Generator().manual_seed(2))
    for name in ("fisher", "kernel_angle", "feature_similarity", "influence"):
        straight, other = (
            best(scores_of(one, task, name, groups)["conv2"], 7) for one in (module, relabelled(module, group, order))
        )
        assert torch.equal(straight[order], other), name
