"""Pictures of what training did: loss and accuracy by epoch, and accuracy with weights of few bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deploy.report.formats import percent, plain
from deploy.report.plot import Canvas, Frame, Scale, axes

Row = Mapping[str, Any]


def training_chart(history: Sequence[Row], width: float = 640) -> str:
    """Return validation accuracy above training loss, by epoch; "" where fewer than two epochs are known.

    Args:
        history: One row an epoch: epoch, train_loss, validation_accuracy (None when it was not looked at).
        width: Of the picture in pixels.
    """
    accuracies = [
        (float(row["epoch"]), 100 * row["validation_accuracy"]) for row in _with(history, "validation_accuracy")
    ]
    losses = [(float(row["epoch"]), float(row["train_loss"])) for row in _with(history, "train_loss")]
    panels = [
        ("validation accuracy, %", "student", accuracies, 100.0),
        ("training loss", "int8", losses, float("inf")),
    ]
    panels = [panel for panel in panels if len(panel[2]) > 1]
    if not panels:
        return ""
    room = 210.0
    canvas = Canvas(width, room * len(panels), "Training by epoch")
    for index, (name, kind, dots, most) in enumerate(panels):
        frame = Frame(56, room * index + 30, width - 18, room * (index + 1) - 44)
        canvas.text(4, room * index + 14, name, bold=True)
        _curve(canvas, frame, dots, kind, most)
    return canvas.svg()


def robustness_chart(rows: Sequence[Row], width: float = 520, height: float = 280) -> str:
    """Return validation accuracy by bits of the weights, before (square) and after (circle) a fine-tuning.

    Args:
        rows: bits, before and after, the last two in [0, 1].
        width: Of the picture in pixels.
        height: Of the picture in pixels.
    """
    known = sorted((row for row in rows if None not in (row["before"], row["after"])), key=lambda row: row["bits"])
    if not known:
        return ""
    canvas = Canvas(width, height, "Validation accuracy with weights of few bits")
    frame = Frame.inside(canvas, top=50)
    parts = [100 * row[when] for row in known for when in ("before", "after")]
    x = Scale(known[0]["bits"] - 0.5, known[-1]["bits"] + 0.5, frame.left, frame.right)
    y = Scale(max(0.0, min(parts) - 2), min(100.0, max(parts) + 2), frame.bottom, frame.top)
    axes(canvas, frame, x, y, x_title="bits of a weight", y_title="validation accuracy, %")
    for index, (when, kind) in enumerate((("before", "teacher"), ("after", "student"))):
        canvas.path([(x(row["bits"]), y(100 * row[when])) for row in known], kind)
        for row in known:
            tip = f"{plain(row['bits'])} bits, {when}: {percent(row[when])}"
            canvas.marker(x(row["bits"]), y(100 * row[when]), kind, 5, tip)
        canvas.text(frame.left + 105 * index, 34, f"{when} tuning", fill=kind, px=11, bold=True)
    return canvas.svg()


def _curve(canvas: Canvas, frame: Frame, dots: Sequence[tuple[float, float]], kind: str, most: float) -> None:
    """Draw one panel; its title already stands above it."""
    values = [value for _, value in dots]
    room = (max(values) - min(values)) * 0.1 or 1.0
    x = Scale(dots[0][0], dots[-1][0], frame.left, frame.right)
    y = Scale(min(values) - room, min(max(values) + room, most), frame.bottom, frame.top)
    axes(canvas, frame, x, y, x_title="epoch", y_title="")
    canvas.path([(x(epoch), y(value)) for epoch, value in dots], kind)
    for epoch, value in dots if len(dots) <= 60 else ():
        canvas.marker(x(epoch), y(value), kind, 3, f"epoch {plain(epoch)}: {plain(value)}")


def _with(history: Sequence[Row], key: str) -> list[Row]:
    return [row for row in history if row.get(key) is not None]
