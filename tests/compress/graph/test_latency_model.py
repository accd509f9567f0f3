"""What a network's latency is foreseen to be: which layers are summed, at which widths, on which line."""

import numpy as np
import pytest
import torch

from compress import catalogue
from compress.core.model import BUILDERS, Model
from compress.core.task import InputSpec
from compress.graph.cost_model import CostModel
from compress.graph.groups import trace_groups
from compress.graph.latency_model import LatencyModel, snapped

catalogue.load()
SPEC = InputSpec(shape=(3, 16, 16), mean=(0.5,) * 3, std=(0.25,) * 3, class_names=("a", "b"))


class Reading:
    """A table by which a layer takes as many milliseconds as it has weights; it notes where it is read."""

    def __init__(self):
        self.read, self.prepared = [], []

    def prepare(self, layers):
        self.prepared += [(kind.kind, kind.size[0], in_, out) for kind, in_, out in layers]

    def layer_ms(self, kind, in_, out):
        self.read.append((kind.kind, kind.size[0], in_, out))
        return float(in_ * out * kind.kernel[0] * kind.kernel[1])


@pytest.fixture
def parts():
    model = Model.build(BUILDERS.bind("resnet_cifar", depth=8, width=16), SPEC, seed=0)
    groups, x_BCHW = trace_groups(model.module, SPEC.example()), SPEC.example(1)
    counts, table = CostModel(model.module, groups, x_BCHW), Reading()
    return model, groups, LatencyModel(model.module, counts, x_BCHW, table), table


def test_the_whole_network_is_the_sum_of_its_convolutions_and_its_classifier(parts):
    model, _, latency, table = parts
    weights = sum(
        layer.weight.numel() for layer in model.module.modules() if hasattr(layer, "weight") and layer.weight.ndim > 1
    )
    assert latency({}) == weights
    assert ("conv", 16, 3, 16) in table.read
    assert ("linear", 1, 64, 2) in table.read


def test_what_is_cut_and_dropped_is_not_paid_for(parts):
    _, groups, latency, table = parts
    inner = next(group for group in groups if group.members[0].path == "layer1.0.conv1")
    mask_C = torch.arange(inner.num_channels) < 10
    table.read.clear()
    whole, cut = latency({}), latency({inner.name: mask_C})
    assert whole - cut == 2 * 9 * 16 * (16 - 11), "10 channels are read at 11: no multiple of 4"
    assert ("conv", 16, 16, 11) in table.read
    assert latency({inner.name: mask_C}, ["layer1.0"]) == whole - 2 * 9 * 16 * 16


def test_what_is_prepared_is_what_is_read(parts):
    _, groups, latency, table = parts
    half = {group.name: torch.arange(group.num_channels) < group.num_channels // 2 for group in groups}
    latency.prepare([({}, []), (half, ["layer1.0"])])
    prepared = list(table.prepared)
    latency({})
    latency(half, ["layer1.0"])
    assert prepared == table.read
    assert table.prepared == 2 * prepared, "a network that nobody announced is prepared as it comes"


def test_a_line_through_measured_networks_gives_scale_and_floor(parts):
    latency = parts[2]
    latency.calibrate([1.0, 2.0, 4.0], [2.5, 4.5, 8.5])
    assert (latency.scale, latency.floor_ms) == (pytest.approx(2), pytest.approx(0.5))
    latency.calibrate([1.0, 2.0], [1.0, 3.0])
    assert (latency.scale, latency.floor_ms) == (1, 0), "no floor is below 0"
    latency.calibrate([2.0], [3.0])
    assert (latency.scale, latency.floor_ms) == (1.5, 0)
    latency.calibrate([1.0, 2.0, 3.0, 4.0, 5.0], [2.5, 4.5, 6.5, 8.5, 30.0])
    assert (latency.scale, latency.floor_ms) == (pytest.approx(2), pytest.approx(0.5)), "one stray network"
    latency.calibrate([2.0, 2.0, 2.0], [3.0, 3.0, 9.0])
    assert (latency.scale, latency.floor_ms) == (1.5, 0), "networks with equal sums"


def test_no_other_line_is_nearer_to_the_networks(parts):
    latency = parts[2]
    chance = np.random.default_rng(0)
    for _ in range(20):
        sums_N = chance.uniform(0.2, 3, 9)
        times_N = (sums_N * chance.uniform(0.5, 2) + chance.uniform(-0.2, 0.5)) * chance.uniform(0.7, 1.4, 9)

        def loss(scale, floor_ms, sums_N=sums_N, times_N=times_N):
            return np.abs((scale * sums_N + floor_ms) / times_N - 1).sum()

        latency.calibrate(sums_N, times_N)
        grid = [loss(scale, floor_ms) for scale in np.linspace(0.01, 4, 80) for floor_ms in np.linspace(0, 2, 80)]
        assert loss(latency.scale, latency.floor_ms) <= min(grid) + 1e-9


@pytest.mark.parametrize("whole", [3, 16, 30, 64, 100, 512])
def test_widths_are_read_at_their_own_kind_and_not_below(whole):
    for count in range(1, whole + 1):
        width = snapped(count, whole)
        assert count <= width <= min(whole, count + max(7, count // 8))
        assert snapped(width, whole) == width
        if width < whole:
            assert (count % 4 == 0) == (width % 4 == 0) or count <= 8
