"""Channels in order of size, on the toys."""

import pytest
import torch

from compress.graph.groups import trace_groups
from compress.prune.live_groups import LiveGroups
from compress.prune.ordering import largest_first
from compress.prune.schedules import Choice
from compress.train.objectives import OBJECTIVES
from tests.toys import toy_model


def lengths(model):
    groups = trace_groups(model.module, model.input.example())
    return {group.name: group.norms().detach() for group in LiveGroups(model.module, groups).of(model.module)}


def test_the_longest_channels_stand_first_and_nothing_else_changes():
    model = toy_model()
    groups = trace_groups(model.module, model.input.example())
    before = lengths(model)
    assert any((norms_C.diff() > 0).any() for norms_C in before.values())
    ordered = largest_first(model, groups)
    after = lengths(ordered)
    for name, norms_C in after.items():
        assert torch.equal(norms_C, norms_C.sort(descending=True).values)
        assert norms_C.sort().values == pytest.approx(before[name].sort().values)
    x_BCHW = torch.randn(4, *model.input.example().shape[1:])
    assert torch.allclose(model(x_BCHW), ordered(x_BCHW), atol=1e-5)
    assert all(torch.equal(norms_C, before[name]) for name, norms_C in lengths(model).items())


def test_only_the_groups_that_were_named_are_put_into_order():
    model = toy_model()
    groups = trace_groups(model.module, model.input.example())
    before, after = lengths(model), lengths(largest_first(model, groups[:1]))
    assert [name for name in before if not torch.allclose(before[name], after[name])] == [groups[0].name]


def test_the_objective_that_sorts_asks_for_it():
    asked = [name for name in OBJECTIVES if OBJECTIVES[name].extra.get("is_ordering")]
    assert asked == ["sorted_channels"]


def test_channels_that_come_back_are_counted():
    first = Choice((), {"a": torch.tensor([True, False, False]), "b": torch.tensor([False])})
    second = Choice((), {"a": torch.tensor([False, True, False]), "c": torch.tensor([False])})
    assert (second.num_gone(), second.num_returned(first), first.num_returned(first)) == (3, 1, 0)
