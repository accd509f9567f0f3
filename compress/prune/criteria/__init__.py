"""Criteria: what a channel is worth. Importing registers all of them."""

from compress.prune.criteria import chance, magnitude, taylor
from compress.prune.criteria.family import CRITERIA

__all__ = ["CRITERIA", "chance", "magnitude", "taylor"]
