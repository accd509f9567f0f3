"""The table at the end of a run."""

import json

from compress.measure.paired import Ratio
from deploy.export.int8_choice import Int8Limits, Int8Variant, choose
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
    limits = Int8Limits(batch=32, fp32_accuracy=0.9, drop_max=0.01)
    slower, faster = (
        Int8Variant(
            name=name,
            path=tmp_path / "model.onnx",
            size_bytes=9,
            validation_accuracy=0.9,
            speedups={32: Ratio(speed, speed - 0.1, speed + 0.1)},
        )
        for name, speed in (("slower", 0.8), ("faster", 1.5))
    )
    choices = {
        "half": choose([slower, faster], limits),
        "quarter": choose([slower], limits),
        "tenth": choose([], limits),
    }
    watch = Watch()
    for label, choice in choices.items():
        name = choice.chosen.name if choice.chosen else None
        int8 = {"chosen": name, "status": choice.status, "reason": choice.reason}
        watch.steps.append(step(tmp_path, "export", label, {"int8": int8}))
    watch.steps.append(step(tmp_path, "export", "off", {}))
    half, quarter, tenth = summary.int8_choices(watch)
    assert half.startswith("half: accepted, faster has 1.50x [1.40, 1.60] of the speed of fp32")
    assert quarter.startswith("quarter: none, INT8 is not faster than fp32 on this machine")
    assert tenth == "tenth: none, no INT8 variant was asked for."
