"""Aim: how to hit from below a limit on something that can be foreseen roughly and measured exactly."""

from __future__ import annotations

#: What spends this part of its limits or more is close enough.
CLOSE = 0.95


def next_aim(tried: list[tuple[float, float]]) -> float:
    """Return the aim that should spend just below the limit, by the secant through the last two tries.

    Args:
        tried: (aim, part of the limit that was spent), at least one; the first step is in proportion.

    Half of the time is fixed, half follows the aim: the third try hits the middle of the close range.

    >>> tried = [(1.0, 1.2)]
    >>> tried.append((next_aim(tried), 0.6 + 0.6 * next_aim(tried)))
    >>> round(0.6 + 0.6 * next_aim(tried), 9)
    0.975
    """
    wanted = (1 + CLOSE) / 2
    aim, spent = tried[-1]
    if len(tried) > 1 and (spent - tried[-2][1]) * (aim - tried[-2][0]) > 0:
        following = aim + (wanted - spent) * (aim - tried[-2][0]) / (spent - tried[-2][1])
    else:
        following = aim * wanted / spent
    return min(4 * aim, max(aim / 4, following))
