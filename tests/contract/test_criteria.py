"""What every criterion promises."""

import pytest
import torch

from compress.core.random import generator
from compress.graph.stats import NEEDS, GroupStats, Part, UndeclaredReadError
from compress.prune.criteria import CRITERIA

C, N = 7, 4
SHAPES = (("a", "out", False, 18), ("bn", "out", True, 1), ("b", "in", False, 9), ("c", "in", False, 4))


def stats(needs, seed, order=None, name="a"):
    """Random statistics of one group; `order` permutes its channels."""
    order = torch.arange(C) if order is None else order
    gathered = {}
    for need in needs:
        parts = []
        for k, (path, axis, is_norm, size) in enumerate(SHAPES):
            draw = generator(seed, need, k)
            if need == "gate":
                values = torch.randn(N, C, generator=draw)[:, order]
            else:
                values = torch.randn(C, size, generator=draw)[order]
            parts.append(Part(path, axis, is_norm, values))
        gathered[need] = parts
    return GroupStats(name, C, gathered)


def values(group, needs):
    return [part.values for need in needs for part in getattr(group, f"{need}_parts")]


@pytest.mark.parametrize("name", sorted(CRITERIA))
@pytest.mark.parametrize("seed", range(5))
class TestEveryCriterion:
    def test_shape_and_range(self, name, seed):
        scores_C = CRITERIA.bind(name)(stats(CRITERIA[name].needs, seed))
        assert scores_C.shape == (C,)
        assert scores_C.isfinite().all()
        assert (scores_C >= 0).all()
        assert len(scores_C.unique()) > 1

    def test_scores_follow_their_channels(self, name, seed):
        if CRITERIA[name].extra.get("is_chance"):
            pytest.skip("scores by chance follow nothing")
        needs, order = CRITERIA[name].needs, torch.randperm(C, generator=generator(seed, "order"))
        straight_C = CRITERIA.bind(name)(stats(needs, seed))
        permuted_C = CRITERIA.bind(name)(stats(needs, seed, order))
        assert torch.allclose(straight_C[order], permuted_C)

    def test_reads_only_what_it_declares(self, name, seed):
        needs = CRITERIA[name].needs
        assert set(needs) <= set(NEEDS)
        CRITERIA.bind(name)(stats(needs, seed))
        for missing in needs:
            with pytest.raises(UndeclaredReadError, match=missing):
                CRITERIA.bind(name)(stats([need for need in needs if need != missing], seed))

    def test_writes_nothing(self, name, seed):
        group = stats(CRITERIA[name].needs, seed)
        before = [value.clone() for value in values(group, CRITERIA[name].needs)]
        CRITERIA.bind(name)(group)
        assert all(torch.equal(old, new) for old, new in zip(before, values(group, CRITERIA[name].needs), strict=True))

    def test_same_input_same_scores(self, name, seed):
        criterion = CRITERIA.bind(name)
        needs = CRITERIA[name].needs
        assert torch.equal(criterion(stats(needs, seed)), criterion(stats(needs, seed)))


@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_card_is_filled_in(name):
    card = CRITERIA[name]
    assert card.paper or card.extra.get("is_chance")
    for word in ("Args:", "Returns:", "Differs from the paper:", "Cost:", "Reference:", ">>>"):
        assert word in card.function.__doc__


def test_a_criterion_that_reads_too_much_is_caught():
    with pytest.raises(UndeclaredReadError, match="needs weight"):
        _ = stats(["weight"], 0).gradient_parts
