"""Hand-computed values of criteria, and what they are for."""

import math

import pytest
import torch

from compress.graph.stats import Activity, FoldedPart, GroupStats, Moments, Part, UndeclaredReadError
from compress.prune.criteria import CRITERIA, pairwise
from compress.prune.criteria.family import NeutralScores
from compress.prune.criteria.pairwise import (
    distance_sums,
    folded_products,
    largest_cosine_before,
    mean_distances,
    nearest_distances,
)


def group(need, *parts, size=2):
    return GroupStats("a", size, {need: [Part("l", axis, False, torch.tensor(v)) for axis, v in parts]})


def folded(*kernels_CK, scale_CM=None, constant_CM=None, is_plain_too=True):
    """Kernels of one layer each, scaled by 1 and without constants if nothing else is said."""
    kernels_CK = [torch.as_tensor(kernel_CK) for kernel_CK in kernels_CK]
    one_C1 = torch.ones(len(kernels_CK[0]), 1)
    scale_CM = one_C1 if scale_CM is None else scale_CM
    constant_CM = 0 * one_C1 if constant_CM is None else constant_CM
    parts = [FoldedPart("l", kernel_CK, scale_CM, constant_CM) for kernel_CK in kernels_CK]
    plain = [Part("l", "out", False, kernel_CK) for kernel_CK in kernels_CK]
    return GroupStats("a", len(one_C1), {"folded": parts} | ({"weight": plain} if is_plain_too else {}))


def with_norm(*parts):
    """Parts (axis, is_norm, values)."""
    return GroupStats("a", 2, {"weight": [Part("l", axis, is_norm, torch.tensor(v)) for axis, is_norm, v in parts]})


def test_magnitude():
    stats = group("weight", ("out", [[3.0, -4.0], [1.0, 0.0]]), ("in", [[1.0], [2.0]]))
    assert CRITERIA.bind("magnitude")(stats).tolist() == [(25 + 1) / 2, (1 + 4) / 2]
    assert CRITERIA.bind("magnitude", p=1)(stats).tolist() == [(7 + 1) / 2, (1 + 2) / 2]
    with pytest.raises(ValueError, match="exponent"):
        CRITERIA.bind("magnitude", p=0)(stats)


def test_taylor_adds_the_readers_before_it_squares():
    stats = group("gate", ("out", [[9.0, 9.0]]), ("in", [[1.0, 2.0]]), ("in", [[-1.0, 1.0]]))
    assert CRITERIA.bind("taylor")(stats).tolist() == [0.0, 9.0]


@pytest.mark.parametrize(("name", "expected"), [("taylor", [1.0, 4.0]), ("mask_gradient", [1.0, 2.0])])
def test_without_readers_the_producer_counts(name, expected):
    assert CRITERIA.bind(name)(group("gate", ("out", [[1.0, 2.0]]))).tolist() == expected


def test_mask_gradient_adds_readers_and_batches_before_it_drops_the_sign():
    stats = group(
        "gate", ("out", [[9.0, 9.0]] * 2), ("in", [[1.0, 2.0], [-3.0, 2.0]]), ("in", [[0.0, 1.0], [0.0, 1.0]])
    )
    assert CRITERIA.bind("mask_gradient")(stats).tolist() == [1.0, 3.0]


def test_fisher_is_half_the_mean_square():
    stats = group("sample_gate", ("in", [[1.0, 0.0], [-1.0, 2.0], [2.0, 0.0]]))
    assert CRITERIA.bind("fisher")(stats).tolist() == pytest.approx([1.0, 4 / 6])


def test_random_depends_on_seed_and_group():
    first, second = GroupStats("a", 9, {}), GroupStats("b", 9, {})
    score = CRITERIA.bind("random")
    assert torch.equal(score(first), score(first))
    assert not torch.equal(score(first), score(second))
    assert not torch.equal(score(first), CRITERIA.bind("random", seed=1)(first))


