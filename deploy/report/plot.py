"""Just enough of a plotting library: scales with round ticks and SVG elements, coloured by CSS variables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

#: Name -> colour on white. The page overrides the variables for dark screens. Okabe and Ito's palette.
COLORS = {
    "teacher": "#4d4d4d",
    "student": "#0072b2",
    "int8": "#d55e00",
    "cascade": "#009e73",
    "muted": "#6b7280",
    "grid": "#e2e5ea",
    "ink": "#1c2128",
    "surface": "#ffffff",
}


def color(name: str) -> str:
    """Return a CSS colour that a page may override and a bare SVG file understands."""
    return f"var(--{name}, {COLORS[name]})"


@dataclass(frozen=True)
class Scale:
    """Maps numbers between `low` and `high` to pixels between `start` and `end`, linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    is_log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a number."""
        low, high, at = (math.log(v) if self.is_log else v for v in (self.low, self.high, value))
        return self.start + (at - low) / ((high - low) or 1) * (self.end - self.start)

    def ticks(self, most: int = 6) -> list[float]:
        """Return round numbers inside the range, at most about `most`."""
        return _log_ticks(self.low, self.high) if self.is_log else round_ticks(self.low, self.high, most)


def round_ticks(low: float, high: float, most: int) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten inside [low, high].

    >>> round_ticks(0, 10, 6)
    [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    """
    raw = (high - low) / max(1, most - 1) or 1.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    return [tick for tick in ticks if low <= tick * 1.0001 and tick <= high * 1.0001]


@dataclass
class Canvas:
    """An SVG in the making.

    Attributes:
        width: In pixels, as seen at 100 %.
        height: In pixels.
        title: Read by screen readers.
    """

    width: float
    height: float
    title: str
    parts: list[str] = field(default_factory=list)

    def line(self, x1: float, y1: float, x2: float, y2: float, stroke: str, width: float = 1, dash: str = "") -> None:
        """Draw a line."""
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        where = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
        self.parts.append(f'<line {where} style="stroke:{color(stroke)}" stroke-width="{width}"{dashed}/>')

    def path(self, dots: Sequence[tuple[float, float]], stroke: str, width: float = 2, dash: str = "") -> None:
        """Draw straight lines from dot to dot."""
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        d = "M" + " L".join(f"{x:.1f} {y:.1f}" for x, y in dots)
        style = f'style="stroke:{color(stroke)};fill:none" stroke-width="{width}" stroke-linejoin="round"'
        self.parts.append(f'<path d="{d}" {style}{dashed}/>')

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        anchor: str = "start",
        fill: str = "muted",
        px: float = 12,
        bold: bool = False,
    ) -> None:
        """Write a line of text whose baseline is at y."""
        weight = ' font-weight="600"' if bold else ""
        style = f'style="fill:{color(fill)}" font-size="{px}" text-anchor="{anchor}"{weight}'
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text)}</text>')

    def marker(self, x: float, y: float, kind: str, radius: float, tip: str, *, hollow: bool = False) -> None:
        """Draw the shape of a kind of model: square, circle, diamond or triangle; `tip` shows on hover."""
        shape = _shape(kind, x, y, radius)
        fill, edge = (color("surface"), color(kind)) if hollow else (color(kind), color("surface"))
        style = f'style="fill:{fill};stroke:{edge}" stroke-width="1.5"'
        self.parts.append(f"<g {style}>{shape}<title>{escape(tip)}</title></g>")

    def svg(self) -> str:
        """Return the finished picture."""
        box = f'viewBox="0 0 {self.width:g} {self.height:g}" width="{self.width:g}" height="{self.height:g}"'
        head = f'<svg xmlns="http://www.w3.org/2000/svg" {box} role="img" font-family="system-ui, sans-serif">'
        return f"{head}<title>{escape(self.title)}</title>{''.join(self.parts)}</svg>"


