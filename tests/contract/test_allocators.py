"""What every allocator promises, on random groups, costs and limits."""

import itertools

import pytest
import torch

from compress.core.budget import Infeasible
from compress.core.random import generator
from compress.graph.units import BLOCKS
from compress.prune.allocators import ALLOCATORS

OPTIONS = ({}, {"round_to": 4}, {"min_kept_ratio": 0.0}, {"min_kept_ratio": 0.4, "round_to": 3})
#: The last two have residual blocks.
SEEDS = (0, 1, 3, 4)
#: Searches made short, so that many of them can be run.
SHORT = {"genetic": {"population": 4, "generations": 2}}


def bound(name, **options):
    return ALLOCATORS.bind(name, **SHORT.get(name, {}), **options)


def problem(seed):
    """Return random scores and a cost of products of widths, like that of a chain of layers; half with blocks."""
    draw = generator(seed, "problem")
    sizes = torch.randint(1, 40, (6,), generator=draw).tolist()
    scores = {f"g{k}": torch.rand(size, generator=draw) for k, size in enumerate(sizes)}
    if seed % 2:
        scores = {name: (4 * scores_C).floor() for name, scores_C in scores.items()}
    weights = torch.randint(1, 9, (6,), generator=draw).tolist()
    names = list(scores)
    block_weights_L = torch.randint(1, 9, (5,), generator=draw)
    if seed >= 3:
        scores[BLOCKS] = torch.rand(5, generator=draw)

    def cost(kept):
        counts = [3, *(int(kept[name].sum()) for name in names), 10]
        chain = sum(w * a * b for w, (a, b) in zip([*weights, 2], itertools.pairwise(counts), strict=True))
        widest = max(counts)
        return float(chain + (widest * int(block_weights_L[kept[BLOCKS]].sum()) if BLOCKS in scores else 0))

    cost.__name__ = "macs"
    return scores, cost


def loss_of(kept):
    """Return a loss that grows with every channel that is gone, those of later groups more."""
    return sum((k + 1) * float((~mask_C).sum()) / len(mask_C) for k, mask_C in enumerate(kept.values()))


def whole(scores):
    return {name: torch.ones(len(scores_C), dtype=torch.bool) for name, scores_C in scores.items()}


def smallest_of(allocator, scores, cost):
    with pytest.raises(Infeasible) as caught:
        allocator(scores, cost, 0.5, loss_of)
    return caught.value.smallest


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", sorted(ALLOCATORS))
@pytest.mark.parametrize("seed", SEEDS)
class TestEveryAllocator:
    def test_never_exceeds_the_limit_and_more_limit_never_keeps_fewer(self, name, seed, options):
        allocator = bound(name, **options)
        scores, cost = problem(seed)
        smallest, largest = smallest_of(allocator, scores, cost), cost(whole(scores))
        before = {group: ~mask_C for group, mask_C in whole(scores).items()}
        for part in torch.linspace(0, 1, 17).tolist():
            limit = smallest + part * (largest - smallest)
            kept = allocator(scores, cost, limit, loss_of)
            assert cost(kept) <= limit
            assert all((kept[group] | ~before[group]).all() for group in scores)
            before = kept
        assert all(mask_C.all() for mask_C in before.values())

    def test_masks_fit_their_groups_and_leave_something(self, name, seed, options):
        scores, cost = problem(seed)
        kept = bound(name, **options)(scores, cost, 0.7 * cost(whole(scores)), loss_of)
        assert list(kept) == list(scores)
        for group, mask_C in kept.items():
            num_channels, num_kept = len(scores[group]), int(mask_C.sum())
            assert mask_C.dtype == torch.bool
            assert mask_C.shape == scores[group].shape
            if group == BLOCKS:
                continue
            assert num_kept >= max(1, options.get("min_kept_ratio", 0.1) * num_channels - 1e-6)
            assert num_kept % options.get("round_to", 1) == 0 or num_kept == num_channels

    def test_the_best_of_each_group_stay(self, name, seed, options):
        scores, cost = problem(seed)
        kept = bound(name, **options)(scores, cost, 0.6 * cost(whole(scores)), loss_of)
        for group, mask_C in kept.items():
            if mask_C.any() and not mask_C.all():
                assert scores[group][mask_C].min() >= scores[group][~mask_C].max()

    def test_says_the_smallest_reachable_cost(self, name, seed, options):
        allocator = bound(name, **options)
        scores, cost = problem(seed)
        smallest = smallest_of(allocator, scores, cost)
        assert cost(allocator(scores, cost, smallest, loss_of)) == smallest
        with pytest.raises(Infeasible, match="no model fits macs"):
            allocator(scores, cost, smallest * 0.99, loss_of)

    def test_writes_nothing_and_repeats(self, name, seed, options):
        scores, cost = problem(seed)
        before = {group: scores_C.clone() for group, scores_C in scores.items()}
        allocator, limit = bound(name, **options), 0.5 * cost(whole(scores))
        first, second = (allocator(scores, cost, limit, loss_of) for _ in range(2))
        assert all(torch.equal(scores[group], before[group]) for group in scores)
        assert all(torch.equal(first[group], second[group]) for group in scores)


