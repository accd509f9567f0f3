"""The family of compensations."""

from __future__ import annotations

from collections.abc import Callable

from compress.core.registry import Family
from compress.graph.absorption import Mix

#: (moments as one layer reads the channels, mask_C of those that stay) -> Mix. `needs` is ("moment",), or empty for
#: one that looks at nothing and so costs no pass over the data.
COMPENSATIONS: Family[Callable[..., Mix]] = Family("compensation", data=("moments", "kept_C"))
