"""Hand-computed values of criteria, and what they are for."""

import pytest
import torch

from compress.graph.stats import GroupStats, Part
from compress.prune.criteria import CRITERIA


def group(need, *parts):
    return GroupStats("a", 2, {need: [Part("l", axis, False, torch.tensor(v)) for axis, v in parts]})


def test_magnitude():
    stats = group("weight", ("out", [[3.0, -4.0], [1.0, 0.0]]), ("in", [[1.0], [2.0]]))
    assert CRITERIA.bind("magnitude")(stats).tolist() == [(25 + 1) / 2, (1 + 4) / 2]
    assert CRITERIA.bind("magnitude", p=1)(stats).tolist() == [(7 + 1) / 2, (1 + 2) / 2]
    with pytest.raises(ValueError, match="exponent"):
        CRITERIA.bind("magnitude", p=0)(stats)


def test_taylor_adds_the_readers_before_it_squares():
    stats = group("gate", ("out", [[9.0, 9.0]]), ("in", [[1.0, 2.0]]), ("in", [[-1.0, 1.0]]))
    assert CRITERIA.bind("taylor")(stats).tolist() == [0.0, 9.0]


def test_taylor_without_readers_looks_at_the_producer():
    assert CRITERIA.bind("taylor")(group("gate", ("out", [[1.0, 2.0]]))).tolist() == [1.0, 4.0]


def test_random_depends_on_seed_and_group():
    first, second = GroupStats("a", 9, {}), GroupStats("b", 9, {})
    score = CRITERIA.bind("random")
    assert torch.equal(score(first), score(first))
    assert not torch.equal(score(first), score(second))
    assert not torch.equal(score(first), CRITERIA.bind("random", seed=1)(first))
