"""Measures: what a model costs, each number with its unit. Importing registers all of them."""

from compress.measure import latency, memory
from compress.measure.costs import cost_of
from compress.measure.measures import MEASURES
from compress.measure.paired import PairedLatency, Ratio, paired_latency
from compress.measure.runtimes import RUNTIMES, Session, paired_sessions

__all__ = [
    "MEASURES",
    "RUNTIMES",
    "PairedLatency",
    "Ratio",
    "Session",
    "cost_of",
    "latency",
    "memory",
    "paired_latency",
    "paired_sessions",
]
