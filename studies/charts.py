"""Figures of studies, in the style of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compress.studies.statistics import Estimate
from deploy.report.plot import Canvas, Frame, Scale, axes, color

ROW = 24.0


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One line of a chart of dots.

    Attributes:
        label: In front.
        kind: Colour and shape, one of the report's kinds.
        value: Where the dot stands.
        half: Half of its interval; None draws none.
        hollow: Values of earlier states, as hollow dots on the same line.
    """

    label: str
    kind: str
    value: float
    half: float | None = None
    hollow: tuple[float, ...] = ()

    @classmethod
    def percent(cls, label: str, kind: str, found: Estimate, hollow: tuple[float, ...] = ()) -> Dot:
        """Return the dot of shares, `found` and `hollow`, in percent.

        >>> Dot.percent("magnitude", "student", Estimate(mean=0.875, half=0.125, num=3))
        Dot(label='magnitude', kind='student', value=87.5, half=12.5, hollow=())
        """
        half = None if found.half is None else 100 * found.half
        before = tuple(100 * value for value in hollow)
        return cls(label=label, kind=kind, value=100 * found.mean, half=half, hollow=before)


def dots_chart(title: str, x_title: str, dots: Sequence[Dot], width: float = 720) -> str:
    """Return one dot with its interval a line, in the order given; "" without dots.

    An interval that is longer than all dots lie apart is cut off at the frame: two or three seeds make such intervals.
    """
    if not dots:
        return ""
    canvas = Canvas(width, ROW * len(dots) + 66, title)
    left = 16 + 6.6 * max(len(dot.label) for dot in dots)
    frame = Frame(left, 24, width - 24, 24 + ROW * len(dots))
    places = [value for dot in dots for value in (dot.value, *dot.hollow)]
    longest = max(places) - min(places) or max(dot.half or 0 for dot in dots)
    halves = [min(dot.half or 0, longest) for dot in dots]
    ends = places + [dot.value + side * half for dot, half in zip(dots, halves, strict=True) for side in (-1, 1)]
    room = 0.04 * (max(ends) - min(ends)) or 1.0
    x = Scale(min(ends) - room, max(ends) + room, frame.left, frame.right)
    canvas.text(4, 14, title, bold=True, fill="ink")
    for tick in x.ticks(8):
        canvas.line(x(tick), frame.top, x(tick), frame.bottom, "grid")
        canvas.text(x(tick), frame.bottom + 18, f"{tick:g}", anchor="middle")
    canvas.text(frame.right, frame.bottom + 36, x_title, anchor="end", bold=True)
    for index, dot in enumerate(dots):
        y = frame.top + ROW * (index + 0.5)
        canvas.text(frame.left - 8, y + 4, dot.label, anchor="end", fill="ink")
        for value in dot.hollow:
            canvas.marker(x(value), y, dot.kind, 4, f"{dot.label}: {value:.2f}", hollow=True)
        if dot.half:
            left_end, right_end = max(x.low, dot.value - dot.half), min(x.high, dot.value + dot.half)
            canvas.line(x(left_end), y, x(right_end), y, dot.kind, 2)
        canvas.marker(x(dot.value), y, dot.kind, 5.5, f"{dot.label}: {dot.value:.2f}")
    return canvas.svg()


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a chart of lines.

    Attributes:
        label: At its end.
        kind: Colour, one of the report's kinds.
        points: (x, y), x ascending.
        dash: "" or a pattern such as "5 4".
    """

    label: str
    kind: str
    points: tuple[tuple[float, float], ...]
    dash: str = ""


def lines_chart(title: str, x_title: str, y_title: str, lines: Sequence[Line], width: float = 720) -> str:
    """Return lines with dots, named at their right ends; "" without lines."""
    if not lines:
        return ""
    canvas = Canvas(width, 380, title)
    frame = Frame(52, 48, width - 24 - 6.6 * max(len(line.label) for line in lines), 336)
    xs, ys = ([point[axis] for line in lines for point in line.points] for axis in (0, 1))
    x = Scale(min(xs), max(xs), frame.left + 8, frame.right - 8)
    room = 0.06 * (max(ys) - min(ys)) or 1.0
    y = Scale(min(ys) - room, max(ys) + room, frame.bottom, frame.top)
    canvas.text(4, 14, title, bold=True, fill="ink")
    axes(canvas, frame, x, y, x_title=x_title, y_title="")
    canvas.text(4, 34, y_title, bold=True)
    taken: list[float] = []
    for line in lines:
        canvas.path([(x(a), y(b)) for a, b in line.points], line.kind, 2, line.dash)
        for a, b in line.points:
            canvas.marker(x(a), y(b), line.kind, 4, f"{line.label}: {a:g}, {b:.3g}")
    for line in sorted(lines, key=lambda line: y(line.points[-1][1])):
        place = y(line.points[-1][1]) + 4
        place = max(place, taken[-1] + 14) if taken else place
        taken.append(place)
        canvas.text(frame.right + 8, place, line.label, fill=line.kind, bold=True)
    return canvas.svg()


def scatter_chart(
    title: str, x_title: str, y_title: str, points: Mapping[str, tuple[str, Sequence[tuple[float, float]]]]
) -> str:
    """Return points around the line where both axes are equal.

    Args:
        title: Above.
        x_title: Of the horizontal axis, from 0.
        y_title: Of the vertical axis, from 0 on the same scale.
        points: By name: one of the report's kinds, and (x, y).
    """
    most = 1.05 * max(max(pair) for _, pairs in points.values() for pair in pairs)
    canvas = Canvas(520, 500, title)
    frame = Frame(52, 62, 496, 456)
    x, y = Scale(0, most, frame.left, frame.right), Scale(0, most, frame.bottom, frame.top)
    canvas.text(4, 14, title, bold=True, fill="ink")
    axes(canvas, frame, x, y, x_title=x_title, y_title="")
    canvas.text(4, 52, y_title, bold=True)
    canvas.line(x(0), y(0), x(most), y(most), "grid")
    place = 4.0
    for name, (kind, pairs) in points.items():
        canvas.marker(place + 5, 28, kind, 4, name)
        canvas.text(place + 14, 32, name, fill="ink")
        place += 34 + 6.6 * len(name)
        for a, b in pairs:
            canvas.marker(x(a), y(b), kind, 4, f"{name}: {a:.3g}, {b:.3g}")
    return canvas.svg()


def heat_chart(title: str, names: Sequence[str], values: Sequence[Sequence[float | None]]) -> str:
    """Return a square of numbers in [-1, 1], the higher the bluer; empty where there is none."""
    longest = max(len(name) for name in names)
    left, size = 16 + 6.8 * longest, max(66.0, 14 + 6.2 * longest)
    side = size * len(names)
    canvas = Canvas(max(left + side, 8.0 * len(title)) + 12, 34 + side + 26, title)
    canvas.text(4, 14, title, bold=True, fill="ink")
    for row, name in enumerate(names):
        canvas.text(left - 8, 34 + size * (row + 0.5) + 4, name, anchor="end", fill="ink")
        canvas.text(left + size * (row + 0.5), 34 + side + 18, name, anchor="middle", fill="ink", px=11)
        for column in range(len(names)):
            value = values[row][column]
            x, y = left + size * column, 34 + size * row
            part = 0.0 if value is None else max(0.0, value)
            style = f'style="fill:{color("student")};fill-opacity:{0.85 * part:.2f};stroke:{color("grid")}"'
            canvas.parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" width="{size:g}" height="{size:g}" {style}/>')
            if value is not None:
                fill = "surface" if part > 0.6 else "ink"
                canvas.text(x + size / 2, y + size / 2 + 4, f"{value:.2f}", anchor="middle", fill=fill, bold=True)
    return canvas.svg()
