"""The table at the end of a run."""

import json

from pipelines import summary
from pipelines.watch import Step, Watch


def step(folder, stage: str, label: str, report: dict) -> Step:
    path = folder / f"{stage}-{label}"
    path.mkdir()
    (path / "entry.json").write_text(json.dumps({"report": report}))
    return Step(stage, facts={"stage": stage, "label": label, "folder": str(path), "reused": False})


def test_rows_compare_every_model_with_the_teacher(tmp_path):
    models = {
        "teacher": {"test_accuracy": 0.99, "interval": [0.98, 1.0], "macs": 1000.0},
        "student": {"test_accuracy": 0.985, "interval": [0.97, 0.99], "macs": 200.0},
        "cascade": {"test_accuracy": 0.99, "macs": 400.0},
    }
    latency = {"value": 2.5, "low": 2.4, "high": 2.6}
    watch = Watch()
    for label in ("half", "quarter"):
        evaluation = {"models": models, "ratios": {"student": {"macs": 5.0, summary.LATENCY: latency}}}
        watch.steps.append(step(tmp_path, "evaluate", label, evaluation))
    watch.steps.append(step(tmp_path, "gate", "half", {"passed": True}))
    watch.steps.append(step(tmp_path, "gate", "quarter", {"passed": False, "reasons": ["too slow", "too wrong"]}))
    rows = summary.rows(watch)
    assert [row[0] for row in rows] == ["teacher", "half", "half cascade", "quarter", "quarter cascade"]
    assert rows[0] == ["teacher", "99.00 %", "98.00 % – 100.00 %", "1.00×", "", "reference"]
    assert rows[1] == ["half", "98.50 %", "97.00 % – 99.00 %", "5.00×", "2.50× (2.40 – 2.60)", "passed"]
    assert rows[2] == ["half cascade", "99.00 %", "", "2.50×", "", ""]
    assert rows[3][-1] == "refused: too slow; too wrong"
    assert summary.table(rows).row_count == 5


def test_a_gate_that_is_off_is_said_so(tmp_path):
    watch = Watch()
    models = {"student": {"test_accuracy": 0.5}}
    watch.steps.append(step(tmp_path, "evaluate", "half", {"models": models}))
    watch.steps.append(Step("gate", facts={"stage": "gate", "label": "half", "folder": "", "reused": True}))
    assert summary.rows(watch) == [["half", "50.00 %", "", "", "", "no gate"]]


def test_what_became_of_int8_is_said_with_the_reason(tmp_path):
    watch = Watch()
    reports = {
        "half": {"int8": {"chosen": "signed", "status": "accepted", "reason": "It is faster."}},
        "quarter": {"int8": {"chosen": None, "status": "refused", "reason": "It is not faster."}},
        "tenth": {},
    }
    watch.steps += [step(tmp_path, "export", label, report) for label, report in reports.items()]
    assert summary.int8_choices(watch) == ["half: accepted. It is faster.", "quarter: refused. It is not faster."]
