"""What is added to the loss of a fit, and what objectives are told."""

import hashlib
import json

import pytest
import torch
from torch import nn

import compress.train.fit as fit_module
from compress.graph.groups import trace_groups
from compress.prune.live_groups import LiveGroups
from compress.train.checkpoint import state_digest
from compress.train.fit import fit
from compress.train.objectives import OBJECTIVES
from tests.compress.train.interruption import InterruptionError, StopsAfter, small
from tests.toys import TOY_INPUT, toy_model, toy_task


def test_penalties_are_added():
    task, recipe = toy_task(), {"name": "sgd_cosine", "lr": 0.01}
    plain, pulled = toy_model().module, toy_model().module
    penalty = OBJECTIVES.bind("kurtosis", weight=10.0)
    fit(plain, task, small(recipe=recipe), scratch=None, what="train")
    fit(pulled, task, small(recipe=recipe), scratch=None, what="train", penalties=(penalty,))
    term = OBJECTIVES.bind("kurtosis")
    assert term(pulled, {}).item() < term(plain, {}).item()


def test_a_penalty_that_needs_what_nobody_gives_is_refused():
    group_lasso = OBJECTIVES.bind("group_lasso")
    for taps in (None, lambda module, progress: {"other": 1}):
        with pytest.raises(ValueError, match=r"group_lasso.*needs groups.*stage prune"):
            fit(toy_model().module, toy_task(), small(), scratch=None, what="t", penalties=(group_lasso,), taps=taps)


class Shrinks:
    """Half the squares of the classifier's weights."""

    def __init__(self, strength):
        self.strength = strength

    def __call__(self, module):
        return 0.5 * self.strength * module.linear.weight.square().sum()

    def as_json(self):
        return {"shrinks": self.strength}


def test_a_penalty_that_is_no_piece_gets_the_module_alone():
    plain, pulled = toy_model().module, toy_model().module
    fit(plain, toy_task(), small(), scratch=None, what="train")
    fit(pulled, toy_task(), small(), scratch=None, what="train", penalties=(Shrinks(1.0),))
    assert pulled.linear.weight.norm() < 0.7 * plain.linear.weight.norm()


@pytest.fixture
def hears():
    """Register an objective that notes what it is given, and forget it afterwards."""
    heard = []

    @OBJECTIVES.register("hears toy", needs=("activations", "progress"))
    def hears_toy(module, taps):
        """Note what comes."""
        heard.append((taps["progress"], [tuple(a.shape) for a in taps["activations"]], taps.get("more")))
        return torch.zeros(())

    yield heard
    del OBJECTIVES._cards["hears toy"]


def test_the_loop_knows_progress_and_activations(hears):
    penalty = OBJECTIVES.bind("hears toy")
    fit(toy_model().module, toy_task(), small(max_steps=7), scratch=None, what="t", penalties=(penalty,))
    assert [progress for progress, _, _ in hears] == pytest.approx([k / 6 for k in range(7)])
    assert hears[0][1] == [(16, 8, 8, 8)] * 3 + [(16, 16, 4, 4)]


def test_taps_are_asked_at_each_step_and_go_first(hears):
    asked = []

    def taps(module, progress):
        asked.append(progress)
        return {"more": module, "progress": 0.5 + progress / 2}

    module, penalty = toy_model().module, OBJECTIVES.bind("hears toy")
    fit(module, toy_task(), small(max_steps=3), scratch=None, what="t", penalties=(penalty,), taps=taps)
    assert [progress for progress, _, _ in hears] == [0.5, 0.75, 1.0]
    assert hears[0][2] is module
    assert asked == [0.0, 0.0, 0.5, 1.0]


def test_taps_are_asked_at_each_step_even_when_nobody_needs_them():
    asked = []

    def taps(module, progress):
        asked.append(progress)
        return {}

    fit(toy_model().module, toy_task(), small(max_steps=3), scratch=None, what="t", taps=taps)
    assert asked == [0.0, 0.5, 1.0]


def test_an_objective_that_adds_nothing_changes_nothing():
    plain, same = toy_model().module, toy_model().module
    fit(plain, toy_task(), small(), scratch=None, what="train")
    fit(same, toy_task(), small(), scratch=None, what="train", penalties=(OBJECTIVES.bind("none"),))
    assert state_digest(plain) == state_digest(same)


def penalized(**options):
    """Return the arguments of a fit of the toy network with every kind of penalty."""
    module = toy_model().module
    groups = trace_groups(module, TOY_INPUT.example(), is_verified=False)
    names = ("growing_penalty", "group_lasso", "sorted_channels", "activation_sparsity")
    penalties = (*(OBJECTIVES.bind(name) for name in names), Shrinks(0.1))
    return {"what": "train", "penalties": penalties, "taps": LiveGroups(module, groups), **options}


@pytest.mark.parametrize("num_calls", [4, 8])
def test_an_interrupted_fit_with_penalties_ends_in_the_same_weights(tmp_path, monkeypatch, num_calls):
    monkeypatch.setattr(fit_module, "SAVE_INTERVAL_S", 0.0)
    task, config = toy_task(), small(epochs=2)
    whole, broken, again = (toy_model().module for _ in range(3))
    fit(whole, task, config, scratch=None, loss=StopsAfter(task, -1), **penalized())
    with pytest.raises(InterruptionError):
        fit(broken, task, config, scratch=tmp_path, loss=StopsAfter(task, num_calls), **penalized())
    rest = StopsAfter(task, 12 - num_calls)
    fit(again, task, config, scratch=tmp_path, loss=rest, **penalized())
    assert rest.left == 0
    assert state_digest(again) == state_digest(whole)


def test_fits_with_different_penalties_share_a_scratch_folder(tmp_path):
    sets = [(), (Shrinks(1.0),), (Shrinks(2.0),), (OBJECTIVES.bind("kurtosis"),), (OBJECTIVES.bind("none"),)]
    for penalties in sets:
        fit(toy_model().module, toy_task(), small(epochs=1), scratch=tmp_path, what="t", penalties=penalties)
    assert len(list(tmp_path.iterdir())) == len(sets)


def test_the_name_of_a_fit_stays_what_it_was(tmp_path):
    """A checkpoint written before penalties could be callables is still found."""
    module, task, config = toy_model().module, toy_task(), small(epochs=1)
    penalty = OBJECTIVES.bind("kurtosis", weight=2.0)
    facts = ["t", config.as_json(), task.identity(), [{"name": "kurtosis", "weight": 2.0}]]
    facts.append(state_digest(module, nn.Module()))
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    fit(module, task, config, scratch=tmp_path, what="t", penalties=(penalty,))
    assert [path.name for path in tmp_path.iterdir()] == [f"fit-{name}.safetensors"]
