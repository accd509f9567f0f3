"""Hand-computed allocations and allowed widths."""

import math

import pytest
import torch

from compress.graph.units import BLOCKS
from compress.prune.allocators import ALLOCATORS
from compress.prune.allocators.exponents import Anchor, levels_of
from compress.prune.allocators.family import Widths, best, widths_of
from compress.prune.allocators.isomorphic import class_of, ranks_in_class
from compress.prune.allocators.threshold_line import threshold_picture

SCORES = {"a": torch.tensor([8.0, 1.0, 7.0, 2.0]), "b": torch.tensor([6.0, 3.0, 5.0, 4.0])}


def count(kept):
    return float(sum(int(mask_C.sum()) for mask_C in kept.values()))


@pytest.mark.parametrize(
    ("name", "options", "limit", "expected"),
    [
        ("uniform", {}, 5, {"a": [0, 2], "b": [0, 2]}),
        ("uniform", {"round_to": 4}, 8, {"a": [0, 1, 2, 3], "b": [0, 1, 2, 3]}),
        ("global", {}, 5, {"a": [0, 2], "b": [0, 2, 3]}),
        ("global", {"min_kept_ratio": 0.75}, 7, {"a": [0, 2, 3], "b": [0, 1, 2, 3]}),
        ("global", {"round_to": 2}, 5, {"a": [0, 2], "b": [0, 2]}),
    ],
)
def test_by_hand(name, options, limit, expected):
    kept = ALLOCATORS.bind(name, **options)(SCORES, count, limit, None)
    assert {group: mask_C.nonzero().flatten().tolist() for group, mask_C in kept.items()} == expected


def test_widths():
    assert Widths(16, min_kept_ratio=0.1, round_to=8).counts == [8, 16]
    assert Widths(6, min_kept_ratio=0.0, round_to=8).counts == [6]
    assert Widths(10, min_kept_ratio=0.7, round_to=1).counts == [7, 8, 9, 10]
    assert Widths(10, min_kept_ratio=1.0, round_to=4).counts == [10]
    assert Widths(1, min_kept_ratio=0.0, round_to=1).counts == [1]
    own = Widths(20, min_kept_ratio=0.2, round_to=8)
    assert (own.down(3), own.down(15.9), own.down(20), own.up(0), own.up(9)) == (8, 8, 20, 8, 16)


def test_best_keeps_the_earlier_of_equals():
    assert best(torch.tensor([1.0, 1.0, 1.0]), 1).tolist() == [True, False, False]


class Damage:
    """A loss that grows by a price for each channel that is gone, and counts how often it is asked."""

    def __init__(self, power=1, **prices):
        self.prices, self.power, self.num_asked = prices, power, 0

    def __call__(self, kept):
        self.num_asked += 1
        return sum(self.prices.get(name, 0) * int((~mask_C).sum()) ** self.power for name, mask_C in kept.items())


def counts_of(kept):
    return {name: int(mask_C.sum()) for name, mask_C in kept.items()}


EQUAL = {name: torch.arange(16.0) for name in ("a", "b", "c")}


def test_classes_are_names_without_numbers():
    assert class_of("layer1.0.conv1") == class_of("layer3.12.conv2") == "layer*.*.conv*"
    assert len({class_of(name) for name in ("conv1", "layer1.0.conv1", "conv1#1", BLOCKS)}) == 4


def test_isomorphic_takes_the_same_part_of_each_class_whatever_the_scale():
    scores = {
        "stem": torch.tensor([1.0, 2.0, 3.0, 4.0]),
        "part.0": 100 * torch.tensor([1.0, 2.0, 3.0, 4.0]),
        "part.1": 100 * torch.tensor([5.0, 6.0, 7.0, 8.0]),
        BLOCKS: torch.tensor([1e6, 2e6]),
    }
    kept = ALLOCATORS.bind("isomorphic", min_kept_ratio=0.0)(scores, count, 8, None)
    assert counts_of(kept) == {"stem": 2, "part.0": 1, "part.1": 4, BLOCKS: 1}


