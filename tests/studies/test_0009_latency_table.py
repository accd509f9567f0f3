"""Study 0009: what it draws, how its baseline is fitted, that it goes on after a kill, and what its verdict says."""

from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from compress import catalogue
from compress.core.model import BUILDERS, Model
from compress.graph.cost_model import CostModel
from compress.graph.groups import trace_groups
from compress.measure.latency_table import LatencyTable
from compress.measure.paired import PairedLatency
from compress.run import task_of
from compress.studies import Bench, Cell, Row, Table
from tests.studies.tiny import module_of

catalogue.load()
STUDY = module_of("0009")
TINY = {**STUDY.BASE, "task": "digits", "builder": {"name": "resnet_cifar", "depth": 8, "width": 16}, "networks": 6}
BATCH = {"batch": 1, "rounds": 1, "timings": 4}


def tiny_model():
    return Model.build(BUILDERS.from_json(TINY["builder"]), task_of("digits").input, seed=0)


class Affine:
    """A clock by which every network takes a floor and a time in proportion to its multiply-adds."""

    calls = 0
    stop_after = 10**6
    drift = 1.0

    @staticmethod
    @contextmanager
    def exported(networks):
        yield networks

    @classmethod
    def timed_in_turns(cls, networks, x_BCHW, *, rounds, pause_s, seed):
        if cls.calls == cls.stop_after:
            raise KeyboardInterrupt
        one_1CHW = torch.from_numpy(x_BCHW[:1])
        macs = {name: macs_of(network, one_1CHW) for name, network in networks.items()}
        times = {name: 0.5 + 1.5 * macs[name] / macs["0"] for name in networks}
        samples = {name: (time * (cls.drift**cls.calls if name != "0" else 1),) for name, time in times.items()}
        cls.calls += 1
        return PairedLatency(samples, seed)


def macs_of(model, x_BCHW):
    return CostModel(model.module, trace_groups(model.module, x_BCHW, is_verified=False), x_BCHW).macs({})


@pytest.fixture
def affine(monkeypatch):
    for name in ("exported", "timed_in_turns"):
        monkeypatch.setattr(STUDY, name, getattr(Affine, name))
    for name, value in {"calls": 0, "stop_after": 10**6, "drift": 1.0}.items():
        monkeypatch.setattr(Affine, name, value)
    monkeypatch.setattr(LatencyTable, "prepare", lambda self, layers: None)
    monkeypatch.setattr(LatencyTable, "layer_ms", lambda self, kind, in_, out: in_ * out / 1e3)
    return Affine


def bench_at(path: Path) -> Bench:
    return Bench(workspace=path, scratch=path)


def test_multiply_adds_are_fitted_with_scale_and_floor(tmp_path, affine):
    """Where the time is a floor and a part in proportion, the fitted baseline is exact and the plain one is not."""
    found = STUDY.run(Cell(name="batch=1", settings={**TINY, **BATCH}), bench_at(tmp_path))
    assert found["macs"]["median_error"] == pytest.approx(0, abs=1e-6)
    assert found["macs"]["rank_correlation"] == pytest.approx(1)
    assert found["fitted"]["macs"]["floor_ms"] == pytest.approx(0.5)
    assert found["reference_ms"] == pytest.approx(2)
    assert found["proportional"]["median_error"] > 0.1
    assert found["again"]["median_error"] == pytest.approx(0, abs=1e-9)
    assert len(found["measured_ms"]) == TINY["networks"]


def test_half_of_the_timings_are_held_against_the_other_half(tmp_path, affine, monkeypatch):
    monkeypatch.setattr(affine, "drift", 1.01)
    found = STUDY.run(Cell(name="batch=1", settings={**TINY, **BATCH}), bench_at(tmp_path))
    assert found["again"]["median_error"] == pytest.approx(0.01, rel=0.01), "timings 1 and 3 against 0 and 2"


def test_a_stopped_cell_goes_on(tmp_path, affine, monkeypatch):
    cell = Cell(name="batch=1", settings={**TINY, **BATCH})
    monkeypatch.setattr(affine, "stop_after", 3)
    with pytest.raises(KeyboardInterrupt):
        STUDY.run(cell, bench_at(tmp_path))
    monkeypatch.setattr(affine, "stop_after", 10**6)
    STUDY.run(cell, bench_at(tmp_path))
    assert affine.calls == 4, "nothing is timed again"


