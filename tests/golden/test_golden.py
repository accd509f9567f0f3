"""Figures of short runs against committed baselines.

Record them anew: `SECATEUR_RECORD=1 pytest tests/golden -m slow`.
"""

import json
import os
from pathlib import Path

import pytest

from tests.golden import cases

BASELINES = Path(__file__).parent / "baselines.json"
#: Processors round differently; 20 steps of training carry that on.
RELATIVE, ABSOLUTE = 0.05, 0.07


def recorded():
    return json.loads(BASELINES.read_text()) if BASELINES.is_file() else {}


def test_every_stage_and_piece_has_a_baseline_and_none_is_orphaned():
    assert sorted(recorded()) == cases.names()


@pytest.mark.slow
@pytest.mark.parametrize("case", cases.names())
def test_a_short_run_gives_the_recorded_figures(case):
    found = cases.run(case)
    assert found, f"{case} gives no figure"
    if os.environ.get("SECATEUR_RECORD"):
        text = json.dumps(recorded() | {case: found}, indent=1, sort_keys=True)
        BASELINES.write_text(text + "\n")
    assert found == pytest.approx(recorded()[case], rel=RELATIVE, abs=ABSOLUTE)