def test_ranks_in_a_class_share_ties():
    ranks = ranks_in_class({"a.0": torch.tensor([1.0, 1.0]), "a.1": torch.tensor([1.0, 5.0]), "b": torch.tensor([7.0])})
    assert {name: rank_C.tolist() for name, rank_C in ranks.items()} == {
        "a.0": [0.5, 0.5],
        "a.1": [0.5, 1.0],
        "b": [1.0],
    }


def test_the_threshold_line_does_not_see_a_factor_on_a_group():
    scores = {"a": torch.tensor([1.0, 9.0, 10.0, 5.0]), "b": torch.tensor([6.0, 7.0, 8.0])}
    allocator = ALLOCATORS.bind("threshold_line")
    kept = allocator(scores, count, 5, None)
    assert counts_of(kept) == {"a": 2, "b": 3}
    scaled = allocator({"a": scores["a"] / 1000, "b": scores["b"]}, count, 5, None)
    assert all(torch.equal(kept[name], scaled[name]) for name in scores)


def test_the_picture_holds_curves_line_and_knees():
    scores = {"a": torch.tensor([1.0, 9.0, 10.0, 5.0]), "b": torch.tensor([6.0, 7.0, 8.0]), "c": torch.zeros(2)}
    kept = ALLOCATORS.bind("threshold_line")(scores, count, 7, None)
    picture = threshold_picture(scores, kept)
    assert picture["line"] == 0.5
    assert picture["groups"] == [
        {"group": "a", "curve": [1.0, 0.9, 0.5, 0.1], "kept": 2, "knee": 2},
        {"group": "b", "curve": [1.0, 0.875, 0.75], "kept": 3, "knee": 3},
        {"group": "c", "curve": [1.0, 1.0], "kept": 2, "knee": 2},
    ]
    whole = {name: torch.ones_like(mask_C) for name, mask_C in kept.items()}
    assert threshold_picture(scores, whole)["line"] == 0.0


def test_exponents_are_rounded_to_the_nearest_number():
    scores = {"a": torch.arange(8.0), "b": torch.arange(8.0), BLOCKS: torch.arange(3.0)}
    widths = widths_of(scores, min_kept_ratio=0.0, round_to=2)
    levels = levels_of(widths, {"a": 1.0, "b": 2.0, BLOCKS: 1.0})
    assert levels["a"] == pytest.approx([math.log(8 / 3), math.log(8 / 5), math.log(8 / 7)])
    assert levels["b"] == pytest.approx([level / 2 for level in levels["a"]])
    assert levels[BLOCKS] == pytest.approx([math.log(3 / 0.5), math.log(3 / 1.5), math.log(3 / 2.5)])


def test_an_anchor_out_of_reach_lies_half_way_to_what_can_be_reached():
    widths = widths_of(EQUAL, min_kept_ratio=0.75, round_to=1)
    assert Anchor(EQUAL, widths, count, part=0.8).limit == 0.8 * 48
    assert Anchor(EQUAL, widths, count, part=0.5).limit == (36 + 48) / 2


def test_compound_starts_equal_and_moves_away_from_what_hurts():
    equal = ALLOCATORS.bind("compound", rounds=0)(EQUAL, count, 24, None)
    assert counts_of(equal) == {"a": 8, "b": 8, "c": 8}
    loss_of = Damage(power=2, a=9, b=3, c=1)
    kept = ALLOCATORS.bind("compound", rounds=4)(EQUAL, count, 24, loss_of)
    found = counts_of(kept)
    assert found["a"] > found["b"] > found["c"]
    assert loss_of.num_asked <= 4 * (3 + 1) + 1
    assert loss_of(kept) < 0.55 * loss_of(equal)


def test_compound_is_never_worse_than_equal_ratios_at_the_anchor():
    def fickle(kept):
        return 0.0 if counts_of(kept) == {"a": 8, "b": 8, "c": 8} else 1.0 + Damage(a=1)(kept)

    assert counts_of(ALLOCATORS.bind("compound")(EQUAL, count, 24, fickle)) == {"a": 8, "b": 8, "c": 8}


