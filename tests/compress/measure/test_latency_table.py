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
    monkeypatch.setattr(LatencyTable, "_timed", lambda self, kind, in_, out: timed.append((in_, out)) or 1.5)
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
