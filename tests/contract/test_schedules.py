"""What every schedule promises."""

import pytest

from compress.prune.schedules import SCHEDULES


def play(schedule):
    """Run a schedule on the number 0 and note what it asks for."""
    events = []

    def prune_to(model, depth):
        events.append(("cut", model, depth))
        return model + 1

    def train(model, share):
        events.append(("train", model, share))
        return model + 1

    return schedule(0, prune_to, train), events


@pytest.mark.parametrize("name", sorted(SCHEDULES))
class TestEverySchedule:
    def test_ends_at_the_budget_and_never_turns_back(self, name):
        depths = [value for kind, _, value in play(SCHEDULES.bind(name))[1] if kind == "cut"]
        assert depths[-1] == 1.0
        assert depths == sorted(depths)
        assert all(0 < depth <= 1 for depth in depths)

    def test_spends_all_fine_tuning_once(self, name):
        shares = [value for kind, _, value in play(SCHEDULES.bind(name))[1] if kind == "train"]
        assert sum(shares) == pytest.approx(1.0)

    def test_hands_each_model_on(self, name):
        result, events = play(SCHEDULES.bind(name))
        assert [model for _, model, _ in events] == list(range(len(events)))
        assert result == len(events)
        assert events[0][0] == "cut"

    def test_card_is_filled_in(self, name):
        for word in ("Args:", "Returns:", "Differs from the paper:", "Cost:", "Reference:", ">>>"):
            assert word in SCHEDULES[name].function.__doc__


def test_progressive_by_hand():
    depths = [value for kind, _, value in play(SCHEDULES.bind("progressive", steps=4))[1] if kind == "cut"]
    assert depths == pytest.approx([1 - 27 / 64, 1 - 8 / 64, 1 - 1 / 64, 1.0])


def test_progressive_needs_a_step():
    with pytest.raises(ValueError, match="at least 1 step"):
        play(SCHEDULES.bind("progressive", steps=0))
