"""Objectives: extra terms of the loss that read the network itself. Importing registers all of them."""

from compress.train.objectives import kurtosis
from compress.train.objectives.family import OBJECTIVES

__all__ = ["OBJECTIVES", "kurtosis"]
