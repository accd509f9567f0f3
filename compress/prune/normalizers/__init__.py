"""Normalizers: make the scores of different groups comparable. Importing registers all of them."""

from compress.prune.normalizers import scale
from compress.prune.normalizers.family import NORMALIZERS

__all__ = ["NORMALIZERS", "scale"]
