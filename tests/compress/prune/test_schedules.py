"""Schedules by hand, and on networks that are really trained."""

import math

import pytest
import torch
from torch import nn

from compress.core.model import Model
from compress.graph.groups import trace_groups
from compress.graph.stats import gather
from compress.graph.surgery import apply, plan_from_kept
from compress.prune.allocators.family import best
from compress.prune.criteria import CRITERIA
from compress.prune.schedules import SCHEDULES, Choice
from compress.prune.schedules.expectation_maximization import Pull, redundancy
from compress.prune.schedules.soft import part_zeroed
from compress.train.fit import FitConfig, fit
from compress.train.scoring import accuracy
from tests.contract.test_schedules import asked
from tests.toys import TOY_INPUT, toy_model, toy_task


def test_progressive_by_hand():
    depths = asked(SCHEDULES.bind("progressive", steps=4), "cut")
    assert depths == pytest.approx([1 - 27 / 64, 1 - 8 / 64, 1 - 1 / 64, 1.0])


def test_soft_by_hand():
    schedule = SCHEDULES.bind("soft", steps=2, steepness=2 * math.log(3), final_share=0.4)
    assert asked(schedule, "choose") == pytest.approx([0.75, 1.0])
    assert asked(schedule, "cut") == [1.0]
    assert asked(schedule, "train") == pytest.approx([0.3, 0.3, 0.4])
    even = SCHEDULES.bind("soft", steps=4, steepness=0.0)
    assert asked(even, "choose") == pytest.approx([0.25, 0.5, 0.75, 1.0])


def test_the_rise_of_the_paper():
    """Three quarters after one eighth of the way."""
    assert part_zeroed(1, 8, 8 * math.log(4)) == pytest.approx(0.75, abs=1e-4)


def test_expectation_maximization_asks_for_the_budget_each_time():
    schedule = SCHEDULES.bind("expectation_maximization", rounds=2, final_share=0.6)
    assert asked(schedule, "choose") == [1.0, 1.0]
    assert asked(schedule, "cut") == [1.0]
    assert asked(schedule, "train") == pytest.approx([0.2, 0.2, 0.6])


def test_redundancy_by_hand():
    scores_C = torch.tensor([9.0, 0.0, 1.0, 5.0])
    kept_C = torch.tensor([True, False, False, False])
    found = redundancy(kept_C, scores_C, 0.5).tolist()
    wanted = [1 / (1 + math.exp(-(place - 0.5) / 2)) for place in (0, 3, 2, 1)]
    assert found == pytest.approx(wanted)


def test_redundancy_does_not_mind_how_scores_are_spread():
    scores_C = torch.rand(20)
    kept_C = best(scores_C, 7)
    assert torch.equal(redundancy(kept_C, scores_C, 0.1), redundancy(kept_C, (9 * scores_C).exp(), 0.1))


def test_redundancy_is_above_a_half_for_what_goes():
    scores_C = torch.tensor([1.0, 1.0, 1.0, 1.0])
    kept_C = torch.tensor([False, True, False, True])
    assert ((redundancy(kept_C, scores_C, 0.3) > 0.5) == ~kept_C).all()


@pytest.mark.parametrize("kept", [[True, True], [False, False], [True, False]])
def test_redundancy_without_scores_or_softness_is_hard(kept):
    kept_C = torch.tensor(kept)
    for scores_C, temperature in ((None, 0.1), (torch.tensor([2.0, 1.0]), 0.0)):
        assert redundancy(kept_C, scores_C, temperature).tolist() == [float(not one) for one in kept]
    if len(set(kept)) == 1:
        assert redundancy(kept_C, torch.tensor([2.0, 1.0]), 0.1).tolist() == [float(not one) for one in kept]


def pull_on(module, dropped=(), **options):
    groups = trace_groups(module, TOY_INPUT.example(), is_verified=False)
    kept = {"conv2": torch.arange(16) != 3}
    return Pull(module, Choice(groups, kept, dropped), **{"temperature": 0.0, "strength": 2.0, **options})


def test_the_pull_by_hand():
    module = toy_model().module
    with torch.no_grad():
        module.bn2.bias[3] = 5.0
    wanted = module.conv2.weight[3].square().sum() + 1.0 + 25.0
    assert pull_on(module)(module).item() == pytest.approx(wanted.item())
    pulled = pull_on(module)(module)
    pulled.backward()
    assert module.bn2.bias.grad.tolist() == [10.0 if c == 3 else 0.0 for c in range(16)]
    assert bool((module.conv2.weight.grad[4] == 0).all())
    assert module.conv1.weight.grad is None or bool((module.conv1.weight.grad == 0).all())


def test_the_pull_on_a_block():
    module = toy_model().module
    more = pull_on(module, ("block",))(module).item() - pull_on(module)(module).item()
    assert more == pytest.approx(8.0)


