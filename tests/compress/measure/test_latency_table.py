"""The table of layers: what a kind of layer is, that it is timed once, and that there and back count alike."""

import pytest
import torch
from torch import nn

from compress import catalogue
from compress.core.journal import Journal
from compress.measure.latency_table import LatencyTable, LayerKind, layer_kinds
from compress.measure.runtimes import RUNTIMES

catalogue.load()
CONV = LayerKind("conv", (3, 3), (1, 1), (1, 1), (1, 1), (8, 8))


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (nn.Conv2d(4, 8, 3), "conv"),
        (nn.Conv2d(4, 8, 1, groups=2), "grouped"),
        (nn.Conv2d(4, 4, 3, groups=4), "depthwise"),
        (nn.Conv2d(4, 8, 3, padding="same"), None),
        (nn.BatchNorm2d(4), None),
    ],
)
def test_kinds(layer, kind):
    found = LayerKind.of(layer, torch.zeros(1, 4, 8, 8))
    assert (found.kind if found else None) == kind


def test_a_layer_that_runs_twice_counts_twice():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 3, padding=1)

        def forward(self, x):
            return self.conv(self.conv(x))

    assert layer_kinds(Twice(), torch.zeros(1, 4, 8, 8)) == {"conv": [CONV, CONV]}


def test_a_layer_is_timed_once_and_the_journal_remembers(tmp_path, monkeypatch):
    timed = []

    def note(self, layers):
        timed.extend((in_, out) for _, in_, out in layers)
        return [1.5 for _ in layers]

    monkeypatch.setattr(LatencyTable, "_timed", note)
    for _ in range(2):
        table = LatencyTable(RUNTIMES.bind("torch"), Journal(tmp_path / "table.jsonl"), batch=1)
        assert table.layer_ms(CONV, 8, 4) == table.layer_ms(CONV, 4, 8) == 1.5
    assert timed == [(4, 8)]
    strided = LayerKind("conv", (3, 3), (2, 2), (1, 1), (1, 1), (8, 8))
    table.layer_ms(strided, 8, 4)
    table.layer_ms(strided, 4, 8)
    assert timed[1:] == [(8, 4), (4, 8)], "a layer that shrinks the map has no way back"
    LatencyTable(RUNTIMES.bind("torch"), Journal(tmp_path / "table.jsonl"), batch=2).layer_ms(CONV, 4, 8)
    assert len(timed) == 4, "another batch has other times"


def test_more_work_takes_longer(tmp_path):
    table = LatencyTable(RUNTIMES.bind("torch"), Journal(tmp_path / "table.jsonl"), batch=8, rounds=8)
    assert table.layer_ms(CONV, 256, 256) > table.layer_ms(CONV, 16, 16) >= 0


def test_layers_that_are_prepared_are_timed_together_and_once(tmp_path, monkeypatch):
    portions = []

    def note(self, layers):
        portions.append([(in_, out) for _, in_, out in layers])
        return [float(in_ * out) for _, in_, out in layers]

    monkeypatch.setattr(LatencyTable, "_timed", note)
    table = LatencyTable(RUNTIMES.bind("torch"), Journal(tmp_path / "table.jsonl"), batch=1)
    table.layer_ms(CONV, 2, 4)
    table.prepare([(CONV, 8, 4), (CONV, 4, 8), (CONV, 4, 2), (CONV, 3, 3)])
    table.prepare([(CONV, 4, 8)])
    assert portions == [[(2, 4)], [(4, 8), (3, 3)]]
    assert (table.layer_ms(CONV, 8, 4), table.layer_ms(CONV, 3, 3)) == (32, 9)
    wide = LayerKind("conv", (3, 3), (1, 1), (1, 1), (1, 1), (1024, 1024))
    table.prepare([(wide, 8, 8), (wide, 8, 16), (CONV, 1, 1)])
    assert portions[2:] == [[(8, 8), (1, 1)], [(8, 16)]], "two that large do not fit into memory together"
    table.prepare([(CONV, 1, out) for out in range(100, 350)])
    assert [len(some) for some in portions[4:]] == [84, 83, 83]
    assert all(some[0][1] < 103 and some[-1][1] > 346 for some in portions[4:]), "early and late ones in each"
    again = LatencyTable(RUNTIMES.bind("torch"), Journal(tmp_path / "table.jsonl"), batch=1)
    assert again.layer_ms(wide, 8, 16) == 128


def test_in_turns_more_work_takes_longer_too(tmp_path):
    table = LatencyTable(RUNTIMES.bind("torch"), Journal(tmp_path / "table.jsonl"), batch=8, rounds=8)
    linear = LayerKind("linear")
    table.prepare([(CONV, 16, 16), (CONV, 256, 256), (CONV, 16, 256), (linear, 64, 64)])
    assert table.layer_ms(CONV, 256, 256) > table.layer_ms(CONV, 16, 256) > table.layer_ms(CONV, 16, 16) >= 0
    assert table.layer_ms(linear, 64, 64) >= 0
