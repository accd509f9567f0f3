"""Journal: what a stage has found out so far, kept across a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Journal:
    """A file of JSON lines, one a finding, each written to the disk before the work goes on.

    Work that is started again asks the same questions, because everything random is seeded; what the
    journal holds is answered from it, so nothing is evaluated twice and measured times stay what they were.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[tuple[str, str], Any] = {}
        self.num_new = 0
        if path.exists():
            self._read()

    def __len__(self) -> int:
        return len(self._known)

    def get(self, what: str, key: str, find_out: Callable[[], Any]) -> Any:
        """Return what the journal holds of `key`, or find it out and write it down.

        Args:
            what: Kind of finding ("accuracy").
            key: What it is about.
            find_out: Called when it is not known; returns JSON.
        """
        if (what, key) not in self._known:
            value = find_out()
            self._append({"what": what, "key": key, "value": value})
            self._known[what, key] = value
            self.num_new += 1
        return self._known[what, key]

    def knows(self, what: str, key: str) -> bool:
        """Return whether `get` would answer without finding out."""
        return (what, key) in self._known

    def learn(self, what: str, key: str, value: Any) -> None:
        """Write down what was found elsewhere or with other things; it replaces what is known."""
        if (what, key) not in self._known or self._known[what, key] != value:
            self._append({"what": what, "key": key, "value": value})
            self._known[what, key] = value

    def about(self, key: str) -> dict[str, Any]:
        """Return all that is known of `key`, by the kind of finding."""
        return {what: value for (what, subject), value in self._known.items() if subject == key}

    def _append(self, line: dict[str, Any]) -> None:
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _read(self) -> None:
        """Read whole lines; a line that a kill left unfinished is cut off."""
        text = self._path.read_text()
        whole, newline, _ = text.rpartition("\n")
        for line in whole.splitlines():
            record = json.loads(line)
            self._known[record["what"], record["key"]] = record["value"]
        if whole + newline != text:
            with self._path.open("r+") as file:
                file.truncate(len((whole + newline).encode()))
