"""Conversions: dense convolutions to something cheaper. Importing registers all of them."""

from compress.prune.conversions import decoupled, depthwise, grouped, low_rank, none, separable, twins
from compress.prune.conversions.family import CONVERSIONS, Converted, Merged, NotConvertible, Site

__all__ = [
    "CONVERSIONS",
    "Converted",
    "Merged",
    "NotConvertible",
    "Site",
    "decoupled",
    "depthwise",
    "grouped",
    "low_rank",
    "none",
    "separable",
    "twins",
]
