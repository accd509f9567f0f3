"""The family of normalizers."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from compress.core.registry import Family

#: (scores_C) -> scores_C of one group, in the same order.
NORMALIZERS: Family[Callable[..., Tensor]] = Family("normalizer", data=("scores_C",))
