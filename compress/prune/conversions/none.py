"""The conversion that converts nothing."""

from __future__ import annotations

from compress.prune.conversions.family import CONVERSIONS, Converted, Site, same


@CONVERSIONS.register("none", is_no_op=True)
def none(site: Site) -> Converted:
    """Leave every convolution as it is.

    W' = W.

    Args:
        site: The convolution.

    Returns:
        The layer itself, kept energy 1.

    Differs from the paper: no paper.

    Cost: none.

    Reference: none needed; it is the default of the stage `prune`.

    >>> from torch import nn
    >>> none(Site.of(nn.Conv2d(4, 4, 3))).is_change
    False
    """
    return same(site)