def test_compound_leaves_groups_that_save_nothing():
    def cost(kept):
        return float(int(kept["a"].sum()) + int(kept["b"].sum()))

    loss_of = Damage(a=5, b=1, c=7)
    kept = ALLOCATORS.bind("compound", rounds=1)(EQUAL, cost, 16, loss_of)
    assert loss_of.num_asked == 1 + 2 + 1
    assert counts_of(kept)["a"] > counts_of(kept)["b"]


def test_genetic_breeds_the_best_relation_and_repeats():
    loss_of = Damage(power=2, a=9, b=3, c=1)
    allocator = ALLOCATORS.bind("genetic", population=12, generations=10)
    kept = allocator(EQUAL, count, 24, loss_of)
    assert loss_of.num_asked <= 12 + 10 * 9
    found = counts_of(kept)
    assert found["a"] > found["b"] > found["c"]
    least = min(
        9 * (16 - a) ** 2 + 3 * (16 - b) ** 2 + (a + b - 8) ** 2
        for a in range(2, 17)
        for b in range(2, 17)
        if 2 <= 24 - a - b <= 16
    )
    assert loss_of(kept) <= 1.1 * least
    assert counts_of(allocator(EQUAL, count, 24, loss_of)) == found
    others = [ALLOCATORS.bind("genetic", seed=seed, generations=0)(EQUAL, count, 24, loss_of) for seed in (1, 2, 3)]
    assert len({str(counts_of(other)) for other in others}) > 1


def test_sensitivity_reads_all_curves_at_one_line():
    loss_of = Damage(a=4, b=2, c=1)
    kept = ALLOCATORS.bind("sensitivity")(EQUAL, count, 48 - 7 - 3 - 1, loss_of)
    assert counts_of(kept) == {"a": 15, "b": 13, "c": 9}
    assert loss_of.num_asked == 1 + 3 * 4


def test_sensitivity_of_groups_that_get_better_is_none():
    kept = ALLOCATORS.bind("sensitivity", min_kept_ratio=0.25)(EQUAL, count, 36, Damage(a=1, b=-1, c=1))
    assert counts_of(kept) == {"a": 16, "b": 4, "c": 16}


def test_sensitivity_takes_blocks_away():
    scores = {"a": torch.arange(4.0), BLOCKS: torch.tensor([3.0, 1.0, 2.0])}
    kept = ALLOCATORS.bind("sensitivity", ratios=[0.5])(scores, count, 5, Damage(a=9, blocks=1))
    assert counts_of(kept) == {"a": 4, BLOCKS: 1}
    assert kept[BLOCKS].tolist() == [True, False, False]


def test_a_loss_that_is_no_number_is_the_worst():
    def loss_of(kept):
        return math.nan if int(kept["a"].sum()) < 12 else Damage(b=1, c=1)(kept)

    for name in ("compound", "genetic", "sensitivity"):
        kept = ALLOCATORS.bind(name)(EQUAL, count, 30, loss_of)
        assert count(kept) == 30, name
    assert counts_of(kept)["a"] >= 12


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("compound", {"anchor": 1.0}, r"anchor=1\.0: .* lies in \(0, 1\)"),
        ("compound", {"rounds": -1}, "rounds=-1: must be 0 or more"),
        ("genetic", {"population": 1}, "population=1: must be 2 or more"),
        ("genetic", {"generations": -1}, "generations=-1: must be 0 or more"),
        ("genetic", {"anchor": 0.0}, r"anchor=0\.0"),
        ("sensitivity", {"ratios": [0.5, 1.0]}, r"ratios=\(0\.5, 1\.0\): .* lie in \(0, 1\)"),
    ],
)
def test_senseless_options_are_refused(name, options, said):
    with pytest.raises(ValueError, match=said):
        ALLOCATORS.bind(name, **options)(EQUAL, count, 24, Damage())