def test_batch_norm_scale():
    scales, readers = ("out", True, [[-0.5], [2.0]]), ("in", False, [[3.0, 4.0], [0.0, 1.0]])
    kernel, other = ("out", False, [[9.0], [9.0]]), ("out", True, [[1.5], [0.0]])
    score = CRITERIA.bind("batch_norm_scale")
    assert score(with_norm(kernel, scales, readers)).tolist() == [0.5, 2.0]
    assert score(with_norm(kernel, scales, other)).tolist() == [1.0, 1.0]
    weighed = CRITERIA.bind("batch_norm_scale", weighs_readers=True)
    assert weighed(with_norm(scales, readers)).tolist() == [2.5, 2.0]
    assert weighed(with_norm(scales)).tolist() == [0.5, 2.0]
    with pytest.warns(NeutralScores, match="of a score the same: no norm"):
        assert score(with_norm(kernel, readers)).tolist() == [1.0, 1.0]


def test_batch_norm_scale_times_readers_does_not_move_with_the_scale():
    """γ / 10 and the next layer's kernel times 10 is the same network."""
    weighed = CRITERIA.bind("batch_norm_scale", weighs_readers=True)
    before = weighed(with_norm(("out", True, [[0.5], [2.0]]), ("in", False, [[3.0, 4.0], [0.0, 1.0]])))
    after = weighed(with_norm(("out", True, [[0.05], [2.0]]), ("in", False, [[30.0, 40.0], [0.0, 1.0]])))
    assert torch.allclose(before, after)


def test_geometric_median_joins_the_kernels_of_coupled_layers():
    """Kernels (0, 0), (3, 0) and (3, 4) of two layers with one weight each: distances 3, 5 and 4."""
    first, second = [[0.0], [3.0], [3.0]], [[0.0], [0.0], [4.0]]
    stats = group("weight", ("out", first), ("out", second), ("in", [[9.0], [0.0], [0.0]]), size=3)
    assert CRITERIA.bind("geometric_median")(stats).tolist() == pytest.approx([8.0, 7.0, 9.0], abs=1e-5)