@pytest.mark.parametrize("name", sorted(ALLOCATORS))
@pytest.mark.parametrize("seed", SEEDS)
def test_a_larger_choice_would_not_have_fitted(name, seed):
    scores, cost = problem(seed)
    limits = torch.linspace(0.3, 1, 30, dtype=torch.float64).mul(cost(whole(scores))).tolist()
    choices = [bound(name)(scores, cost, limit, loss_of) for limit in limits]
    assert len({cost(kept) for kept in choices}) >= 3
    for limit, kept, larger in zip(limits, choices, choices[1:], strict=False):
        assert cost(larger) == cost(kept) or cost(larger) > limit


@pytest.mark.parametrize("name", sorted(ALLOCATORS))
@pytest.mark.parametrize("seed", SEEDS[2:])
def test_all_blocks_may_go(name, seed):
    scores, cost = problem(seed)
    allocator = bound(name)
    smallest, largest = smallest_of(allocator, scores, cost), cost(whole(scores))
    assert not allocator(scores, cost, smallest, loss_of)[BLOCKS].any()
    assert allocator(scores, cost, largest, loss_of)[BLOCKS].all()


@pytest.mark.parametrize("name", sorted(ALLOCATORS))
@pytest.mark.parametrize("seed", SEEDS)
def test_trials_are_networks_that_could_be_cut(name, seed):
    scores, cost = problem(seed)
    asked = []

    def watched(kept):
        asked.append(kept)
        return loss_of(kept)

    bound(name, round_to=2)(scores, cost, 0.5 * cost(whole(scores)), watched)
    for kept in asked:
        assert set(kept) == set(scores)
        for group, mask_C in kept.items():
            assert mask_C.dtype == torch.bool
            assert mask_C.shape == scores[group].shape
            assert group == BLOCKS or mask_C.all() or int(mask_C.sum()) in range(2, len(mask_C), 2)


@pytest.mark.parametrize("name", sorted(ALLOCATORS))
def test_a_network_that_fits_is_left_whole_without_a_trial(name):
    scores, cost = problem(4)
    kept = bound(name)(scores, cost, cost(whole(scores)), None)
    assert all(mask_C.all() for mask_C in kept.values())


@pytest.mark.parametrize("name", sorted(ALLOCATORS))
def test_bad_arguments(name):
    scores, cost = problem(0)
    with pytest.raises(ValueError, match="min_kept_ratio=2"):
        bound(name, min_kept_ratio=2)(scores, cost, 1e9, loss_of)
    with pytest.raises(ValueError, match="round_to=0"):
        bound(name, round_to=0)(scores, cost, 1e9, loss_of)
    with pytest.raises(ValueError, match=r"scores of g0 .* diverged"):
        bound(name)(scores | {"g0": scores["g0"] / 0}, cost, 1e9, loss_of)


@pytest.mark.parametrize("name", sorted(ALLOCATORS))
def test_no_groups_at_all(name):
    assert bound(name)({}, lambda kept: 5.0, 6.0, loss_of) == {}
    with pytest.raises(Infeasible):
        bound(name)({}, lambda kept: 5.0, 4.0, loss_of)


@pytest.mark.parametrize("name", sorted(ALLOCATORS))
def test_card_is_filled_in(name):
    assert {"min_kept_ratio", "round_to"} <= set(ALLOCATORS[name].options)
    for word in ("Args:", "Returns:", "Differs from the paper:", "Cost:", "Reference:", ">>>"):
        assert word in ALLOCATORS[name].function.__doc__
