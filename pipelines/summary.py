"""The table at the end of a run: teacher, students, their INT8 files and cascades, and the gate's verdict."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.layout import RECORD

if TYPE_CHECKING:
    from rich.table import Table

    from pipelines.watch import Step, Watch

#: Runtime and batch size whose paired ratio the table shows.
LATENCY = "latency/onnxruntime/b32"

#: Kinds of models, in the order in which they are shown.
ORDER = ("teacher", "student", "int8", "cascade")


def report_of(step: Step) -> dict[str, Any]:
    """Return the stored report of a step; empty when the stage was off."""
    folder = step.facts.get("folder", "")
    return dict(json.loads((Path(folder) / RECORD).read_text())["report"]) if folder else {}


def rows(watch: Watch) -> list[list[str]]:
    """Return the table's cells: model, accuracy, interval, MACs, latency, verdict."""
    evaluations = {step.label: report_of(step) for step in watch.of("evaluate")}
    gates = {step.label: report_of(step) for step in watch.of("gate")}
    found: dict[str, list[str]] = {}
    for label, evaluation in evaluations.items():
        titles = {"teacher": "teacher", "student": label}
        verdicts = {"teacher": "reference", "student": _verdict(gates.get(label, {}))}
        models = evaluation.get("models", {})
        for name in sorted(models, key=ORDER.index):
            title = titles.get(name, f"{label} {name}")
            found.setdefault(title, _row(title, models[name], _ratios(evaluation, name), verdicts.get(name, "")))
    return list(found.values())


def int8_choices(watch: Watch) -> list[str]:
    """Return a line for each budget: whether there is an INT8 file, and why."""
    found = []
    for step in watch.of("export"):
        int8 = report_of(step).get("int8", {})
        if reason := int8.get("reason"):
            found.append(f"{step.label}: {'accepted' if int8.get('chosen') else 'none'}, {reason}")
    return found


def _row(title: str, model: Mapping[str, Any], ratios: Mapping[str, Any], verdict: str) -> list[str]:
    low, high = (*model.get("interval", ()), None, None)[:2]
    return [
        title,
        _percent(model.get("test_accuracy")),
        f"{_percent(low)} – {_percent(high)}" if low is not None else "",
        _ratio(ratios.get("macs")),
        _ratio(ratios.get(LATENCY)),
        verdict,
    ]


def _ratios(evaluation: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return teacher divided by model; MACs are derived where the report holds no ratio."""
    ratios = dict(evaluation.get("ratios", {}).get(name, {}))
    models = evaluation["models"]
    if "macs" not in ratios and models[name].get("macs") and models.get("teacher", {}).get("macs"):
        ratios["macs"] = models["teacher"]["macs"] / models[name]["macs"]
    return ratios


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"


def _ratio(value: Any) -> str:
    """Return a ratio, with its interval when it has one.

    >>> _ratio({"value": 2.0, "low": 1.9, "high": 2.1})
    '2.00× (1.90 – 2.10)'
    """
    if value is None:
        return ""
    if isinstance(value, Mapping):
        return f"{value['value']:.2f}× ({value['low']:.2f} – {value['high']:.2f})"
    return f"{value:.2f}×"


def _verdict(gate: Mapping[str, Any]) -> str:
    if not gate:
        return "no gate"
    from deploy.report.markdown import failed_reasons

    return "passed" if gate.get("passed") else "refused: " + "; ".join(failed_reasons(gate))


def table(cells: Iterable[list[str]]) -> Table:
    """Return the cells as a table for the terminal."""
    from rich.table import Table

    drawn = Table(title="Test accuracy, and teacher ÷ model: above 1 is better", title_justify="left")
    for name, justify in (("model", "left"), ("accuracy", "right"), ("95 % interval", "right")):
        drawn.add_column(name, justify=justify)  # type: ignore[arg-type]
    drawn.add_column("MACs", justify="right")
    drawn.add_column("latency, ONNX Runtime, batch 32", justify="right")
    drawn.add_column("verdict")
    for row in cells:
        drawn.add_row(*row)
    return drawn