def _shape(kind: str, x: float, y: float, r: float) -> str:
    if kind == "teacher":
        return f'<rect x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r:g}" height="{2 * r:g}" rx="1.5"/>'
    if kind == "int8":
        r *= 1.3
        return f'<path d="M{x:.1f} {y - r:.1f} L{x + r:.1f} {y:.1f} L{x:.1f} {y + r:.1f} L{x - r:.1f} {y:.1f}Z"/>'
    if kind == "cascade":
        r *= 1.2
        return f'<path d="M{x:.1f} {y - r:.1f} L{x + r:.1f} {y + 0.85 * r:.1f} L{x - r:.1f} {y + 0.85 * r:.1f}Z"/>'
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:g}"/>'


@dataclass(frozen=True)
class Frame:
    """Where the plot lies inside the picture."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def inside(
        cls, canvas: Canvas, *, left: float = 56, top: float = 30, right: float = 18, bottom: float = 44
    ) -> Frame:
        """Return the canvas minus its margins."""
        return cls(left, top, canvas.width - right, canvas.height - bottom)


def axes(canvas: Canvas, frame: Frame, x: Scale, y: Scale, *, x_title: str, y_title: str, y_unit: str = "") -> None:
    """Draw grid, ticks and titles; the vertical title stands on top, where it can be read."""
    is_narrow = canvas.width < 500
    for tick in y.ticks(5 if is_narrow else 7):
        canvas.line(frame.left, y(tick), frame.right, y(tick), "grid")
        canvas.text(frame.left - 8, y(tick) + 4, f"{tick:g}{y_unit}", anchor="end")
    for tick in x.ticks(5 if is_narrow else 9):
        canvas.line(x(tick), frame.bottom, x(tick), frame.bottom + 5, "muted")
        canvas.text(x(tick), frame.bottom + 19, f"{tick:g}", anchor="middle")
    canvas.line(frame.left, frame.bottom, frame.right, frame.bottom, "muted")
    canvas.text(4, 14, y_title, bold=True)
    canvas.text(frame.right, frame.bottom + 37, x_title, anchor="end", bold=True)


#: Where a label may stand: steps right and down from the dot, and which part of the text is put there.
NEARBY = (
    (10, -8, 0.0),
    (-10, -8, 1.0),
    (10, 18, 0.0),
    (-10, 18, 1.0),
    (11, 4, 0.0),
    (-11, 4, 1.0),
    (0, -13, 0.5),
    (0, 22, 0.5),
)


@dataclass
class Labels:
    """Places texts next to dots so that they cover neither each other nor the dots."""

    frame: Frame
    boxes: list[tuple[float, float, float, float]] = field(default_factory=list)

    def block(
        self, x: float, y: float, radius: float, *, top: float | None = None, bottom: float | None = None
    ) -> None:
        """Keep labels away from a dot, or from a bar between `top` and `bottom`."""
        ends = (top if top is not None else y - radius, bottom if bottom is not None else y + radius)
        self.boxes.append((x - radius, ends[0], x + radius, ends[1]))

    def place(self, canvas: Canvas, x: float, y: float, text: str, fill: str, px: float = 12) -> None:
        """Write `text` near (x, y) where there is room; leave it out where there is none."""
        if (found := self.find(x, y, 0.6 * px * len(text), px)) is not None:
            canvas.text(*found, text, fill=fill, px=px, bold=True)

    def find(self, x: float, y: float, width: float, px: float) -> tuple[float, float] | None:
        """Return where a text of that width and letter size may begin, on its baseline, and keep the place."""
        for dx, dy, anchor in NEARBY:
            left, base = x + dx - anchor * width, y + dy
            box = (left, base - px, left + width, base + 3)
            is_inside = self.frame.left <= box[0] and box[2] <= self.frame.right + 14
            is_inside = is_inside and self.frame.top - 10 <= box[1] and box[3] < self.frame.bottom
            if is_inside and not any(_overlap(box, other) for other in self.boxes):
                self.boxes.append(box)
                return left, base
        return None


def _overlap(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
