"""`python charts/readme.py [--check]`: write the table of values into each chart's README, or compare it.

The table comes from `values.yaml`: a comment that begins with `# --` explains the key below it, and
`# @default --` says what stands in the table for a default that is too long.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
BEGIN, END = "<!-- values -->", "<!-- end of values -->"
KEY = re.compile(r"^( *)([A-Za-z][\w.-]*):")
KINDS = {bool: "bool", int: "int", float: "float", str: "string", list: "list", dict: "object", type(None): "null"}


@dataclass(frozen=True)
class Entry:
    """One documented value.

    Attributes:
        path: Keys from the top, with dots.
        default: The value in values.yaml.
        text: What the comment says.
        shown: What stands for the default instead, or nothing.
    """

    path: str
    default: Any
    text: str
    shown: str = ""


def entries(folder: Path) -> list[Entry]:
    """Return the documented values of a chart, in their order.

    Raises:
        ValueError: A value has no comment, or a comment has no value.
    """
    import yaml

    text = (folder / "values.yaml").read_text()
    values = yaml.safe_load(text)
    found = [Entry(path, _at(values, path), about, shown) for path, about, shown in _comments(text)]
    documented = {entry.path for entry in found}
    for leaf in _leaves(values):
        if not any(leaf == path or leaf.startswith(f"{path}.") for path in documented):
            raise ValueError(f"{folder.name}/values.yaml: {leaf} has no comment; write `# -- what it is` above it.")
    return found


def table(folder: Path) -> str:
    """Return the table of a chart's values in Markdown."""
    lines = ["| Key | Type | Default | Description |", "|---|---|---|---|"]
    for entry in entries(folder):
        default = entry.shown or f"`{json.dumps(entry.default)}`"
        cells = (f"`{entry.path}`", KINDS[type(entry.default)], default, entry.text)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def readme(folder: Path) -> str:
    """Return the README of a chart with the table that belongs into it.

    Raises:
        ValueError: The README has no place for it.
    """
    text = (folder / "README.md").read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{folder.name}/README.md has no place for the table: write {BEGIN} and {END} into it.")
    return f"{before}{BEGIN}\n{table(folder)}\n{END}{after}"


def _comments(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield path, text and replaced default of each key with a comment."""
    path: list[tuple[int, str]] = []
    about, shown = "", ""
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            about = stripped.removeprefix("# -- ")
        elif stripped.startswith("# @default -- "):
            shown = stripped.removeprefix("# @default -- ")
        elif stripped.startswith("#") and about:
            about = f"{about} {stripped.removeprefix('#').strip()}"
        elif match := KEY.match(line):
            indent = len(match[1])
            path = [*(part for part in path if part[0] < indent), (indent, match[2])]
            if about:
                yield ".".join(name for _, name in path), about, shown
            about, shown = "", ""
        elif about:
            raise ValueError(f"the comment {about!r} stands above {line!r}, which is no key: move it.")


def _at(values: Any, path: str) -> Any:
    for name in path.split("."):
        values = values[name]
    return values


def _leaves(values: dict[str, Any], before: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def charts() -> list[Path]:
    """Return the folders of the charts."""
    return sorted(path.parent for path in FOLDER.glob("*/Chart.yaml"))


def main(arguments: list[str] | None = None) -> int:
    """Write or compare; return the exit status."""
    parser = argparse.ArgumentParser(prog="python charts/readme.py", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare, and fail when one differs")
    options = parser.parse_args(arguments)
    stale = []
    for folder in charts():
        path, text = folder / "README.md", readme(folder)
        if not options.check:
            path.write_text(text)
        elif path.read_text() != text:
            stale.append(folder.name)
    if stale:
        print(f"The READMEs of {', '.join(stale)} are not what values.yaml says: run `python charts/readme.py`.")
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
