"""Allocators: how much each layer loses. Importing registers all of them."""

from compress.prune.allocators import ranked, uniform
from compress.prune.allocators.family import ALLOCATORS

__all__ = ["ALLOCATORS", "ranked", "uniform"]