@pytest.mark.slow
def test_a_real_clock_is_read_once(tmp_path, monkeypatch):
    """What a cell measured stays what it was when the cell runs again; the table's journal has its own test."""
    monkeypatch.setattr(LatencyTable, "prepare", lambda self, layers: None)
    monkeypatch.setattr(LatencyTable, "layer_ms", lambda self, kind, in_, out: in_ * out / 1e3)
    settings = {**TINY, **BATCH, "networks": 3, "pause_s": 0.0}
    first, again = (STUDY.run(Cell(name="batch=1", settings=settings), bench_at(tmp_path)) for _ in range(2))
    assert first == again
    assert min(first["measured_ms"]) > 0
    assert first["again"]["median_error"] > 0, "the timings are not the same one"


def test_networks_span_the_levels_off_the_grid():
    model = tiny_model()
    groups = trace_groups(model.module, model.input.example())
    drawn = [STUDY.drawn(model, groups, TINY, 0, number)[0] for number in range(11, 131)]
    widths_NG = torch.tensor([[int(kept[group.name].sum()) for group in groups] for kept in drawn])
    whole_G = torch.tensor([group.num_channels for group in groups])
    assert widths_NG.min() >= 1
    assert (widths_NG <= whole_G).all()
    assert (widths_NG % 8 != 0).float().mean() > 0.5
    shares_N = (widths_NG / whole_G).mean(1)
    assert shares_N.min() < 0.25
    assert shares_N.max() > 0.85
    assert shares_N.std() > 0.15, "independent widths alone would average out"
    whole, no_blocks = STUDY.drawn(model, groups, TINY, 0, 0)
    assert all(kept_C.all() for kept_C in whole.values())
    assert no_blocks == []
    calibration = [STUDY.drawn(model, groups, TINY, seed, 8)[0] for seed in range(40)]
    kept = torch.tensor([[kept_C.float().mean() for kept_C in kept.values()] for kept in calibration])
    assert kept.mean() == pytest.approx(0.3, abs=0.03)
    assert torch.equal(calibration[0][groups[0].name], STUDY.drawn(model, groups, TINY, 0, 8)[0][groups[0].name])


def table_of(**values):
    """Return a table from (median error, rank correlation) of each seed, by batch."""
    rows = []
    for name, pairs in values.items():
        for seed, (error, rank) in enumerate(pairs):
            own = {"median_error": error, "largest_error": 2 * error, "rank_correlation": rank}
            other = {"median_error": 0.06, "largest_error": 0.2, "rank_correlation": 0.9}
            result = {"table": own, "macs": other, "proportional": other, "again": other}
            cell = Cell(name=name.replace("_", "="), seed=seed, settings=STUDY.BASE)
            rows.append(Row(cell=cell, result=result))
    return Table(preset="full", rows=tuple(rows))


GOOD, POOR = [(0.02, 0.98), (0.03, 0.99), (0.02, 0.985)], [(0.2, 0.7), (0.21, 0.72), (0.2, 0.71)]
VAGUE = [(0.02, 0.93), (0.03, 0.97), (0.02, 0.98)]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"batch_1": GOOD, "batch_64": GOOD}, " holds: "),
        ({"batch_1": GOOD, "batch_64": POOR}, " does not hold: "),
        ({"batch_1": VAGUE, "batch_64": GOOD}, " is undecided: "),
        ({"batch_1": VAGUE, "batch_64": POOR}, " does not hold: "),
        ({"batch_1": GOOD}, " is undecided: "),
        ({"batch_1": POOR}, " does not hold: "),
        ({"batch_1": GOOD[:1], "batch_64": GOOD[:1]}, " is undecided: "),
        ({"batch_1": POOR[:1], "batch_64": GOOD[:1]}, " is undecided: "),
    ],
)
def test_the_headline_says_whether_the_claim_holds(values, said):
    verdict = STUDY.conclude(table_of(**values))
    assert said in verdict.headline
    assert ("nothing yet at batch 64" in verdict.headline) == ("batch_64" not in values)


def test_the_verdict_gives_means_with_intervals_and_the_baselines():
    verdict = STUDY.conclude(table_of(batch_1=GOOD, batch_64=VAGUE))
    assert "2.3 ± 1.4 % (met) and 0.985 ± 0.012 (met) at batch 1" in verdict.headline
    assert "(undecided) at batch 64 (3 seeds)" in verdict.headline
    text = " ".join(verdict.sentences)
    assert "The table beats multiply-adds with scale and floor" in text
    assert "Half of the timings from the other half at batch 1: median error 6.0 ± 0.0 %" in text
    assert verdict.table.count("\n| batch ") == 8
