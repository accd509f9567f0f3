"""What a class says about its attributes, for help that is written once."""

from __future__ import annotations

import inspect
import re

ENTRY = re.compile(r"^    (\w+): (.*)$")


def attribute_docs(cls: type) -> dict[str, str]:
    """Return the sentences of the sections "Attributes:" of a class and its bases, by attribute; the class itself wins.

    >>> class Base:
    ...     '''A base.
    ...
    ...     Attributes:
    ...         seed: Of everything random,
    ...             in it.
    ...     '''
    >>> attribute_docs(Base)
    {'seed': 'Of everything random, in it.'}
    """
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        _, _, section = inspect.cleandoc(base.__dict__.get("__doc__") or "").partition("Attributes:\n")
        name = ""
        for line in section.splitlines():
            if match := ENTRY.match(line):
                name = match[1]
                found[name] = match[2]
            elif name and line.startswith("     "):
                found[name] += f" {line.strip()}"
            elif line.strip():
                break
    return found
