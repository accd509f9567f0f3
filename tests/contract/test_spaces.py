"""What every search space promises."""

import pytest
import torch

from compress.core.budget import RelativeBudget
from compress.core.journal import Journal
from compress.core.lineage import BUILDERS
from compress.core.model import Model
from compress.core.random import generator
from compress.measure import cost_of
from compress.search.inheritance import Inheritance
from compress.search.projection import Projection
from compress.search.spaces import cuts  # noqa: F401
from compress.search.spaces.space import SPACES
from compress.search.spending import Spending
from tests.toys import TOY_INPUT, toy_model

#: Parts of the cost that every space can reach: residual blocks hold most of the toy, less of the ResNet.
LIMITS = {"toy": {"macs": 0.6}, "resnet": {"macs": 0.8, "params": 0.95}}
NUM_TRIED = 12


def parent_of(which):
    if which == "toy":
        return toy_model()
    import compress.models  # noqa: F401

    return Model.build(BUILDERS.bind("resnet_cifar", depth=14, width=4), TOY_INPUT, seed=0)


def space_of(name, parent):
    return SPACES.bind(name)(parent.module, parent.input.example(2))


def random_candidate(space, seed):
    draw = generator(seed, "candidate")
    return space.candidate_of(
        {
            name: choices[int(torch.randint(len(choices), (1,), generator=draw))]
            for name, choices in space.choices().items()
        }
    )


@pytest.mark.parametrize("which", sorted(LIMITS))
@pytest.mark.parametrize("name", sorted(SPACES))
class TestEverySpace:
    def test_the_largest_candidate_is_the_whole_network(self, name, which):
        parent = parent_of(which)
        inheritance = Inheritance(parent, space_of(name, parent))
        plan = inheritance.plan(inheritance.space.largest)
        assert (plan["dropped"], plan["layers"]) == ([], {})
        assert inheritance.count("macs", inheritance.space.largest) == cost_of(parent).macs

    def test_decisions_and_candidates_are_the_same_thing(self, name, which):
        space = space_of(name, parent_of(which))
        for candidate in (space.largest, space.smallest, *(random_candidate(space, k) for k in range(NUM_TRIED))):
            assert space.candidate_of(space.decisions_of(candidate)) == candidate
        assert set(space.distributions()) == set(space.choices())
        assert space.num_candidates >= 2

    def test_projected_candidates_stay_within_the_limits_and_in_the_space(self, name, which, tmp_path):
        parent = parent_of(which)
        space, reference = space_of(name, parent), cost_of(parent)
        inheritance = Inheritance(parent, space)
        spending = Spending(
            inheritance, RelativeBudget(**LIMITS[which]), reference, Journal(tmp_path / "journal.jsonl")
        )
        project = Projection(space, spending)
        for k in range(NUM_TRIED):
            candidate = project(random_candidate(space, k))
            for quantity, part in LIMITS[which].items():
                assert inheritance.count(quantity, candidate) <= part * getattr(reference, quantity)
            assert set(candidate.dropped) <= set(space.blocks)
            assert space.settled(candidate.widths, candidate.dropped) == candidate
            assert all(count in space.counts[group] for group, count in candidate.widths.items())

    def test_what_is_built_costs_what_was_foreseen(self, name, which):
        parent = parent_of(which)
        inheritance = Inheritance(parent, space_of(name, parent))
        space = inheritance.space
        for candidate in (space.smallest, *(random_candidate(space, k) for k in range(3))):
            built = inheritance.build(candidate)
            cost = cost_of(built)
            assert inheritance.count("macs", candidate) == cost.macs
            assert inheritance.count("params", candidate) == cost.params
            assert built(parent.input.example(2)).shape == (2, parent.input.num_classes)


@pytest.mark.parametrize("name", sorted(SPACES))
def test_card_is_filled_in(name):
    assert SPACES[name].paper
    for word in ("Args:", "Returns:", "Differs from the paper:", "Cost:", "Reference:", ">>>"):
        assert word in SPACES[name].function.__doc__
