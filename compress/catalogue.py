"""Imports every module that registers pieces, and the plugins that other packages announce."""

from __future__ import annotations

import importlib.util
import pkgutil
from functools import cache
from importlib import metadata

PACKAGES = (
    "compress.data",
    "compress.models",
    "compress.blocks",
    "compress.measure",
    "compress.graph",
    "compress.train",
    "compress.prune",
    "compress.search",
    "compress.distill",
    "compress.quantize",
    "compress.cascade",
    "compress.stages",
)
PLUGINS = "secateur.plugins"


@cache
def load() -> None:
    """Register every piece and stage: the library's own, then those of installed plugins.

    A plugin is a module named by an entry point of the group `secateur.plugins`; importing it
    registers its pieces. `deploy` is one.
    """
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            continue
        module = importlib.import_module(package)
        for found in pkgutil.walk_packages(module.__path__, f"{package}."):
            importlib.import_module(found.name)
    for point in sorted(metadata.entry_points(group=PLUGINS), key=lambda point: point.name):
        point.load()