def test_pulls_are_told_apart():
    module = toy_model().module
    names = [
        pull_on(module).as_json(),
        pull_on(module, strength=1.0).as_json(),
        pull_on(module, ("block",)).as_json(),
    ]
    assert len({str(name) for name in names}) == 3
    assert pull_on(module).as_json() == names[0]


class Bench:
    """The tools of the stage prune, reduced to one group and a number of channels."""

    def __init__(self, num_kept, num_steps):
        self.task, self.num_kept, self.num_steps = toy_task(), num_kept, num_steps
        self.chosen, self.sizes = [], []

    def choose(self, model, depth):
        groups = trace_groups(model.module, model.input.example(), is_verified=False)
        stats = gather(model.module, groups, ("weight",))
        scores = {group.name: CRITERIA.bind("magnitude")(stats[group.name]) for group in groups}
        kept = {}
        for name, scores_C in scores.items():
            kept[name] = best(scores_C, round(len(scores_C) + depth * (self.num_kept - len(scores_C))))
        self.chosen.append(next(iter(kept.values())))
        return Choice(groups, kept, (), scores)

    def prune_to(self, model, depth):
        choice = self.choose(model, depth)
        (name,) = choice.kept
        weight = model.module.get_submodule(name).weight.detach()
        self.sizes = [weight[mask_C].norm().item() for mask_C in (choice.kept[name], ~choice.kept[name])]
        self.before = accuracy(model.module, self.task, "validation")
        model = apply(model, plan_from_kept(choice.groups, choice.kept), stage="prune", config={})
        self.after = accuracy(model.module, self.task, "validation")
        return model

    def train(self, model, share, penalty=None):
        config = FitConfig(max_steps=round(self.num_steps * share), batch_size=16, recipe="sgd_cosine", select="last")
        penalties = () if penalty is None else (penalty,)
        fit(model.module, self.task, config, scratch=None, what="t", penalties=penalties)
        return model


def start():
    """Return a network with one group: a hidden layer of 12 channels behind a flatten."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 3))
    return Model(module.eval(), TOY_INPUT, toy_model().lineage)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_every_schedule_leaves_a_small_network_that_works(name):
    bench = Bench(num_kept=4, num_steps=120)
    result = SCHEDULES.bind(name)(start(), bench.prune_to, bench.train, bench.choose)
    assert result.module[1].out_features == 4
    assert accuracy(result.module, bench.task, "validation") >= 0.9


def test_the_pull_fades_what_is_cut_later():
    bench, plain = Bench(num_kept=4, num_steps=160), Bench(num_kept=4, num_steps=160)
    em = SCHEDULES.bind("expectation_maximization", strength=2.0, rounds=2, final_share=0.25)
    em(start(), bench.prune_to, bench.train, bench.choose)
    SCHEDULES.bind("one_shot")(plain.train(start(), 0.75), plain.prune_to, plain.train, plain.choose)
    assert bench.sizes[1] < 0.05 * bench.sizes[0]
    assert bench.after == bench.before
    assert plain.sizes[1] > 0.2 * plain.sizes[0]


class WrongAtFirst(Bench):
    """Says at its first call that the best channels should go."""

    def choose(self, model, depth):
        choice = super().choose(model, depth)
        if len(self.chosen) > 1:
            return choice
        self.chosen[0] = ~self.chosen[0]
        return Choice(choice.groups, {name: ~mask_C for name, mask_C in choice.kept.items()}, (), choice.scores)


def test_soft_ranks_what_is_switched_off_by_all_that_it_would_bring():
    """Without training, every step sees the network that was given, however much is switched off."""
    bench = Bench(num_kept=4, num_steps=0)
    first = start()
    seen = []

    def choose(model, depth):
        seen.append([value.clone() for value in model.module.parameters()])
        return bench.choose(model, depth)

    SCHEDULES.bind("soft", steps=3)(first, bench.prune_to, lambda model, share, penalty=None: model, choose)
    assert len(seen) == 3
    for weights in seen:
        assert all(torch.equal(a, b) for a, b in zip(weights, first.module.parameters(), strict=True))


def test_soft_puts_a_wrong_choice_right():
    bench = WrongAtFirst(num_kept=6, num_steps=160)
    schedule = SCHEDULES.bind("soft", steps=2, steepness=30.0)
    result = schedule(start(), bench.prune_to, bench.train, bench.choose)
    returned_C = (bench.chosen[-1] & ~bench.chosen[0])[bench.chosen[-1]]
    assert returned_C.any()
    assert bool((result.module[3].weight[:, returned_C].abs().sum(0) > 0.05).all())
    assert accuracy(result.module, bench.task, "validation") >= 0.9
