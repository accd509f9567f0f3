"""Pictures of what pruning looked at: accuracy with one group cut, and the line through the sorted scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deploy.report.formats import count, percent, plain
from deploy.report.plot import Canvas, Frame, Scale, axes

ROW = 18.0
#: Longest name that has room in front of a row.
LETTERS = 32


def sensitivity_chart(curves: Sequence[Mapping[str, Any]], width: float = 760) -> str:
    """Return a row for each group and block: accuracy when it alone is cut, a smaller dot for a deeper cut.

    Args:
        curves: group, kind, kept, ratios, accuracies, losses, macs; the first of each column is the whole network.
        width: Of the picture in pixels.
    """
    known = [curve for curve in curves if len(curve.get("accuracies") or []) > 1]
    if not known:
        return ""
    canvas = Canvas(width, ROW * len(known) + 90, "Validation accuracy with one group cut")
    frame = Frame.inside(canvas, left=0.34 * width)
    parts = [100 * part for curve in known for part in curve["accuracies"]]
    room = 0.03 * (max(parts) - min(parts)) or 1.0
    x = Scale(max(0.0, min(parts) - room), min(100.0, max(parts) + room), frame.left, frame.right)
    for tick in x.ticks(7):
        canvas.line(x(tick), frame.top, x(tick), frame.bottom, "grid")
        canvas.text(x(tick), frame.bottom + 19, f"{tick:g}", anchor="middle")
    canvas.text(frame.right, frame.bottom + 37, "validation accuracy, %", anchor="end", bold=True)
    canvas.text(4, 14, "one group or block cut, batch norm recalibrated", bold=True)
    whole = x(100 * known[0]["accuracies"][0])
    canvas.line(whole, frame.top, whole, frame.bottom, "teacher", 1.2, "5 4")
    for index, curve in enumerate(known):
        _row(canvas, curve, frame, x, frame.top + ROW * (index + 0.5))
    return canvas.svg()


def _row(canvas: Canvas, curve: Mapping[str, Any], frame: Frame, x: Scale, y: float) -> None:
    name, kind = str(curve["group"]), "int8" if curve.get("kind") == "block" else "student"
    canvas.text(frame.left - 8, y + 4, name if len(name) <= LETTERS else f"…{name[1 - LETTERS :]}", anchor="end", px=11)
    parts = [100 * part for part in curve["accuracies"]]
    canvas.line(x(min(parts)), y, x(max(parts)), y, "grid", 3)
    for place in range(1, len(parts)):
        saved = f"{count(curve['macs'][place])} MACs, loss {plain(curve['losses'][place])}"
        tip = f"{name}: {curve['kept'][place]} of {curve['kept'][0]} kept, {percent(parts[place] / 100)}, {saved}"
        radius = 4.0 if kind == "int8" else 2.5 + 3.5 * curve["ratios"][place]
        canvas.marker(x(parts[place]), y, kind, radius, tip)


def threshold_chart(picture: Mapping[str, Any], width: float = 640, height: float = 340) -> str:
    """Return the sorted scores of every group and the line that cuts them; what went is drawn thin.

    Args:
        picture: "line" and "groups" (group, curve, kept, knee), as the allocator's picture has them.
        width: Of the picture in pixels.
        height: Of the picture in pixels.
    """
    groups = [row for row in picture.get("groups") or [] if len(row["curve"]) > 1]
    if not groups:
        return ""
    canvas = Canvas(width, height, "Sorted scores and the line through them")
    frame = Frame.inside(canvas, top=34)
    x, y = Scale(0, 100, frame.left, frame.right), Scale(0, 1, frame.bottom, frame.top)
    axes(canvas, frame, x, y, x_title="channels of the group, %, best first", y_title="score ÷ the group's highest")
    for row in groups:
        curve, last = row["curve"], max(1, len(row["curve"]) - 1)
        dots = [(x(100 * place / last), y(height)) for place, height in enumerate(curve)]
        canvas.path(dots, "muted", 0.8)
        if row["kept"] > 1:
            canvas.path(dots[: row["kept"]], "student", 1.4)
        tip = f"{row['group']}: {row['kept']} of {len(curve)} kept, knee at {row['knee']}"
        at_x, at_y = dots[max(0, row["kept"] - 1)]
        canvas.marker(at_x, at_y, "student", 3, tip)
    canvas.line(frame.left, y(picture["line"]), frame.right, y(picture["line"]), "int8", 1.5, "5 4")
    canvas.text(frame.right, y(picture["line"]) + 15, f"line at {plain(picture['line'])}", anchor="end", fill="int8")
    return canvas.svg()
