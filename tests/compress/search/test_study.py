import subprocess
import sys
from pathlib import Path

import pytest

from compress.graph.units import ChannelGroup, Member
from compress.search.spaces.space import Candidate, Space
from compress.search.strategies import evolution, genetic, sampling  # noqa: F401
from compress.search.strategies.family import EXCESS, STRATEGIES, rank
from compress.search.study import Trial, best_of, pareto_of, run_study

SPACE = Space(
    groups=tuple(ChannelGroup(name, 8, (Member(name, "out", tuple((k,) for k in range(8)), 8),)) for name in "abcdef"),
    counts=dict.fromkeys("abcdef", tuple(range(1, 9))),
    blocks=("x", "y"),
)


def value_of(candidate):
    """Best where a and b are wide and x is kept; the rest does not matter."""
    widths = candidate.widths
    return (widths["a"] + widths["b"]) / 16 - 0.3 * ("x" in candidate.dropped)


def run(strategy, num_trials=60, excess=lambda candidate: -1.0, opening=()):
    seen = []

    def evaluate(candidate):
        seen.append(candidate.key)
        return value_of(candidate)

    trials = run_study(
        SPACE,
        strategy,
        project=lambda candidate: candidate,
        evaluate=evaluate,
        excess=excess,
        opening=opening,
        num_trials=num_trials,
    )
    return trials, seen


@pytest.mark.parametrize(
    "strategy",
    [
        STRATEGIES.bind("regularised_evolution", population=8, sample=4),
        STRATEGIES.bind("nsga2", population=8),
    ],
)
def test_breeding_finds_more_than_its_first_generation(strategy):
    trials, _ = run(strategy, num_trials=80)
    late, early = trials[-20:], trials[:8]
    assert sum(t.value for t in late) / 20 > sum(t.value for t in early) / 8 + 0.1


def test_evolution_changes_one_decision_of_a_living_parent():
    trials, _ = run(STRATEGIES.bind("regularised_evolution", population=5, sample=2), num_trials=30)
    decisions = [SPACE.decisions_of(trial.candidate) for trial in trials]
    for k in range(5, 30):
        changes = [sum(decisions[k][key] != past[key] for key in past) for past in decisions[k - 5 : k]]
        assert 1 in changes


def test_the_oldest_dies_even_when_it_is_the_best():
    best = SPACE.largest
    trials, _ = run(STRATEGIES.bind("regularised_evolution", population=3, sample=3), num_trials=12, opening=[best])
    decisions = [SPACE.decisions_of(trial.candidate) for trial in trials]
    assert trials[0].candidate == best
    for k in range(4, 12):
        changes = [sum(decisions[k][key] != past[key] for key in past) for past in decisions[k - 3 : k]]
        assert 1 in changes


def test_infeasible_candidates_lose():
    def excess(candidate):
        return candidate.widths["a"] / 4 - 1

    trials, _ = run(STRATEGIES.bind("regularised_evolution", population=8, sample=4), excess=excess)
    assert sum(trial.is_feasible for trial in trials[-20:]) >= 15
    assert best_of(trials).is_feasible
    trials, _ = run(STRATEGIES.bind("nsga2", population=8), excess=excess)
    assert sum(trial.is_feasible for trial in trials[-20:]) >= 12


def test_opening_comes_first_and_nothing_is_tried_twice():
    small = SPACE.settled(dict.fromkeys("abcdef", 1), ("x",))
    trials, seen = run(STRATEGIES.bind("random"), opening=[SPACE.largest, small])
    assert [trial.candidate for trial in trials[:2]] == [SPACE.largest, small]
    assert len(set(seen)) == len(seen) == 60
    assert [trial.number for trial in trials] == list(range(60))


def test_a_study_needs_a_trial():
    with pytest.raises(ValueError, match="at least one"):
        run(STRATEGIES.bind("random"), num_trials=0)


def test_ranks_put_violations_last():
    class Past:
        def __init__(self, number, value, excess):
            self.number, self.value, self.constraints = number, value, {EXCESS: excess}

    past = [Past(0, 0.9, 0.2), Past(1, 0.5, -0.1), Past(2, 0.7, 0.0), Past(3, 0.99, 0.1), Past(4, 0.7, -0.5)]
    assert [trial.number for trial in sorted(past, key=rank)] == [2, 4, 1, 3, 0]


def trial(number, value, macs, excess=0.0):
    return Trial(number=number, candidate=Candidate(widths={"a": macs}), value=value, excess=excess)


def test_best_and_pareto_by_hand():
    trials = [trial(0, 0.9, 9, 0.5), trial(1, 0.7, 5), trial(2, 0.7, 4), trial(3, 0.6, 6), trial(4, 0.5, 1)]
    assert best_of(trials).number == 1
    front = pareto_of(trials, lambda candidate: candidate.widths["a"])
    assert [each.number for each in front] == [4, 2, 0]


@pytest.mark.slow
def test_the_pieces_import_without_optuna():
    code = (
        "import sys; sys.modules['optuna'] = None; "
        "import compress.stages.search; "
        "from compress.search.strategies.family import STRATEGIES; "
        "STRATEGIES.bind('regularised_evolution')(None); print(len(STRATEGIES))"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "3", done.stderr
