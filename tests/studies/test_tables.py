from __future__ import annotations

import pytest

from compress.studies import Cell, Table
from compress.studies.study import Row
from studies.tables import NOTHING, speeds


def ratio(low: float, value: float, high: float) -> dict[str, float]:
    return {"low": low, "value": value, "high": high}


@pytest.mark.parametrize(("spans", "shown"), [
    ([(1.9, 2.0, 2.1), (2.0, 2.4, 2.9)], "2.20×"),
    ([(1.9, 2.0, 2.1), (1.3, 2.8, 30.5)], "2.00×"),
    ([(1.3, 2.8, 30.5)], NOTHING),
])  # fmt: skip
def test_a_speed_up_that_nobody_knows_is_left_out(spans: list[tuple[float, float, float]], shown: str) -> None:
    rows = [
        Row(cell=Cell(name="a", seed=seed), result={"faster": {"onnxruntime, batch 1": ratio(*span)}})
        for seed, span in enumerate(spans)
    ]
    assert speeds(Table(preset="quick", rows=tuple(rows)), "a") == (shown, NOTHING)
