"""The result in Markdown (MLflow's run page, model cards) and as rows for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from deploy.report.data import Point, ReportData, latency_title
from deploy.report.formats import count, milliseconds, percent, points, ratio, ratio_span, size, span
from deploy.report.gather import points_of

HEADER = ("Model", "Test accuracy", "95 % interval", "Δ points", "MACs", "Params", "Size", "Latency", "Speed-up")


def summary_rows(found: list[Point], key: str = "") -> list[tuple[str, ...]]:
    """Return one row a model, in the columns of HEADER; latency in milliseconds under `key`."""
    rows: list[tuple[str, ...]] = []
    for point in found:
        speedup = point.speedup(key)
        interval = ratio_span(speedup)
        rows.append(
            (
                point.label,
                percent(point.accuracy),
                span(point.interval),
                "" if point.kind == "teacher" else points(point.delta),
                count(point.numbers.get("macs")),
                count(point.numbers.get("params")),
                size(point.numbers.get("size_bytes")),
                f"{milliseconds(point.latency_ms(key))} ms" if point.latency_ms(key) is not None else "–",
                f"{ratio(speedup)} ({interval})" if interval else ("" if point.kind == "teacher" else ratio(speedup)),
            )
        )
    return rows


def models_table(report: Mapping[str, Any]) -> str:
    """Return the models in a report of `evaluate` as a Markdown table."""
    found = points_of(report)
    keys = [key for point in found for key in point.numbers.get("latency_ms") or {}]
    return _table(found, "onnxruntime/b32" if "onnxruntime/b32" in keys else next(iter(keys), ""))


def note_markdown(data: ReportData) -> str:
    """Return the description of a pipeline's run: verdict, result table, entries, how to pull the model."""
    key = data.latency_keys[0] if data.latency_keys else ""
    lines = [f"## {_plain(data.title)}", "", verdict_line(data), "", _table(data.points, key)]
    if key:
        lines += ["", f"Latency: median of one batch in {latency_title(key)}; speed-up: paired with the teacher, 95 %."]
    for branch in data.branches:
        if branch.has_passed is False:
            lines += [
                "",
                f"**{_plain(branch.label)} did not pass:**",
                *(f"- {_plain(r)}" for r in failed_reasons(branch.gate)),
            ]
    if data.pull:
        lines += ["", "### Pull this model", ""]
        lines += [f"```{'python' if name == 'python' else 'sh'}\n{text}\n```" for name, text in data.pull.items()]
    return "\n".join([*lines, *_entries(data)]) + "\n"


def _entries(data: ReportData) -> list[str]:
    """Return which entries each branch consists of; those of reused work hang under the run that made them."""
    if not any(branch.rows for branch in data.branches):
        return []
    lines = ["", "### Entries", "", "A stage whose result was reused has no run below this one. Search runs for"]
    lines += ["`tags.secateur.ref = '…'` to find the one that made it."]
    for branch in data.branches:
        lines += ["", *([f"**{_plain(branch.label)}**", ""] if len(data.branches) > 1 else [])]
        lines += [f"- {row.stage}: `{row.ref}`" for row in branch.rows]
    return lines


def verdict_line(data: ReportData) -> str:
    """Return one sentence on what came out."""
    judged = [branch for branch in data.branches if branch.has_passed is not None]
    if not judged:
        return "No verdict: the gate was not reached."
    passed = [branch.label for branch in judged if branch.has_passed]
    if not passed:
        return "The gate was not passed; nothing was promoted."
    which = "" if len(judged) == 1 else f" by {', '.join(passed)} ({len(passed)} of {len(judged)})"
    version, name = data.promotion.get("version"), data.promotion.get("name")
    end = f"; version {version} of {name} is the champion" if data.promotion.get("promoted") else ""
    return f"The gate was passed{which}{end}."


def final_metrics(data: ReportData) -> dict[str, float]:
    """Return the numbers for the pipeline's run: the best branch under plain names, every branch under its own.

    The teacher is the same for all and appears under `teacher/…` alone.

    >>> final_metrics(ReportData(title="nothing"))
    {}
    """
    from deploy.tracking.names import metrics_of

    best, found = data.best, dict[str, float]()
    for branch in data.branches:
        numbers = metrics_of(branch.evaluation) | metrics_of({"passed": branch.gate.get("passed")})
        numbers |= {key: v for key, v in metrics_of(branch.cascade).items() if key.startswith(("cascade/", "ratio/"))}
        if len(data.branches) > 1:
            name = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in branch.label)
            found |= {f"{name}/{key}": value for key, value in numbers.items() if not key.startswith("teacher/")}
        if branch is best:
            found |= numbers
    return found


def _table(found: list[Point], key: str) -> str:
    if not found:
        return "Nothing was evaluated."
    rows = [HEADER, ("---", *["---:"] * (len(HEADER) - 1)), *summary_rows(found, key)]
    return "\n".join(f"| {' | '.join(_plain(cell) for cell in row)} |" for row in rows)


def failed_reasons(gate: Mapping[str, Any]) -> list[str]:
    """Return why a gate was not passed: the sentences of the binding checks that failed."""
    reasons, checks = gate.get("reasons") or [], gate.get("checks") or []
    if len(reasons) == len(checks):
        pairs = zip(reasons, checks, strict=True)
        reasons = [reason for reason, check in pairs if not check["passed"] and check.get("binding", True)]
    return [str(reason) for reason in reasons] or ["the gate gave no reason"]


def _plain(text: str) -> str:
    """Return text that Markdown takes literally where it matters."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").splitlines())
