"""Hand-computed allocations and allowed widths."""

import pytest
import torch

from compress.prune.allocators import ALLOCATORS
from compress.prune.allocators.family import Widths, best

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
    kept = ALLOCATORS.bind(name, **options)(SCORES, count, limit)
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