def test_kernel_distance():
    stats = folded([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    root = math.hypot(3, 3)
    expected = [(5 + 1) / 2, (5 + root) / 2, (1 + root) / 2]
    assert CRITERIA.bind("kernel_distance")(stats).tolist() == pytest.approx(expected, abs=1e-5)
    nearest = CRITERIA.bind("kernel_distance", neighbours=1)(stats).tolist()
    assert nearest == pytest.approx([1, root, 1], abs=1e-5)
    assert CRITERIA.bind("kernel_distance", neighbours=9)(stats).tolist() == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match="neighbours=-1"):
        CRITERIA.bind("kernel_distance", neighbours=-1)(stats)


def test_kernel_angle_looks_at_larger_kernels_only():
    """(2, 0), (0, 1), (3, 3) and zeros: 45 degrees to the largest for both; nothing for zeros."""
    stats = folded([[2.0, 0.0], [0.0, 1.0], [3.0, 3.0], [0.0, 0.0]])
    turn = 1 - math.cos(math.pi / 4)
    assert CRITERIA.bind("kernel_angle")(stats).tolist() == pytest.approx([turn, turn, 2.0, 0.0], abs=1e-6)
    opposite = folded([[2.0, 0.0], [-1.0, 0.0]])
    assert CRITERIA.bind("kernel_angle")(opposite).tolist() == [2.0, 2.0]


def test_kernel_sparsity():
    """Root mean square sqrt(20 / 4) times 2 / sqrt(5) is 2: weights of 0, 1, 2 and more count 0, 1/2, 1, 1."""
    stats = group("weight", ("out", [[0.0, 1.0], [2.0, -(15.0**0.5)]]), ("in", [[9.0], [0.0]]))
    assert CRITERIA.bind("kernel_sparsity", threshold=2 / 5**0.5)(stats).tolist() == pytest.approx([0.25, 1.0])
    with pytest.raises(ValueError, match="threshold=0"):
        CRITERIA.bind("kernel_sparsity", threshold=0)(stats)
    assert CRITERIA.bind("kernel_sparsity")(group("weight", ("out", [[0.0], [0.0]]))).tolist() == [0.0, 0.0]


def test_activation_sparsity():
    zeros, mean = torch.tensor([0.5, 0.0]), torch.tensor([1.0, 1.0])
    first = Activity("b", zeros, mean, torch.tensor([0.5, 1.0]), torch.tensor([6.0, 2.0]))
    second = Activity("c", zeros, mean, torch.tensor([0.0, 1.0]), torch.tensor([0.0, 0.0]))
    stats = GroupStats("a", 2, {"activity": [first, second]})
    assert CRITERIA.bind("activation_sparsity")(stats).tolist() == [0.25, 1.0]
    assert CRITERIA.bind("activation_sparsity", strength=1)(stats).tolist() == [0.5 * 1.5 / 2, 0.5 / 2]
    dense = Activity("b", torch.zeros(2), mean, torch.ones(2), torch.tensor([6.0, 2.0]))
    with pytest.warns(NeutralScores, match="use strength=1"):
        assert CRITERIA.bind("activation_sparsity")(GroupStats("a", 2, {"activity": [dense]})).tolist() == [1.0, 1.0]
    strong = CRITERIA.bind("activation_sparsity", strength=1)(GroupStats("a", 2, {"activity": [dense]}))
    assert strong.tolist() == [1.5, 0.5]


def moments(covariance_CC):
    covariance_CC = torch.tensor(covariance_CC, dtype=torch.float64)
    return Moments("b", 9, torch.zeros(len(covariance_CC)), covariance_CC)


def test_feature_similarity_is_the_part_that_no_stronger_channel_explains():
    """Channel 1 has correlation 0.8 with channel 0 as one layer sees them, none as another does."""
    seen = moments([[4.0, 1.6], [1.6, 1.0]]), moments([[4.0, 0.0], [0.0, 1.0]])
    stats = GroupStats("a", 2, {"moment": seen})
    score = CRITERIA.bind("feature_similarity")
    assert score(stats).tolist() == pytest.approx([1.0, (1 - 0.64 + 1) / 2])
    weighted = CRITERIA.bind("feature_similarity", size=1)(GroupStats("a", 2, {"moment": seen[:1]}))
    assert weighted.tolist() == pytest.approx([4 / 2.5, 0.36 / 2.5])
    assert score(GroupStats("a", 2, {"moment": [moments([[0.0, 0.0], [0.0, 0.0]])]})).tolist() == [0.0, 0.0]


@pytest.mark.parametrize(("name", "need"), [("feature_rank", "spectrum"), ("influence", "influence")])
def test_the_mean_over_readers(name, need):
    stats = group(need, ("in", [[1.0], [0.25]]), ("in", [[2.0], [0.75]]))
    assert CRITERIA.bind(name)(stats).tolist() == [1.5, 0.5]


@pytest.mark.parametrize("rows", [2, 3, 100])
def test_pairs_do_not_depend_on_how_many_rows_are_worked_on_at_a_time(rows, monkeypatch):
    torch.manual_seed(0)
    kernels_CK = torch.randn(7, 5)
    monkeypatch.setattr("compress.prune.criteria.pairwise.ROWS", rows)
    found_CC = torch.cdist(kernels_CK, kernels_CK)
    stats = folded(kernels_CK)
    products_CC = folded_products(stats)
    assert torch.allclose(distance_sums(stats), found_CC.sum(1), atol=1e-5)
    assert torch.allclose(products_CC, kernels_CK @ kernels_CK.T, atol=1e-5)
    assert torch.allclose(mean_distances(products_CC), found_CC.sum(1) / 6, atol=1e-4)
    nearest_CN = found_CC.fill_diagonal_(torch.inf).sort(1).values[:, :3]
    assert torch.allclose(nearest_distances(products_CC, 3).sort(1).values, nearest_CN, atol=1e-4)
    order_C = torch.randperm(7)
    cosines_CC = torch.nn.functional.normalize(kernels_CK[order_C], dim=1)
    cosines_CC = (cosines_CC @ cosines_CC.T).masked_fill(torch.ones(7, 7).triu().bool(), -torch.inf)
    assert torch.allclose(largest_cosine_before(products_CC, order_C), cosines_CC.amax(1), atol=1e-5)


@pytest.mark.parametrize("mean", [0.0, 5.0])
@pytest.mark.parametrize("num_positions", [1, 3])
def test_folded_products_are_those_of_the_values(num_positions, mean):
    """Two layers, a scale and a constant of their own for every position; with and without a large common part."""
    torch.manual_seed(0)
    first_CK, second_CK = torch.randn(300, 6) + mean, torch.randn(300, 12)
    scale_CM, constant_CM = torch.rand(300, num_positions) + 0.5, torch.randn(300, num_positions)
    stats = folded(first_CK, second_CK, scale_CM=scale_CM, constant_CM=constant_CM)
    values_CK = torch.cat([part.values for part in stats.folded_parts], 1)
    assert values_CK.shape == (300, 18 + 2 * num_positions)
    plain_CK = torch.cat([first_CK, second_CK], 1)
    assert torch.allclose(folded_products(stats), values_CK @ values_CK.T, rtol=1e-5, atol=1e-3)
    assert torch.allclose(distance_sums(stats), torch.cdist(plain_CK, plain_CK).sum(1), rtol=1e-5)


@pytest.mark.parametrize("is_plain_too", [True, False])
def test_each_need_can_be_gathered_without_the_other(is_plain_too):
    kernels_CK = torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    stats = folded(kernels_CK, is_plain_too=is_plain_too)
    assert folded_products(stats).tolist() == [[0.0, 0.0], [0.0, 25.0]]
    if not is_plain_too:
        with pytest.raises(UndeclaredReadError, match="'weight'"):
            distance_sums(stats)
    assert distance_sums(group("weight", ("out", kernels_CK.tolist()))).tolist() == [5.0, 5.0]


def test_kernels_that_all_but_agree_are_told_apart():
    """A common part of 1000 would leave single precision nothing of differences of 0.01."""
    torch.manual_seed(0)
    apart_CK = 0.01 * torch.randn(9, 4)
    kernels_CK = (1000 + apart_CK.double()).float()
    expected_C = torch.cdist(kernels_CK.double(), kernels_CK.double()).sum(1).float()
    assert torch.allclose(distance_sums(folded(kernels_CK)), expected_C, rtol=1e-2)


def test_one_kernel_of_another_kind_does_not_hide_how_the_others_differ():
    torch.manual_seed(0)
    base_K = torch.randn(144)
    kernels_CK = base_K + 3e-4 * torch.randn(64, 144) * torch.rand(64, 1)
    kernels_CK[0] = -9 * base_K
    expected_C = torch.cdist(kernels_CK.double(), kernels_CK.double()).sum(1)
    ranks_2C = torch.stack(
        [x_C.argsort().argsort().double() for x_C in (distance_sums(folded(kernels_CK)), expected_C)]
    )
    assert torch.corrcoef(ranks_2C)[0, 1] > 0.99


@pytest.mark.parametrize("size", [0.0, 1e-5, 1e-3])
def test_kernels_near_zero_have_the_angle_that_they_have(size):
    """Every fourth kernel of 32 is next to nothing, beside others with a common part."""
    torch.manual_seed(0)
    kernels_CK = 0.1 * torch.randn(32, 144) + 0.02
    kernels_CK[::4] *= size
    scores_C = CRITERIA.bind("kernel_angle")(folded(kernels_CK))
    if not size:
        assert scores_C[::4].tolist() == [0.0] * 8
        assert scores_C.sort().values[8] > 0.5
    else:
        straight_CK = torch.nn.functional.normalize(kernels_CK.double())
        cosines_CC = (straight_CK @ straight_CK.T).float()
        length_C = kernels_CK.norm(dim=1)
        cosines_CC.masked_fill_(length_C <= length_C[:, None], -torch.inf)
        assert torch.allclose(scores_C, (1 - cosines_CC.amax(1)).clamp(max=2), atol=1e-4)


def test_pairs_are_kept_as_long_as_the_statistics():
    stats = folded([[0.0, 0.0], [3.0, 4.0]])
    before = len(pairwise._FOUND)
    assert folded_products(stats) is folded_products(stats)
    CRITERIA.bind("kernel_angle")(stats)
    CRITERIA.bind("geometric_median")(stats)
    assert len(pairwise._FOUND) == before + 1
    del stats
    assert len(pairwise._FOUND) == before


def test_one_pass_over_pairs_serves_all_criteria(monkeypatch):
    seen = []
    products = pairwise._Piece.products
    monkeypatch.setattr(pairwise._Piece, "products", lambda *args: seen.append(1) or products(*args))
    stats = folded(torch.randn(5, 3, generator=torch.Generator().manual_seed(0)))
    for name in ("geometric_median", "kernel_distance", "kernel_angle"):
        CRITERIA.bind(name)(stats)
    assert len(seen) == 1
