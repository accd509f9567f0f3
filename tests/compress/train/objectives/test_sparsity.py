"""Objectives that make channels small, by hand and in training."""

import math

import pytest
import torch
from torch import nn

from compress.graph.groups import trace_groups
from compress.prune.live_groups import LiveGroups
from compress.train.fit import FitConfig, fit
from compress.train.objectives import OBJECTIVES, LiveGroup
from tests.toys import TOY_INPUT, toy_model, toy_task


def live(*rows, scales=()):
    """Return a group of one kernel (C, K), and its parameters."""
    kernel_CK = nn.Parameter(torch.tensor(rows))
    parameters = [nn.Parameter(torch.tensor(scale)) for scale in scales]
    return LiveGroup("a", (kernel_CK,), tuple(parameters)), (kernel_CK, *parameters)


def slopes(name, group, parameters, progress=1.0, **options):
    value = OBJECTIVES.bind(name, **options)(None, {"groups": (group,), "progress": progress})
    value.backward()
    return value.item(), [parameter.grad.tolist() for parameter in parameters]


def descended(name, group, parameters, *, num_steps, lr, **options):
    optimizer = torch.optim.SGD(parameters, lr=lr)
    for number in range(num_steps):
        optimizer.zero_grad()
        OBJECTIVES.bind(name, **options)(None, {"groups": (group,), "progress": number / num_steps}).backward()
        optimizer.step()
    return group.norms().detach()


def trained(names, num_steps=30, lr=0.05):
    """Train the toy network with objectives (name -> options) and return its groups afterwards."""
    module = toy_model().module
    groups = LiveGroups(module, trace_groups(module, TOY_INPUT.example(), is_verified=False))
    pieces = [OBJECTIVES.bind(name, **options) for name, options in names.items()]
    config = FitConfig(max_steps=num_steps, batch_size=16, recipe={"name": "sgd_cosine", "lr": lr}, select="last")
    fit(module, toy_task(), config, scratch=None, what="t", penalties=pieces, taps=groups)
    return {group.name: group for group in groups.of(module)}


def test_no_groups_no_penalty():
    for name in sorted(OBJECTIVES):
        if "groups" in OBJECTIVES[name].needs:
            assert float(OBJECTIVES.bind(name)(None, {"groups": (), "progress": 1.0})) == 0.0


class TestGroupLasso:
    def test_by_hand(self):
        group, parameters = live([3.0, 0.0], [0.0, 0.0], scales=([4.0, 1.0],))
        value, (kernel, scale) = slopes("group_lasso", group, parameters, weight=0.5)
        assert value == pytest.approx(0.5 * math.sqrt(3) * (5 + 1))
        root = 0.5 * math.sqrt(3)
        assert kernel[0] == pytest.approx([root * 3 / 5, 0.0])
        assert scale == pytest.approx([root * 4 / 5, root])
        assert kernel[1] == [0.0, 0.0]

    def test_all_layers_of_a_channel_make_one_length(self):
        group = LiveGroup("a", (torch.tensor([[3.0]]), torch.tensor([[4.0]])))
        assert OBJECTIVES.bind("group_lasso", weight=1.0)(None, {"groups": (group,)}).item() == pytest.approx(
            math.sqrt(2) * 5
        )

    def test_shrinks_channels_in_thirty_steps(self):
        plain, pulled = trained({"none": {}}), trained({"group_lasso": {"weight": 0.006}})
        for name, group in plain.items():
            assert pulled[name].norms().sum() < 0.9 * group.norms().sum()

    def test_weak_channels_reach_zero_first(self):
        group, parameters = live([0.1, 0.1], [1.0, 1.0])
        found = descended("group_lasso", group, parameters, num_steps=20, lr=0.01, weight=1.0)
        assert found[0] < 0.05
        assert found[1] > 1.0


