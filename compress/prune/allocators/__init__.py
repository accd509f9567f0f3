"""Allocators: how much each layer loses. Importing registers all of them."""

from compress.prune.allocators import (
    compound,
    genetic,
    isomorphic,
    latency_knapsack,
    measured_greedy,
    ranked,
    sensitivity,
    threshold_line,
    uniform,
    worth_per_cost,
)
from compress.prune.allocators.family import ALLOCATORS

__all__ = [
    "ALLOCATORS",
    "compound",
    "genetic",
    "isomorphic",
    "latency_knapsack",
    "measured_greedy",
    "ranked",
    "sensitivity",
    "threshold_line",
    "uniform",
    "worth_per_cost",
]
