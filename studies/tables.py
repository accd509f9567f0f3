"""Tables of studies in Markdown: one line a name, numbers as mean and 95 % interval over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from compress.studies import Table
from compress.studies.statistics import comparison, estimate

BATCHES = ("onnxruntime, batch 1", "onnxruntime, batch 64")
NOTHING = "–"
#: A speed-up whose 95 % interval spans a larger factor says more of the machine's other work than of the network.
SPREAD_MAX = 1.5


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column is text and whose others are numbers.

    >>> print(markdown(("", "n"), [("a", "1")]))
    |  | n |
    |---|---:|
    | a | 1 |
    """
    rule = f"|---|{'---:|' * (len(head) - 1)}"
    return "\n".join([f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(line)} |" for line in lines)])


def caption(table: Table) -> str:
    """Return what a table of accuracies holds, and of how many images."""
    limits = {int(row.cell.settings.get("test_limit", 0)) for row in table.rows}
    images = " and ".join("all images" if not limit else f"{limit:,} images" for limit in sorted(limits))
    return f"Test accuracy in % (of {images}), mean ± 95 % interval over seeds."


def percent(table: Table, name: str, path: str) -> str:
    """Return a part of one in %, with its interval."""
    values = list(table.values(name, path).values())
    return estimate(values).text(scale=100) if values else NOTHING


def factor(table: Table, name: str, path: str) -> str:
    """Return the mean of some ratios, as "2.10×"."""
    values = list(table.values(name, path).values())
    return f"{fmean(values):.2f}×" if values else NOTHING


def speeds(table: Table, name: str) -> tuple[str, ...]:
    """Return how many times faster in ONNX Runtime, at batch 1 and 64; nothing where nobody knows."""
    return tuple(_sure(table, name, f"faster.{batch}") for batch in BATCHES)


def _sure(table: Table, name: str, path: str) -> str:
    """Return the mean of the ratios that are known within `SPREAD_MAX`."""
    found = {part: table.values(name, f"{path}.{part}") for part in ("value", "low", "high")}
    known = [value for seed, value in found["value"].items()
             if found["high"][seed] <= SPREAD_MAX * found["low"][seed]]  # fmt: skip
    return f"{fmean(known):.2f}×" if known else NOTHING


def against(
    table: Table, baseline: str, names: Sequence[str], *, path: str = "test.tuned", where: str = ""
) -> dict[str, str]:
    """Return, by name, the sentence that compares it with `baseline`; names without a common seed are left out."""
    base = table.values(baseline, path)
    found: dict[str, str] = {}
    for name in names:
        own = table.values(name, path)
        if name != baseline and set(own) & set(base):
            found[name] = comparison(spoken(name), own, spoken(baseline), base, where=where)
    return found


def spoken(name: str) -> str:
    """Return the name of a cell as it stands in a sentence: without what says which budget it is of.

    >>> spoken("tp_taylor"), spoken("soft=157"), spoken("expectation_maximization=157")
    ("Torch-Pruning's taylor", 'soft', 'expectation maximization')
    """
    plain = name.partition("=")[0]
    if plain.startswith("tp_"):
        plain = f"Torch-Pruning's {plain.removeprefix('tp_')}"
    return plain.replace("_", " ")


def by_mean(values: Mapping[str, Mapping[int, float]]) -> list[str]:
    """Return the names, highest mean first; names without values are left out."""
    known = {name: fmean(own.values()) for name, own in values.items() if own}
    return sorted(known, key=lambda name: -known[name])
