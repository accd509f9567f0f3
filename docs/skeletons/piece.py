"""NAME: what it is for, in one line."""

from __future__ import annotations

from torch import Tensor

from compress.prune.criteria.family import CRITERIA


@CRITERIA.register("NAME", paper="First author, year", needs=("weight",), idea="C9", study="0001")
def NAME(group: object, *, option: float = 1.0) -> Tensor:
    """Say in one sentence what a high score means.

    score_c = the formula

    Args:
        group: What of it is read, with shapes.
        option: What it does, its range and unit.

    Returns:
        scores_C, at least 0; higher means keep.

    Differs from the paper: no difference.

    Cost: one pass over the weights.

    Reference: paper, equation.

    >>> 1 + 1
    2
    """
    raise NotImplementedError