class TestGrowingPenalty:
    def test_by_hand(self):
        group, parameters = live([3.0], [1.0], [2.0], [4.0])
        value, (kernel,) = slopes("growing_penalty", group, parameters, progress=0.25, weight=2.0)
        assert value == pytest.approx(2.0 * 0.25 * 0.5 * (1 + 4))
        assert kernel == [[0.0], [0.5], [1.0], [0.0]]

    @pytest.mark.parametrize(("ratio", "wanted"), [(0.0, 0.0), (0.3, 0.0), (1 / 3, 0.5), (1.0, 7.0)])
    def test_part_that_is_pulled(self, ratio, wanted):
        group, _ = live([3.0], [1.0], [2.0])
        taps = {"groups": (group,), "progress": 1.0}
        assert OBJECTIVES.bind("growing_penalty", pulled_ratio=ratio)(None, taps).item() == wanted

    def test_nothing_at_the_start(self):
        group, parameters = live([3.0], [1.0])
        assert slopes("growing_penalty", group, parameters, progress=0.0) == (0.0, [[[0.0], [0.0]]])

    def test_only_the_least_half_vanishes(self):
        groups = trained({"growing_penalty": {"weight": 5.0}}, num_steps=60)
        for group in groups.values():
            norms_C = group.norms().sort().values
            half = len(norms_C) // 2
            assert norms_C[half - 1] < 0.2 * norms_C[half]

    def test_ratio_out_of_range(self):
        with pytest.raises(ValueError, match="pulled_ratio"):
            OBJECTIVES.bind("growing_penalty", pulled_ratio=1.5)(None, {"groups": (), "progress": 1.0})


class TestScales:
    def test_slimming_by_hand(self):
        group, parameters = live([9.0], [9.0], scales=([0.5, -2.0], [1.0, 0.0]))
        value, (kernel, first, second) = slopes_of_scales("batch_norm_slimming", group, parameters, weight=2.0)
        assert value == 2 * 3.5
        assert (kernel, first, second) == (None, [2.0, -2.0], [2.0, 0.0])

    def test_polarization_by_hand(self):
        group, parameters = live([9.0], [9.0], [9.0], scales=([1.0, 2.0, -6.0],))
        value, (_, scale) = slopes_of_scales("polarization", group, parameters, weight=1.0, shrinkage=2.0)
        assert value == pytest.approx(2 * 9 - (2 + 1 + 3))
        # Of |s - mean| the mean moves by a third: two below and one above leave a third.
        assert scale == pytest.approx([3 - 1 / 3, 3 - 1 / 3, -(1 - 1 / 3)])

    def test_polarization_parts_what_slimming_shrinks_together(self):
        start = [0.8, 0.9, 1.1, 1.2]
        spread = {}
        for name in ("batch_norm_slimming", "polarization"):
            group, parameters = live([0.0], [0.0], [0.0], [0.0], scales=(start,))
            spread[name] = descended(name, group, parameters, num_steps=10, lr=0.02, weight=1.0)
        assert spread["batch_norm_slimming"].tolist() == pytest.approx([0.6, 0.7, 0.9, 1.0])
        assert spread["polarization"].tolist() == pytest.approx([0.36, 0.46, 1.06, 1.16])

    def test_scales_shrink_in_training(self):
        plain, slim = trained({"none": {}}), trained({"batch_norm_slimming": {"weight": 0.05}})
        for name, group in plain.items():
            assert sum(s.abs().sum() for s in slim[name].scales) < 0.9 * sum(s.abs().sum() for s in group.scales)

    @pytest.mark.parametrize("name", ["batch_norm_slimming", "polarization"])
    def test_a_network_without_norms_is_refused(self, name):
        group, _ = live([1.0])
        with pytest.raises(ValueError, match=rf"{name}.*group_lasso"):
            OBJECTIVES.bind(name)(None, {"groups": (group,)})

    def test_shrinkage_out_of_range(self):
        with pytest.raises(ValueError, match="shrinkage"):
            OBJECTIVES.bind("polarization", shrinkage=-0.1)(None, {"groups": ()})


def slopes_of_scales(name, group, parameters, **options):
    value = OBJECTIVES.bind(name, **options)(None, {"groups": (group,)})
    value.backward()
    return value.item(), [None if p.grad is None else p.grad.tolist() for p in parameters]


