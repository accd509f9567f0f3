"""The table of what was tried, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deploy.coverage.steps import STEPS

HEAD = """# Coverage

Made by `python -m deploy.coverage`; do not edit. Each network has random weights and the smallest input that works.
It passes these steps, the last three in a process of their own:

1. **build**, batch norms with the statistics of random inputs; outputs differ from input to input;
2. **trace**: find the groups of channels, each of them verified by numbers (cut == zeroed, which changes the outputs);
3. **prune** by magnitude to half of the multiply-adds, or to the smallest part that can be reached;
4. **backward**: run forwards and backwards; the loss depends on every weight matrix that takes part, by finite slopes;
5. **save**;
6. **rebuild** from the record, with the same outputs;
7. **export** to ONNX; ONNX Runtime and torch agree to 1e-4 of the largest output at batches 1, 2 and 7;
8. **count** multiply-adds and parameters: those that the cost model promised.
"""


def is_passed(row: Mapping[str, Any]) -> bool:
    """Return whether a network passed every step."""
    return list(row["passed"]) == list(STEPS)


def table(rows: Sequence[Mapping[str, Any]], made_with: Mapping[str, str]) -> str:
    """Return the page for all networks.

    Args:
        rows: Facts by network, in the order of the page; "made_with" tells with what.
        made_with: Versions of the packages, and digest of the code that is tried.
    """
    lines = [HEAD, f"Made with {', '.join(f'{name} {version}' for name, version in made_with.items())}.", ""]
    if old := [row["builder"] for row in rows if row["made_with"] != made_with]:
        lines += [
            f"**{len(old)} rows were made with other versions** (`--stale` tries them again): {', '.join(old)}.",
            "",
        ]
    for name in dict.fromkeys(row["builder"].partition(":")[0] for row in rows):
        own = [row for row in rows if row["builder"].startswith(f"{name}:")]
        good = [row for row in own if is_passed(row)]
        halved = sum(row["part"] == 0.5 for row in good)
        lines += [
            f"## {name}",
            "",
            f"**{len(good)} of {len(own)} pass every step**, {halved} of them at half of the multiply-adds.",
            "",
            "| network | input | M params | M macs | groups | macs left | params left | ONNX | result |",
            "|---|--:|--:|--:|--:|--:|--:|--:|---|",
            *(_line(row) for row in own),
            "",
        ]
    return "\n".join(lines)


def _line(row: Mapping[str, Any]) -> str:
    def ratio(name: str) -> str:
        return f"{row[f'{name}_promised'] / row[name]:.3f}" if f"{name}_promised" in row else ""

    cells = [
        row["builder"].partition(":")[2],
        str(row["pixels"]),
        f"{row['params'] / 1e6:.1f}" if "params" in row else "",
        f"{row['macs'] / 1e6:.1f}" if "macs" in row else "",
        str(row.get("groups", "")),
        ratio("macs"),
        ratio("params"),
        f"{row['parity']:.0e}" if "parity" in row else "",
        "passes" if is_passed(row) else f"**{_next(row)}**: {row.get('reason', 'killed')}".replace("|", "\\|"),
    ]
    return f"| {' | '.join(cells)} |"


def _next(row: Mapping[str, Any]) -> str:
    return next((step for step in STEPS if step not in row["passed"]), STEPS[-1])
