"""Compensations: what the kept channels take over from the removed ones. Importing registers all of them."""

from compress.prune.compensations import bias_absorption, least_squares, none, twin
from compress.prune.compensations.family import COMPENSATIONS

__all__ = ["COMPENSATIONS", "bias_absorption", "least_squares", "none", "twin"]
