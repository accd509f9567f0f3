"""What every search strategy promises."""

import pytest

from compress.graph.units import ChannelGroup, Member
from compress.search.spaces.space import Space
from compress.search.strategies import evolution, genetic, sampling  # noqa: F401
from compress.search.strategies.family import STRATEGIES
from compress.search.study import run_study

SPACE = Space(
    groups=tuple(ChannelGroup(name, 4, (Member(name, "out", tuple((k,) for k in range(4)), 4),)) for name in "abc"),
    counts=dict.fromkeys("abc", (1, 2, 3, 4)),
    blocks=("x", "y"),
)


def narrowed(candidate):
    """A projection: c never exceeds 2."""
    return SPACE.settled({**candidate.widths, "c": min(2, candidate.widths["c"])}, candidate.dropped)


def run(name, num_trials=40, **options):
    return run_study(
        SPACE,
        STRATEGIES.bind(name, **options),
        project=narrowed,
        evaluate=lambda candidate: sum(candidate.widths.values()) / 12,
        excess=lambda candidate: candidate.widths["a"] / 3 - 1,
        opening=[narrowed(SPACE.largest)],
        num_trials=num_trials,
    )


@pytest.mark.parametrize("name", sorted(STRATEGIES))
class TestEveryStrategy:
    def test_same_seed_same_trials(self, name):
        assert run(name) == run(name)

    def test_another_seed_other_trials(self, name):
        assert run(name) != run(name, seed=1)

    def test_stays_in_the_space_and_on_the_budget(self, name):
        for trial in run(name):
            assert set(trial.candidate.dropped) <= {"x", "y"}
            assert all(count in SPACE.counts[group] for group, count in trial.candidate.widths.items())
            assert trial.candidate.widths["c"] <= 2

    def test_explores(self, name):
        assert len({trial.candidate.key for trial in run(name)}) >= 30

    def test_a_longer_search_begins_like_a_shorter_one(self, name):
        assert run(name, num_trials=30) == run(name, num_trials=40)[:30]

    def test_card_is_filled_in(self, name):
        card = STRATEGIES[name]
        assert card.paper
        assert "seed" in card.options
        for word in ("Args:", "Returns:", "Differs from the paper:", "Cost:", "Reference:", ">>>"):
            assert word in card.function.__doc__
