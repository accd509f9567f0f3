"""Schedules: when how much is cut. Importing registers all of them."""

from compress.prune.schedules import expectation_maximization, one_shot, progressive, soft
from compress.prune.schedules.family import SCHEDULES, Choice
from compress.prune.schedules.zeroing import zeroed

__all__ = ["SCHEDULES", "Choice", "expectation_maximization", "one_shot", "progressive", "soft", "zeroed"]
