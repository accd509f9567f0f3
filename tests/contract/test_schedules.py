"""What every schedule promises."""

import pytest
import torch

from compress.graph.groups import trace_groups
from compress.prune.schedules import SCHEDULES, Choice
from tests.toys import toy_model


def counter(model):
    """Return how often a tool of `play` changed the model: no schedule touches the classifier's bias."""
    return int(model.module.linear.bias[0])


def counted(model):
    with torch.no_grad():
        model.module.linear.bias += 1
    return model


def choose_half(model, depth):
    """Choose the part depth / 2 of the channels of each group, the last ones, and the block."""
    groups = trace_groups(model.module, model.input.example(), is_verified=False)
    scores = {group.name: -torch.arange(float(group.num_channels)) for group in groups}
    kept = {name: torch.arange(len(s)) < round(len(s) * (1 - depth / 2)) for name, s in scores.items()}
    return Choice(groups, kept, ("block",) if depth == 1 else (), {**scores, "blocks": torch.ones(1)})


def play(schedule):
    """Run a schedule on the toy network and note what it asks for: (tool, changes so far, argument)."""
    events = []
    model = toy_model()
    with torch.no_grad():
        model.module.linear.bias.zero_()

    def prune_to(model, depth):
        events.append(("cut", counter(model), depth))
        return counted(model)

    def train(model, share, penalty=None):
        events.append(("train", counter(model), share))
        if penalty is not None:
            assert penalty(model.module).item() >= 0
            penalty.as_json()
        return counted(model)

    def choose(model, depth):
        events.append(("choose", counter(model), depth))
        return choose_half(model, depth)

    return schedule(model, prune_to, train, choose), events


def asked(schedule, tool):
    return [value for kind, _, value in play(schedule)[1] if kind == tool]


@pytest.mark.parametrize("name", sorted(SCHEDULES))
class TestEverySchedule:
    def test_ends_at_the_budget_and_never_turns_back(self, name):
        depths = asked(SCHEDULES.bind(name), "cut")
        assert depths[-1] == 1.0
        assert depths == sorted(depths)
        assert all(0 < depth <= 1 for depth in depths)

    def test_asks_for_depths_that_never_fall(self, name):
        depths = asked(SCHEDULES.bind(name), "choose")
        assert depths == sorted(depths)
        assert all(0 < depth <= 1 for depth in depths)

    def test_spends_all_fine_tuning_once(self, name):
        shares = asked(SCHEDULES.bind(name), "train")
        assert sum(shares) == pytest.approx(1.0)
        assert all(share > 0 for share in shares)

    def test_hands_each_model_on(self, name):
        result, events = play(SCHEDULES.bind(name))
        changes = [number for kind, number, _ in events if kind != "choose"]
        assert changes == list(range(len(changes)))
        assert counter(result) == len(changes)
        before = 0
        for kind, number, _ in events:
            assert number == before
            before = number + (kind != "choose")

    def test_trains_what_the_last_cut_left(self, name):
        tools = [kind for kind, _, _ in play(SCHEDULES.bind(name))[1]]
        assert tools[-2:] == ["cut", "train"]

    def test_keeps_the_record_of_decisions(self, name):
        result, _ = play(SCHEDULES.bind(name))
        assert result.lineage == toy_model().lineage

    def test_twice_is_the_same(self, name):
        first, second = (play(SCHEDULES.bind(name)) for _ in range(2))
        assert first[1] == second[1]
        for a, b in zip(first[0].module.state_dict().values(), second[0].module.state_dict().values(), strict=True):
            assert torch.equal(a, b)

    def test_card_is_filled_in(self, name):
        for word in ("Args:", "Returns:", "Differs from the paper:", "Cost:", "Reference:", ">>>"):
            assert word in SCHEDULES[name].function.__doc__


@pytest.mark.parametrize(("name", "option"), [("progressive", "steps"), ("soft", "steps")])
def test_needs_a_step(name, option):
    with pytest.raises(ValueError, match="at least 1 step"):
        play(SCHEDULES.bind(name, **{option: 0}))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("soft", {"steepness": -1.0}, "steepness"),
        ("soft", {"final_share": 1.0}, "final_share"),
        ("expectation_maximization", {"rounds": 0}, "at least 1 round"),
        ("expectation_maximization", {"strength": -1.0}, "strength"),
        ("expectation_maximization", {"temperature": -1.0}, "temperature"),
        ("expectation_maximization", {"final_share": 0.0}, "final_share"),
    ],
)
def test_options_out_of_range_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        play(SCHEDULES.bind(name, **options))
