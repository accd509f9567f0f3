"""Numbers as people read them: four digits at most, units, a real minus sign, a dash for what is unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NOTHING = "–"
MINUS = "\u2212"
THIN = "\u202f"


def percent(part: float | None, digits: int = 2) -> str:
    """Return a part of one as a percentage.

    >>> percent(0.98765), percent(None)
    ('98.77\u202f%', '–')
    """
    return NOTHING if part is None else f"{100 * part:.{digits}f}{THIN}%"


def points(delta: float | None) -> str:
    """Return a difference of two parts of one in percentage points, with its sign.

    >>> points(-0.0028), points(0.0)
    ('−0.28', '±0.00')
    """
    if delta is None:
        return NOTHING
    text = f"{abs(100 * delta):.2f}"
    return ("±" if float(text) == 0 else "+" if delta > 0 else MINUS) + text


def span(interval: Sequence[float] | None, digits: int = 1) -> str:
    """Return an interval of parts of one in percent.

    >>> span([0.9781, 0.9912])
    '97.8–99.1'
    """
    if not interval or len(interval) < 2 or None in interval:
        return ""
    return f"{100 * interval[0]:.{digits}f}–{100 * interval[1]:.{digits}f}"


def count(number: float | None) -> str:
    """Return a large count with three significant digits.

    >>> count(12_345_678), count(950), count(45_100)
    ('12.3\u202fM', '950', '45.1\u202fk')
    """
    if number is None:
        return NOTHING
    for factor, sign in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= factor:
            return f"{_digits(number / factor)}{THIN}{sign}"
    return f"{number:.0f}" if float(number).is_integer() else _digits(number)


def size(num_bytes: float | None) -> str:
    """Return a file size in decimal units.

    >>> size(1_234_567), size(900)
    ('1.23\u202fMB', '900\u202fB')
    """
    if num_bytes is None:
        return NOTHING
    for factor, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= factor:
            return f"{_digits(num_bytes / factor)}{THIN}{unit}"
    return f"{num_bytes:.0f}{THIN}B"


def milliseconds(value: float | None) -> str:
    """Return a latency with three significant digits.

    >>> milliseconds(0.12345), milliseconds(12.345)
    ('0.123', '12.3')
    """
    return NOTHING if value is None else _digits(value)


def seconds(value: float | None) -> str:
    """Return a duration.

    >>> seconds(3.21), seconds(75), seconds(3700)
    ('3.2 s', '1 min 15 s', '1 h 01 min')
    """
    if value is None:
        return NOTHING
    if value < 60:
        return f"{value:.1f} s"
    if value < 3600:
        return f"{value // 60:.0f} min {value % 60:02.0f} s"
    return f"{value // 3600:.0f} h {value % 3600 // 60:02.0f} min"


def ratio(value: Any) -> str:
    """Return how many times better, of a number or of {value, low, high}.

    >>> ratio(4.214), ratio({"value": 1.834, "low": 1.8, "high": 1.9})
    ('4.21×', '1.83×')
    """
    number = value.get("value") if isinstance(value, Mapping) else value
    return NOTHING if number is None else f"{_digits(number)}×"


def factor(value: float | None) -> str:
    """Return what the teacher's number is divided or multiplied by to get a model's, empty when unknown.

    >>> factor(4.19), factor(0.8), factor(None)
    ('÷ 4.19', '× 1.25', '')
    """
    if not value:
        return ""
    return f"÷ {_digits(value)}" if value >= 1 else f"× {_digits(1 / value)}"


def ratio_span(value: Any) -> str:
    """Return the interval of a ratio, empty when it has none.

    >>> ratio_span({"value": 1.834, "low": 1.8, "high": 1.9})
    '1.80–1.90'
    """
    if not isinstance(value, Mapping) or value.get("low") is None or value.get("high") is None:
        return ""
    return f"{_digits(value['low'])}–{_digits(value['high'])}"


def plain(value: Any) -> str:
    """Return any small value as text: numbers with four significant digits.

    >>> plain(0.123456), plain(True), plain([1, 2])
    ('0.1235', 'yes', '1, 2')
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return NOTHING
    if isinstance(value, int | float):
        return f"{value:.4g}".replace("-", MINUS, 1) if value < 0 else f"{value:.4g}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    return str(value)


def _digits(value: float) -> str:
    """Return three significant digits without an exponent; three decimals below one."""
    magnitude = abs(value)
    return f"{value:.{0 if magnitude >= 99.95 else 1 if magnitude >= 9.995 else 2 if magnitude >= 0.9995 else 3}f}"
