"""What every criterion promises."""

import warnings

import pytest
import torch

from compress.core.random import generator
from compress.graph.stats import (
    GATHERERS,
    NEEDS,
    OF_BLOCKS,
    Activity,
    FoldedPart,
    GroupStats,
    Moments,
    Part,
    UndeclaredReadError,
)
from compress.graph.units import BLOCKS
from compress.prune.criteria import CRITERIA
from compress.prune.criteria.family import NeutralScores

C, N = 7, 4
SHAPES = (("a", "out", False, 18), ("bn", "out", True, 1), ("b", "in", False, 9), ("c", "in", False, 4))


def _parts(need, seed, order):
    for k, (path, axis, is_norm, size) in enumerate(SHAPES):
        draw = generator(seed, need, k)
        if need in ("gate", "sample_gate"):
            yield Part(path, axis, is_norm, torch.randn(N, C, generator=draw)[:, order])
        else:
            yield Part(path, axis, is_norm, torch.randn(C, size, generator=draw)[order])


def _sized(need, seed, order):
    """Parts of one number at least 0 a channel."""
    for path, axis, is_norm, _ in SHAPES[2:]:
        yield Part(path, axis, is_norm, torch.rand(C, 1, generator=generator(seed, need, path))[order])


def _moments(need, seed, order):
    for path in ("b", "c"):
        x_CN = torch.randn(C, 3 * C, generator=generator(seed, need, path), dtype=torch.float64)
        yield Moments(path, 3 * C, x_CN.mean(1)[order], torch.cov(x_CN, correction=0)[order][:, order])


def _activities(need, seed, order):
    for path in ("b", "c"):
        numbers = torch.rand(4, C, generator=generator(seed, need, path))[:, order]
        yield Activity(path, *numbers)


def _folded(need, seed, order):
    """Kernels with one position a channel, and with three."""
    for path, size, places in (("a", 18, 1), ("d", 9, 3)):
        draw = generator(seed, need, path)
        kernels_CK, scale_CM, constant_CM = (torch.randn(C, width, generator=draw) for width in (size, places, places))
        yield FoldedPart(path, kernels_CK[order], scale_CM[order].abs() + 0.5, constant_CM[order])


MADE = {"folded": _folded, "moment": _moments, "activity": _activities, "spectrum": _sized, "influence": _sized}


def stats(needs, seed, order=None, name="a"):
    """Random statistics of one group; `order` permutes its channels."""
    order = torch.arange(C) if order is None else order
    made = {need: _sized if need in GATHERERS else MADE.get(need, _parts) for need in needs}
    return GroupStats(name, C, {need: list(make(need, seed, order)) for need, make in made.items()})


def values(group, needs):
    return [value for need in needs for part in group.parts(need) for value in vars(part).values()]


@pytest.mark.parametrize("name", sorted(CRITERIA))
@pytest.mark.parametrize("seed", range(3))
class TestEveryCriterion:
    def test_shape_and_range(self, name, seed):
        scores_C = CRITERIA.bind(name)(stats(CRITERIA[name].needs, seed))
        assert scores_C.shape == (C,)
        assert scores_C.dtype == torch.float32
        assert scores_C.isfinite().all()
        assert (scores_C >= 0).all()
        assert len(scores_C.unique()) > 1

    def test_scores_follow_their_channels(self, name, seed):
        if CRITERIA[name].extra.get("is_chance"):
            pytest.skip("scores by chance follow nothing")
        needs, order = CRITERIA[name].needs, torch.randperm(C, generator=generator(seed, "order"))
        straight_C = CRITERIA.bind(name)(stats(needs, seed))
        permuted_C = CRITERIA.bind(name)(stats(needs, seed, order))
        assert torch.allclose(straight_C[order], permuted_C, atol=1e-6)

    def test_reads_only_what_it_declares(self, name, seed):
        needs = CRITERIA[name].needs
        assert set(needs) <= {*NEEDS, *GATHERERS}
        CRITERIA.bind(name)(stats(needs, seed))
        for missing in needs:
            with pytest.raises(UndeclaredReadError, match=missing):
                CRITERIA.bind(name)(stats([need for need in needs if need != missing], seed))

    def test_writes_nothing(self, name, seed):
        group = stats(CRITERIA[name].needs, seed)
        before = [v.clone() if isinstance(v, torch.Tensor) else v for v in values(group, CRITERIA[name].needs)]
        scores_C = CRITERIA.bind(name)(group)
        told = scores_C.tolist()
        scores_C.add_(1)
        assert CRITERIA.bind(name)(group).tolist() == told
        for old, new in zip(before, values(group, CRITERIA[name].needs), strict=True):
            assert torch.equal(old, new) if isinstance(old, torch.Tensor) else old == new

    def test_same_input_same_scores(self, name, seed):
        criterion = CRITERIA.bind(name)
        needs = CRITERIA[name].needs
        assert torch.equal(criterion(stats(needs, seed)), criterion(stats(needs, seed)))


@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_a_single_channel_has_a_score(name):
    one = {}
    for need in CRITERIA[name].needs:
        if need == "moment":
            one[need] = [Moments("b", 9, torch.ones(1), torch.ones(1, 1))]
        elif need == "activity":
            one[need] = [Activity("b", *torch.full((4, 1), 0.5))]
        elif need == "folded":
            one[need] = [FoldedPart("a", *torch.ones(3, 1, 1))]
        else:
            one[need] = [Part("a", "out", False, torch.ones(1, 1)), Part("bn", "out", True, torch.ones(1, 1))]
    scores_C = CRITERIA.bind(name)(GroupStats("a", 1, one))
    assert scores_C.shape == (1,)
    assert scores_C.isfinite().all()


@pytest.mark.parametrize("name", [name for name in sorted(CRITERIA) if CRITERIA[name].extra.get("scores_blocks")])
def test_a_criterion_that_scores_blocks_does(name):
    needs = CRITERIA[name].needs
    assert set(needs) <= {*OF_BLOCKS, *GATHERERS}
    draw = generator(0, "blocks")
    shape = {"gate": (N, 3), "sample_gate": (9, 3)}
    parts = {need: [Part(BLOCKS, "in", False, torch.rand(*shape.get(need, (3, 1)), generator=draw))] for need in needs}
    scores_B = CRITERIA.bind(name)(GroupStats(BLOCKS, 3, parts))
    assert scores_B.shape == (3,)
    assert (scores_B >= 0).all()


@pytest.mark.parametrize(
    "name", [name for name in sorted(CRITERIA) if {"moment", "activity"} & set(CRITERIA[name].needs)]
)
def test_channels_that_nobody_was_seen_to_read_score_the_same(name):
    with pytest.warns(NeutralScores, match="never seen"):
        scores_C = CRITERIA.bind(name)(GroupStats("a", C, {need: [] for need in CRITERIA[name].needs}))
    assert scores_C.tolist() == [1.0] * C


@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_card_is_filled_in(name):
    card = CRITERIA[name]
    assert card.paper or card.extra.get("is_chance")
    assert card.idea
    for word in ("Args:", "Returns:", "Differs from the paper:", "Cost:", "Reference:", ">>>"):
        assert word in card.function.__doc__


def test_a_criterion_that_reads_too_much_is_caught():
    with pytest.raises(UndeclaredReadError, match="needs weight"):
        _ = stats(["weight"], 0).gradient_parts


def test_no_warning_on_ordinary_statistics():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in CRITERIA:
            CRITERIA.bind(name)(stats(CRITERIA[name].needs, 0))
