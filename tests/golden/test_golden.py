"""Figures of short runs against committed baselines.

Record them anew: `SECATEUR_RECORD=1 pytest tests/golden -m slow`.
"""

import json
import os
from pathlib import Path

import pytest

from tests.golden import cases

BASELINES = Path(__file__).parent / "baselines.json"
#: Processors round differently; 20 steps of training carry that on into accuracies and losses.
TRAINED = {"rel": 0.05, "abs": 0.07}
#: INT8 arithmetic differs between instruction sets.
ROUNDED = {"rel": 0.02, "abs": 1e-9}
#: Counts are exact, and outputs of untrained networks differ in the last digits only.
EXACT = {"rel": 1e-3, "abs": 1e-9}
FAMILIES = {"builder": EXACT, "measure": EXACT, "plan": EXACT, "task": EXACT, "fetcher": EXACT, "runtime": EXACT}
FAMILIES |= {"int8_variant": ROUNDED}
COUNTS = ("macs", "params", "size_bytes", "num_")
#: Which of several equally good ones was met first.
ARBITRARY = ("best_epoch", "best_trial")


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
    expected = recorded()[case]
    assert found.keys() == expected.keys()
    for name, value in found.items():
        last = name.rsplit("/", 1)[-1]
        tolerance = FAMILIES.get(case.split("/")[0]) or (EXACT if last.startswith(COUNTS) else TRAINED)
        assert value == pytest.approx(expected[name], **tolerance) or last in ARBITRARY, name
