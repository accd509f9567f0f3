"""Pictures as files: SVG for a stage's MLflow run, PNG of the main figure for the README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.report.charts import cascade_chart, pareto_chart, search_chart
from deploy.report.curves import robustness_chart, training_chart
from deploy.report.data import KIND_NAMES, Point, ReportData, latency_title, pareto_front
from deploy.report.plot import COLORS, Canvas, Frame, Labels
from deploy.report.sensitivity_charts import sensitivity_chart, threshold_chart

MARKERS = {"teacher": "s", "student": "o", "int8": "D", "cascade": "^"}


def figures_of(report: Mapping[str, Any]) -> dict[str, str]:
    """Return what can be drawn of one stage's report, SVG by name; nothing for a report without such parts."""
    from deploy.report.gather import points_of

    measured = points_of(report)
    keys = sorted({key for point in measured for key in point.numbers.get("latency_ms") or {}})
    found = {f"pareto-{key.replace('/', '-')}": pareto_chart(measured, key, 800, 420) for key in keys}
    found["search"] = search_chart(report)
    found["cascade"] = cascade_chart(report)
    found["kept"] = kept_chart(report.get("kept") or {})
    found["training"] = training_chart(report.get("history") or [])
    found["sensitivity"] = sensitivity_chart(report.get("curves") or [])
    found["threshold"] = threshold_chart(report.get("sorted_scores") or {})
    found["robustness"] = robustness_chart(report.get("robustness") or [])
    return {name: svg for name, svg in found.items() if svg}


def kept_chart(kept: Mapping[str, Sequence[int]], width: float = 640) -> str:
    """Return bars of how many channels each group kept; "" without groups."""
    if not kept:
        return ""
    row, left = 20, 0.36 * width
    canvas = Canvas(width, row * len(kept) + 16, "Channels kept per group")
    room = width - left - 90
    for index, (name, (left_over, of)) in enumerate(kept.items()):
        y = 8 + row * index + 10
        canvas.text(left - 8, y + 4, name if len(name) <= 32 else f"…{name[-31:]}", anchor="end", px=11)
        canvas.line(left, y, left + room, y, "grid", 12)
        canvas.line(left, y, left + room * left_over / max(1, of), y, "student", 12)
        canvas.text(left + room + 8, y + 4, f"{left_over} of {of}", px=11, fill="ink")
    return canvas.svg()


def pareto_png(data: ReportData, path: Path, key: str = "") -> bool:
    """Draw accuracy against latency into a PNG file and return whether there was anything to draw.

    Args:
        data: What was measured.
        path: The file to write.
        key: Which latency; default: the first of `data.latency_keys`.
    """
    key = key or (data.latency_keys[0] if data.latency_keys else "")
    drawn = [point for point in data.points if point.accuracy is not None and point.latency_ms(key) is not None]
    if not drawn:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.4, 4.4), dpi=160, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    plot = figure.subplots()
    dots = [(float(point.latency_ms(key) or 0), 100 * float(point.accuracy or 0)) for point in drawn]
    front = [dots[index] for index in pareto_front(dots)]
    plot.step(*zip(*front, strict=True), where="post", color=COLORS["muted"], linestyle=(0, (5, 4)), linewidth=1.2)
    for point, (ms, part) in zip(drawn, dots, strict=True):
        _draw(plot, point, ms, part)
    _dress(plot, data, key, max(ms for ms, _ in dots), min(ms for ms, _ in dots))
    _name(figure, plot, list(zip(drawn, dots, strict=True)))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    return True


def _draw(plot: Any, point: Point, ms: float, part: float) -> None:
    low, high = [100 * end for end in point.interval] if point.interval else [part, part]
    style = {"color": COLORS[point.kind], "markersize": 8, "capsize": 3, "linewidth": 1.2}
    name = KIND_NAMES[point.kind] if point.budget else "_hidden"
    known = plot.get_legend_handles_labels()[1]
    errors = [[part - low], [high - part]]
    plot.errorbar([ms], [part], yerr=errors, fmt=MARKERS[point.kind], label="_" if name in known else name, **style)


def _name(figure: Any, plot: Any, found: Sequence[tuple[Point, tuple[float, float]]]) -> None:
    """Write each model's name where it covers nothing; with several budgets a legend tells the kinds."""
    if any(point.budget for point, _ in found):
        plot.legend(loc="lower right", frameon=False, fontsize=9)
    figure.canvas.draw()
    per_point = figure.dpi / 72
    height = figure.bbox.height / per_point
    box = plot.get_window_extent()
    labels = Labels(Frame(box.x0 / per_point, height - box.y1 / per_point, box.x1 / per_point, height))

    def seen(ms: float, part: float) -> tuple[float, float]:
        x, y = plot.transData.transform((ms, part)) / per_point
        return float(x), height - float(y)

    for point, dot in found:
        labels.block(*seen(*dot), 5)
        if point.interval:
            low, high = (seen(dot[0], 100 * end)[1] for end in point.interval)
            labels.block(*seen(*dot), 2, top=high, bottom=low)
    for point, dot in found:
        spots = [seen(*dot), *(seen(dot[0], 100 * end) for end in point.interval or ())]
        places = (labels.find(*spot, 6.8 * len(point.short), 10) for spot in spots)
        if (place := next((one for one in places if one is not None), None)) is not None:
            where = plot.transData.inverted().transform((place[0] * per_point, (height - place[1]) * per_point))
            plot.text(*where, point.short, color=COLORS[point.kind], fontsize=10, fontweight="bold")


def _dress(plot: Any, data: ReportData, key: str, slowest: float, fastest: float) -> None:
    if fastest > 0 and slowest / fastest > 12:
        plot.set_xscale("log")
    else:
        plot.set_xlim(0, slowest * 1.15)
    plot.set_xlabel(f"median latency of one batch, ms ({latency_title(key)}, measured)")
    plot.set_ylabel("test accuracy, % (95 % intervals)")
    plot.set_title(data.title, loc="left", fontsize=12, fontweight="bold")
    plot.grid(axis="y", color=COLORS["grid"])
    plot.set_axisbelow(True)
    for side in ("top", "right"):
        plot.spines[side].set_visible(False)
