"""Where an entry lies and what its record says; read without torch, so that reuse costs milliseconds."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

RECORD = "entry.json"


def entry_folder(root: Path, ref: str) -> Path:
    """Return the folder of an entry, which exists only once the entry is complete."""
    if not ref or Path(ref).name != ref or ref.startswith("."):
        raise ValueError(f"{ref!r} is no entry's name: expected something like train-0123456789abcdef.")
    return root / "entries" / ref


def has_entry(root: Path, ref: str) -> bool:
    """Return whether the entry is there, complete."""
    return (entry_folder(root, ref) / RECORD).is_file()


def read_record(root: Path, ref: str) -> dict[str, Any]:
    """Return the entry's record: ref, identity, report, seconds, files, versions, machine."""
    path = entry_folder(root, ref) / RECORD
    if not path.is_file():
        raise KeyError(f"no entry {ref!r} in {root}: run the stage that makes it, or pull it from the registry.")
    return json.loads(path.read_text())


def write_json(path: Path, data: Any) -> None:
    """Write JSON so that a reader sees the old file or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("w") as file:
            file.write(json.dumps(data, indent=1, sort_keys=True) + "\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def request_key(request: Mapping[str, Any]) -> str:
    """Return the name under which a literal request remembers the entry that answered it.

    The library's own source is part of it: after an edit the identity is computed anew.
    """
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode())
    package = Path(__file__).resolve().parents[1]
    for path in sorted([*package.rglob("*.py"), *(package.parent / "deploy").rglob("*.py")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]
