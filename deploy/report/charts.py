"""The pictures of the page, each as SVG text, drawn for a width so that the letters keep their size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deploy.report.data import Point, latency_title, pareto_front
from deploy.report.formats import count, milliseconds, percent, plain, points, ratio, ratio_span, span
from deploy.report.plot import Canvas, Frame, Labels, Scale, axes

#: Ratio of the slowest to the fastest model above which the time axis is logarithmic.
LOG_FROM = 12.0


def pareto_chart(found: Sequence[Point], key: str, width: float = 1000, height: float = 440) -> str:
    """Return accuracy against measured latency, with intervals and the Pareto front; "" when nothing was timed.

    Args:
        found: Models; those without accuracy or without a latency under `key` are left out.
        key: Which latency ("onnxruntime/b32").
        width: Of the picture in pixels.
        height: Of the picture in pixels.
    """
    drawn = [point for point in found if point.accuracy is not None and point.latency_ms(key) is not None]
    if not drawn:
        return ""
    canvas = Canvas(width, height, f"Test accuracy against latency, {latency_title(key)}")
    frame = Frame.inside(canvas, top=56 if any(p.kind == "teacher" for p in drawn) else 30)
    dots = [(_known(point.latency_ms(key)), 100 * _known(point.accuracy)) for point in drawn]
    x, y = _latency_scale([ms for ms, _ in dots], frame), _accuracy_scale(drawn, frame)
    axes(canvas, frame, x, y, x_title="median latency of one batch, ms", y_title="test accuracy, %")
    _speed_axis(canvas, frame, x, drawn, key)
    front = [dots[index] for index in pareto_front(dots)]
    canvas.path(_stairs([(x(ms), y(part)) for ms, part in front], frame), "muted", 1.5, "5 4")
    labels = Labels(frame)
    for ms, part in dots:
        labels.block(x(ms), y(part), 7)
    for point, (ms, part) in zip(drawn, dots, strict=True):
        if point.interval:
            labels.block(x(ms), y(part), 2, top=y(100 * point.interval[1]), bottom=y(100 * point.interval[0]))
    for point, (ms, part) in zip(drawn, dots, strict=True):
        _interval_bar(canvas, x(ms), y, point)
        canvas.marker(x(ms), y(part), point.kind, 6.5, _tip(point, key))
    for point, (ms, part) in zip(drawn, dots, strict=True):
        labels.place(canvas, x(ms), y(part), point.short, point.kind)
    return canvas.svg()


def cascade_chart(report: Mapping[str, Any], width: float = 520, height: float = 300) -> str:
    """Return the threshold curve: validation accuracy against expected MACs, the chosen threshold marked."""
    curve = sorted(
        (item for item in report.get("curve") or [] if item.get("expected_macs_ratio") is not None),
        key=lambda item: item["expected_macs_ratio"],
    )
    if len(curve) < 2:
        return ""
    canvas = Canvas(width, height, "Accuracy of the cascade against its expected cost")
    frame = Frame.inside(canvas, top=34)
    teacher = report.get("teacher_accuracy")
    parts = [100 * item["accuracy"] for item in curve] + ([100 * teacher] if teacher is not None else [])
    x = Scale(0, max(1.0, curve[-1]["expected_macs_ratio"]), frame.left, frame.right)
    y = Scale(*_padded(min(parts), max(parts), most=100.0), frame.bottom, frame.top)
    axes(canvas, frame, x, y, x_title="expected MACs ÷ teacher's MACs", y_title="validation accuracy, %")
    if teacher is not None:
        canvas.line(frame.left, y(100 * teacher), frame.right, y(100 * teacher), "teacher", 1.2, "5 4")
        canvas.text(frame.left + 6, y(100 * teacher) - 6, "teacher alone", fill="teacher", px=11)
    canvas.path([(x(item["expected_macs_ratio"]), y(100 * item["accuracy"])) for item in curve], "cascade")
    for item in curve if len(curve) <= 30 else ():
        tip = f"threshold {plain(item.get('threshold'))}: {percent(item.get('deferred'), 1)} deferred, "
        where = (x(item["expected_macs_ratio"]), y(100 * item["accuracy"]))
        canvas.marker(*where, "student", 2.5, tip + percent(item["accuracy"]))
    if report.get("expected_macs_ratio") is not None and report.get("validation_accuracy") is not None:
        where = (x(report["expected_macs_ratio"]), y(100 * report["validation_accuracy"]))
        canvas.line(where[0], where[1], where[0], frame.bottom, "cascade", 1, "3 3")
        canvas.marker(*where, "cascade", 8, f"chosen: threshold {plain(report.get('threshold'))}")
        labels = Labels(frame)
        for item in curve:
            labels.block(x(item["expected_macs_ratio"]), y(100 * item["accuracy"]), 3)
        labels.place(canvas, *where, f"threshold {plain(report.get('threshold'))}", "cascade")
    return canvas.svg()


def search_chart(report: Mapping[str, Any], width: float = 520, height: float = 300) -> str:
    """Return every trial of a search: validation accuracy against cost; hollow ones miss the budget."""
    trials = [(trial, _trial_cost(trial), _first(trial.get("value"))) for trial in report.get("trials") or []]
    known = [(trial, cost, value) for trial, cost, value in trials if cost is not None and value is not None]
    if not known:
        return ""
    costs, values = [cost for _, cost, _ in known], [100 * value for _, _, value in known]
    scale, unit = next(((f, u) for f, u in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if max(costs) >= 2 * f), (1.0, ""))
    canvas = Canvas(width, height, "Trials of the search")
    frame = Frame.inside(canvas, top=34)
    x = Scale(*_padded(min(costs) / scale, max(costs) / scale), frame.left, frame.right)
    y = Scale(*_padded(min(values), max(values), most=100.0), frame.bottom, frame.top)
    axes(canvas, frame, x, y, x_title=f"MACs, {unit}" if unit else "MACs", y_title="validation accuracy, %")
    feasible = [(cost, value) for trial, cost, value in known if trial.get("is_feasible", True)]
    front = [feasible[index] for index in pareto_front(feasible)]
    if len(front) > 1:
        canvas.path([(x(cost / scale), y(100 * value)) for cost, value in front], "muted", 1.5, "5 4")
    best = _number_of(report.get("best_trial"))
    labels = Labels(frame)
    for _, cost, value in known:
        labels.block(x(cost / scale), y(100 * value), 4)
    for trial, cost, value in known:
        where, number = (x(cost / scale), y(100 * value)), trial.get("number")
        tip = f"trial {number}: {percent(value)}, {count(cost)} MACs"
        is_best = number is not None and number == best
        hollow = not trial.get("is_feasible", True)
        canvas.marker(*where, "int8" if is_best else "student", 7 if is_best else 4, tip, hollow=hollow)
        if is_best:
            labels.place(canvas, *where, f"chosen: trial {number}", "int8")
    return canvas.svg()


def _latency_scale(values: Sequence[float], frame: Frame) -> Scale:
    low, high = min(values), max(values)
    if low > 0 and high / low > LOG_FROM:
        return Scale(low / 1.4, high * 1.4, frame.left, frame.right, is_log=True)
    return Scale(0, high * 1.12 or 1, frame.left, frame.right)


def _accuracy_scale(drawn: Sequence[Point], frame: Frame) -> Scale:
    ends = [100 * part for point in drawn for part in (point.interval or (_known(point.accuracy),))]
    return Scale(*_padded(min(ends), max(ends), most=100.0), frame.bottom, frame.top)


def _padded(low: float, high: float, most: float = float("inf")) -> tuple[float, float]:
    room = (high - low) * 0.1 or abs(high) * 0.05 or 1.0
    return low - room, min(high + room, max(most, high))


def _speed_axis(canvas: Canvas, frame: Frame, x: Scale, drawn: Sequence[Point], key: str) -> None:
    """Mark on top how many times faster than the teacher a place on the time axis is."""
    teacher = next((point.latency_ms(key) for point in drawn if point.kind == "teacher"), None)
    fastest = min(_known(point.latency_ms(key)) for point in drawn)
    if not teacher or fastest <= 0:
        return
    last = float("inf")
    for speed in (1, 1.5, 2, 3, 4, 5, 7, 10, 15, 20, 30, 50, 100):
        ms = teacher / speed
        if speed > 1.6 * teacher / fastest or ms < x.low or last - x(ms) < 40:
            continue
        last = x(ms)
        canvas.line(last, frame.top, last, frame.bottom, "grid", 1, "2 4")
        canvas.text(last, frame.top - 7, f"{speed:g}×", anchor="middle", px=11)
    canvas.text(frame.right, 14, "speed, teacher = 1×", anchor="end", px=11)


def _interval_bar(canvas: Canvas, x: float, y: Scale, point: Point) -> None:
    if not point.interval:
        return
    low, high = (y(100 * part) for part in point.interval)
    canvas.line(x, low, x, high, point.kind, 1.5)
    for end in (low, high):
        canvas.line(x - 4, end, x + 4, end, point.kind, 1.5)


def _stairs(front: Sequence[tuple[float, float]], frame: Frame) -> list[tuple[float, float]]:
    """Return the edge of the region that the front rules out, from the bottom to the right."""
    dots = [(front[0][0], frame.bottom)]
    for (x, y), after in zip(front, [*front[1:], None], strict=True):
        dots += [(x, y), (after[0] if after else frame.right, y)]
    return dots


def _tip(point: Point, key: str) -> str:
    lines = [f"{point.label}: {percent(point.accuracy)} ({span(point.interval)})"]
    lines.append(f"{milliseconds(point.latency_ms(key))} ms, {latency_title(key)}")
    if point.delta is not None:
        lines.append(f"{points(point.delta)} points against the teacher")
    if point.speedup(key):
        lines.append(f"{ratio(point.speedup(key))} as fast ({ratio_span(point.speedup(key))})")
    return "\n".join(lines)


def _trial_cost(trial: Mapping[str, Any]) -> float | None:
    cost = trial.get("cost")
    if isinstance(cost, Mapping):
        cost = cost.get("macs", next((v for v in cost.values() if isinstance(v, int | float)), None))
    return float(cost) if isinstance(cost, int | float) else None


def _first(value: Any) -> float | None:
    value = value[0] if isinstance(value, list | tuple) and value else value
    return float(value) if isinstance(value, int | float) else None


def _number_of(trial: Any) -> Any:
    return trial.get("number") if isinstance(trial, Mapping) else trial


def _known(value: float | None) -> float:
    assert value is not None
    return value


__all__ = ["cascade_chart", "pareto_chart", "search_chart"]
