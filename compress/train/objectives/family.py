"""The family of objectives."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from compress.core.registry import Family

#: (module, taps) -> scalar that is added to the loss. `taps` holds activations by path, for pieces that need them.
OBJECTIVES: Family[Callable[..., Tensor]] = Family("objective", data=("module", "taps"))
