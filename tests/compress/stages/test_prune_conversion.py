"""A conversion in the stage prune that is killed and started again decides as before and measures nothing twice."""

import pytest
import torch

from compress.core.stage import StageCall
from compress.measure import cost_of
from compress.measure.paired import Ratio
from compress.prune import converting
from compress.prune.converting import Referee
from compress.stages.prune import PruneConfig, prune
from tests.toys import toy_entry, toy_model, toy_task

#: The toy data has 6 batches: two passes while the layers fade, two behind.
OPTIONS = {
    "budget": "macs=1",
    "conversion": {"name": "decoupled", "pairs": 1},
    "conversion_share": 0.5,
    "max_steps": 24,
    "batch_size": 16,
}


class Killed(BaseException):
    """Stands in for kill -9."""


class Watched:
    """One life of a stage: lets multiply-adds stand in for the time, counts questions and steps, and ends it."""

    def __init__(self, monkeypatch, *, killed_at=2.0, is_faster=True):
        self.num_asked, self.progress, advance = 0, [], converting.advance

        def measured(_, numerator, denominator):
            self.num_asked += 1
            value = cost_of(numerator).macs / cost_of(denominator).macs if is_faster else 1.0
            return Ratio(value, value, value)

        def watched(module, progress):
            if progress >= killed_at:
                raise Killed
            self.progress.append(progress)
            advance(module, progress)

        monkeypatch.setattr(Referee, "_measured", measured)
        monkeypatch.setattr(converting, "advance", watched)

    def run(self, scratch, start):
        call = StageCall(
            config=PruneConfig(**OPTIONS),
            parents={"model": toy_entry(start)},
            scratch=scratch,
            optional_task=toy_task(),
        )
        return prune(call)


def test_a_resumed_conversion_decides_as_before_and_measures_nothing(tmp_path, monkeypatch):
    start = toy_model()
    for name in ("alone", "killed"):
        (tmp_path / name).mkdir()
    with monkeypatch.context() as patch:
        alone = Watched(patch)
        expected = alone.run(tmp_path / "alone", start)
    assert alone.num_asked >= 2
    assert len(alone.progress) == 12
    with monkeypatch.context() as patch:
        first = Watched(patch, killed_at=0.6)
        with pytest.raises(Killed):
            first.run(tmp_path / "killed", start)
    assert first.num_asked == alone.num_asked
    with monkeypatch.context() as patch:
        second = Watched(patch, is_faster=False)
        found = second.run(tmp_path / "killed", start)
    assert second.num_asked == 0
    assert len(second.progress) == 6, "the first pass of the fade is not trained again"
    assert found.report["conversion"] == expected.report["conversion"]
    assert [fit["num_steps"] for fit in found.report["fits"]] == [12, 12]
    mine, theirs = (result.model.module.state_dict() for result in (found, expected))
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
    with monkeypatch.context() as patch:
        refused = Watched(patch, is_faster=False).run(tmp_path, start)
    assert refused.report["conversion"]["num_converted"] == 0, "without a journal the second life decides otherwise"
