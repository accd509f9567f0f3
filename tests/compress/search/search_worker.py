"""A worker of a shared study, started by the tests: name, number of trials, pause in seconds, log."""

import json
import sys
import time
from pathlib import Path

from compress.core.random import derived_seed
from compress.graph.units import ChannelGroup, Member
from compress.search.sharing import Assessment, Board, run_shared_study
from compress.search.spaces.space import Space
from compress.search.strategies import evolution  # noqa: F401
from compress.search.strategies.family import STRATEGIES
from compress.search.study import best_of

SPACE = Space(
    groups=tuple(ChannelGroup(name, 8, (Member(name, "out", tuple((k,) for k in range(8)), 8),)) for name in "abcdef"),
    counts=dict.fromkeys("abcdef", tuple(range(1, 9))),
    blocks=("x", "y"),
)


def value_of(candidate):
    return (candidate.widths["a"] + candidate.widths["b"]) / 16 - 0.3 * ("x" in candidate.dropped)


def work(num_trials, pause_s, log, board):
    """Return the trials as JSON; each beginning and end of an evaluation is a line of the log."""
    learnt = {}

    def note(what, candidate):
        with log.open("a") as file:
            file.write(f"{what} {candidate.key}\n")

    def assess(candidate):
        note("begin", candidate)
        time.sleep(pause_s)
        note("end", candidate)
        noise = derived_seed(0, candidate.key) % 997 / 1e5
        return Assessment(value=value_of(candidate) + noise, excess=-1.0, findings={"noise": noise})

    trials = run_shared_study(
        SPACE,
        STRATEGIES.bind("regularised_evolution", population=6, sample=3),
        project=lambda candidate: candidate,
        assess=assess,
        learn=lambda candidate, findings: learnt.update({candidate.key: dict(findings)}),
        opening=[SPACE.largest, SPACE.smallest],
        num_trials=num_trials,
        board=board,
    )
    lines = [[trial.number, trial.candidate.key, trial.value, trial.excess] for trial in trials]
    return {"trials": lines, "best": best_of(trials).number, "learnt": learnt}


if __name__ == "__main__":
    name, num_trials, pause_s, log = sys.argv[1:]
    print(json.dumps(work(int(num_trials), float(pause_s), Path(log), Board.from_environment(name))))
