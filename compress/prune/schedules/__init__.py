"""Schedules: when how much is cut. Importing registers all of them."""

from compress.prune.schedules import one_shot, progressive
from compress.prune.schedules.family import SCHEDULES

__all__ = ["SCHEDULES", "one_shot", "progressive"]