class TestSortedChannels:
    def test_by_hand(self):
        group, _ = live([1.0], [3.0], [2.0])
        # Over the mean 2: 0.5, 1.5, 1.0; every step shall fall by 0.2.
        wanted = 2.0 * ((1.0 + 0.2) ** 2 + 0.0 + 0.3 * (0.5 * 1.5**2 + 1.0 * 1.0**2))
        found = OBJECTIVES.bind("sorted_channels", weight=2.0, fall=0.4, ramp=0.3)(None, {"groups": (group,)})
        assert found.item() == pytest.approx(wanted)

    def test_sorted_and_steep_enough_costs_nothing(self):
        group, _ = live([3.0], [2.0], [1.0])
        assert OBJECTIVES.bind("sorted_channels", fall=1.0, ramp=0.0)(None, {"groups": (group,)}).item() == 0.0

    def test_one_channel_is_sorted(self):
        group, _ = live([3.0])
        assert OBJECTIVES.bind("sorted_channels")(None, {"groups": (group,)}).item() == 0.0

    def test_directions(self):
        group, parameters = live([1.0], [3.0])
        _, (kernel,) = slopes("sorted_channels", group, parameters, weight=1.0, ramp=0.0)
        # d/dn of (1.5 - 0.5 + 0.5)² is ∓3; n_0 = 2 a / (a + b) moves by 6 / 16 with a and by -2 / 16 with b.
        assert kernel == [[pytest.approx(-3 * 12 / 16)], [pytest.approx(3 * 4 / 16)]]

    def test_size_of_the_whole_group_is_free(self):
        values = []
        for factor in (1.0, 7.0):
            group, _ = live([1.0 * factor], [3.0 * factor], [2.0 * factor])
            values.append(OBJECTIVES.bind("sorted_channels")(None, {"groups": (group,)}).item())
        assert values[0] == pytest.approx(values[1])

    def test_really_sorts(self):
        torch.manual_seed(0)
        start = torch.rand(24, 5)
        group, parameters = live(*start.tolist())
        found = descended("sorted_channels", group, parameters, num_steps=400, lr=0.05, weight=1.0)
        assert bool((start.norm(dim=1).diff() > 0).any())
        assert bool((found.diff() < 0).all())

    def test_sorts_a_network_that_is_trained(self):
        plain, ordered = (
            trained({"none": {}}, num_steps=120),
            trained({"sorted_channels": {"weight": 0.3}}, num_steps=120),
        )
        for name, group in ordered.items():
            norms_C = group.norms()
            assert bool((plain[name].norms().diff() > 0).any())
            for k in range(1, len(norms_C)):
                threshold = torch.sort(norms_C, descending=True).values[k - 1]
                prefix_C = torch.arange(len(norms_C)) < k
                assert torch.equal(norms_C >= threshold, prefix_C), name

    def test_options_out_of_range(self):
        for options in ({"fall": -1.0}, {"ramp": -1.0}):
            with pytest.raises(ValueError, match="0 or more"):
                OBJECTIVES.bind("sorted_channels", **options)(None, {"groups": ()})


def test_kernel_sparsity_by_hand():
    group, parameters = live([1.0, -2.0], [0.0, 3.0])
    value, (kernel,) = slopes("kernel_sparsity", group, parameters, weight=0.5)
    assert value == 3.0
    assert kernel == [[0.5, -0.5], [0.0, 0.5]]


def test_kernel_sparsity_shrinks_kernels():
    plain, sparse = trained({"none": {}}), trained({"kernel_sparsity": {"weight": 0.006}})
    for name, group in plain.items():
        assert sparse[name].kernels[0].abs().mean() < 0.9 * group.kernels[0].abs().mean()


def test_several_objectives_at_once():
    found = trained({"group_lasso": {}, "kernel_sparsity": {}, "growing_penalty": {}})
    assert all(bool(group.norms().isfinite().all()) for group in found.values())
