import itertools

import pytest

from compress.core.budget import Infeasible, RelativeBudget
from compress.core.journal import Journal
from compress.measure.costs import cost_of
from compress.search.inheritance import Inheritance
from compress.search.projection import Projection
from compress.search.proposals import opening
from compress.search.spaces import cuts  # noqa: F401
from compress.search.spaces.space import SPACES
from compress.search.spending import Spending
from tests.toys import TOY_INPUT, toy_model

MODEL = toy_model()
SPACE = SPACES.bind("widths_and_blocks")(MODEL.module, TOY_INPUT.example(2))
INHERITANCE = Inheritance(MODEL, SPACE)


class FakeClock:
    """Latency that falls half as fast as the multiply-adds."""

    def __init__(self):
        self.num_calls = 0

    def measure(self, model):
        self.num_calls += 1
        ratio = 0.5 + 0.5 * cost_of(model).macs / cost_of(MODEL).macs
        return {"ratio": ratio, "reference_ms": 10.0, "runtime": "fake", "device": "cpu", "batch": 4}


def spending_of(budget, tmp_path, clock=None):
    journal = Journal(tmp_path / "trials.jsonl")
    return Spending(INHERITANCE, RelativeBudget.parse(budget), cost_of(MODEL), journal, clock)


def all_candidates():
    names = list(SPACE.counts)
    for dropped in ((), ("block",)):
        for counts in itertools.product(*SPACE.counts.values()):
            yield SPACE.settled(dict(zip(names, counts, strict=True)), dropped)


@pytest.mark.parametrize("budget", ["macs=0.3", "macs=0.7", "params=0.4", "macs=0.5,params=0.35"])
def test_every_proposal_lands_within_the_budget_and_cannot_grow(budget, tmp_path):
    spending = spending_of(budget, tmp_path)
    project = Projection(SPACE, spending)
    for proposal in list(all_candidates())[::7]:
        found = project(proposal)
        assert spending.foreseen(found) <= 1
        assert set(proposal.dropped) <= set(found.dropped)
        for name, counts in SPACE.counts.items():
            wider = [count for count in counts if count > found.widths[name]]
            if wider:
                grown = SPACE.settled({**found.widths, name: wider[0]}, found.dropped)
                assert spending.foreseen(grown) > 1
        assert project(proposal) == found


def test_proportions_are_kept(tmp_path):
    project = Projection(SPACE, spending_of("macs=0.5", tmp_path))
    inner_wide = project(SPACE.settled({"conv1": 2, "block.conv1": 8, "conv2": 4}, ()))
    inner_narrow = project(SPACE.settled({"conv1": 8, "block.conv1": 2, "conv2": 16}, ()))
    assert inner_wide.widths["block.conv1"] > inner_narrow.widths["block.conv1"]
    assert inner_wide.widths["conv1"] < inner_narrow.widths["conv1"]


def test_blocks_go_when_widths_are_not_enough(tmp_path):
    smallest_with_block = SPACE.settled({name: counts[0] for name, counts in SPACE.counts.items()}, ())
    part = INHERITANCE.count("macs", smallest_with_block) / INHERITANCE.count("macs", SPACE.largest)
    project = Projection(SPACE, spending_of(f"macs={0.95 * part}", tmp_path))
    assert project(SPACE.largest).dropped == ("block",)


def test_a_latency_limit_is_met_by_measuring(tmp_path):
    clock = FakeClock()
    spending = spending_of("latency_ms=0.7", tmp_path, clock)
    project = Projection(SPACE, spending)
    found = project(SPACE.largest)
    assert 0.9 < 1 + spending.excess(found) <= 1
    cost = spending.cost(found)
    assert cost.latency_ms == pytest.approx(10 * 0.7 * (1 + spending.excess(found)))
    assert (cost.runtime, cost.batch) == ("fake", 4)
    num_calls = clock.num_calls
    assert Projection(SPACE, spending_of("latency_ms=0.7", tmp_path, clock))(SPACE.largest) == found
    assert clock.num_calls == num_calls


def test_a_size_limit_is_met_by_measuring(tmp_path):
    spending = spending_of("size_bytes=0.5", tmp_path)
    found = Projection(SPACE, spending)(SPACE.largest)
    assert cost_of(INHERITANCE.build(found)).size_bytes <= 0.5 * cost_of(MODEL).size_bytes
    assert spending.excess(found) <= 0


def test_an_impossible_limit_says_the_smallest_reachable(tmp_path):
    smallest = cost_of(INHERITANCE.build(SPACE.smallest)).macs
    spending = spending_of("macs=0.001", tmp_path)
    with pytest.raises(Infeasible, match="macs") as caught:
        spending.check_reachable(SPACE.smallest)
    assert caught.value.smallest == smallest
    assert caught.value.limit == pytest.approx(0.001 * cost_of(MODEL).macs)
    with pytest.raises(Infeasible, match="latency_ms") as caught:
        spending_of("latency_ms=0.3", tmp_path, FakeClock()).check_reachable(SPACE.smallest)
    assert caught.value.limit == pytest.approx(3.0)
    assert caught.value.smallest > 5.0


def test_what_cannot_be_limited_is_refused(tmp_path):
    with pytest.raises(ValueError, match="search can limit"):
        spending_of("peak_memory_bytes=0.5", tmp_path)


def test_the_opening_is_on_the_budget_and_varied(tmp_path):
    spending = spending_of("macs=0.4", tmp_path)
    first = opening(SPACE, Projection(SPACE, spending), lambda candidate: spending.foreseen(candidate) <= 1)
    assert len({candidate.key for candidate in first}) == len(first) >= 3
    assert all(spending.foreseen(candidate) <= 1 for candidate in first)
    assert first[0].dropped == ()
    assert first[1].dropped == ("block",)
    assert len({candidate.widths["conv1"] / 8 for candidate in first}) > 1
