"""One coefficient for all groups: kept part r_g = exp(-φ e_g), where e_g says how willingly group g gives channels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

from torch import Tensor

from compress.prune.allocators.family import CostOf, Masks, Widths, best, raised


def levels_of(widths: Mapping[str, Widths], exponents: Mapping[str, float]) -> dict[str, list[float]]:
    """Return, for `raised`, the coefficient φ below which each group gets each allowed number.

    A number is reached half-way from the one before, so kept parts are rounded to the nearest allowed number.

    Args:
        widths: Allowed numbers by group.
        exponents: e_g > 0 by group.

    >>> own = Widths(4, min_kept_ratio=0.0, round_to=2)  # 2 or 4 channels, divided at 3
    >>> [[round(level, 3) for level in levels] for levels in levels_of({"a": own}, {"a": 0.5}).values()]
    [[0.575]]
    """
    return {
        name: [
            math.log(2 * own.counts[-1] / (below + count)) / exponents[name] for below, count in pairwise(own.counts)
        ]
        for name, own in widths.items()
    }


class Anchor:
    """Where ratios are judged: at one cost whatever the limit is, so that results for different limits are nested."""

    def __init__(
        self, scores: Mapping[str, Tensor], widths: Mapping[str, Widths], cost: CostOf, *, part: float
    ) -> None:
        """Put it at `part` of the whole cost, or half-way to what is reachable when that is more."""
        if not 0 < part < 1:
            raise ValueError(f"anchor={part!r}: the part of the whole cost at which cuts are compared lies in (0, 1).")
        self._scores, self._widths, self._cost = scores, widths, cost
        self.whole_cost = cost({name: best(score_C, len(score_C)) for name, score_C in scores.items()})
        smallest = cost({name: best(score_C, widths[name].counts[0]) for name, score_C in scores.items()})
        aim = part * self.whole_cost
        self.limit = aim if aim > smallest else (smallest + self.whole_cost) / 2

    def masks(self, exponents: Mapping[str, float]) -> Masks:
        """Return the masks for exponents by group, with the coefficient that spends the anchor's cost."""
        return raised(self._scores, self._widths, levels_of(self._widths, exponents), self._cost, self.limit)
