"""Where entries live: the ModelStore protocol, and LocalStore, a directory.

A LocalStore is `entries/<ref>/{entry.json, model/, files/}`. An entry appears by one rename, so
that a reader sees all of it or nothing; a writer that dies leaves only a folder in `incoming/`.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from compress.core.layout import RECORD, entry_folder, has_entry, read_record, write_json
from compress.core.machine import machine, versions
from compress.core.model import CorruptModel, sha256_of
from compress.core.registry import UnknownName
from compress.core.stage import Entry, Ref, StageResult


class StoreFull(OSError):
    """The disk is full; nothing half-written stays behind."""


@contextmanager
def full_disk_named(what: str, root: Path) -> Iterator[None]:
    """Turn the error of a full disk into one that says what to do.

    Raises:
        StoreFull: There is no space left.
    """
    try:
        yield
    except StoreFull:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            named = error.filename or root
            where = root if Path(str(named)).is_relative_to(root) else Path(str(named)).parent
            message = f"no space left for {what}: free space under {where} and run again"
            raise StoreFull(error.errno, message) from error
        raise


class ModelStore(Protocol):
    """What `run_stage` needs of a place that keeps entries."""

    def has(self, ref: Ref) -> bool:
        """Return whether the entry is there, complete."""
        ...

    def get(self, ref: Ref) -> Entry:
        """Return an entry, its files checked against their recorded hashes."""
        ...

    def record(self, ref: Ref) -> dict[str, Any]:
        """Return the entry's record (entry.json)."""
        ...

    def put(self, ref: Ref, record: Mapping[str, Any], result: StageResult, seconds: float) -> Entry:
        """Store a result under `ref` in one step."""
        ...

    def alias(self, ref: Ref, name: str) -> None:
        """Let `name` stand for `ref`."""
        ...

    def resolve(self, name: str) -> Ref:
        """Return the entry that `name` (an alias, a name or its unique beginning) stands for."""
        ...

    def scratch(self, ref: Ref) -> Path:
        """Return a folder that survives a kill, for checkpoints of the work on `ref`."""
        ...


class LocalStore:
    """Entries in a directory of the local file system."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()

    def has(self, ref: Ref) -> bool:
        """Return whether the entry is there, complete."""
        return has_entry(self.root, ref)

    def record(self, ref: Ref) -> dict[str, Any]:
        """Return the entry's record (entry.json)."""
        return read_record(self.root, ref)

    def folder(self, ref: Ref) -> Path:
        """Return the folder of an entry."""
        return entry_folder(self.root, ref)

    def get(self, ref: Ref) -> Entry:
        """Return an entry.

        Raises:
            KeyError: There is no such entry.
            CorruptModel: A file is missing or has another hash than recorded.
        """
        record, folder = self.record(ref), self.folder(ref)
        for name, facts in record["files"].items():
            path = folder / name
            if not path.is_file() or sha256_of(path) != facts["sha256"]:
                raise CorruptModel(
                    f"{path} is missing or was changed after it was saved: delete {folder} and run the stage again."
                )
        files = {name.removeprefix("files/"): folder / name for name in record["files"] if name.startswith("files/")}
        has_model = (folder / "model").is_dir()
        return Entry(ref=ref, report=record["report"], files=files, folder=folder / "model" if has_model else None)

    def put(self, ref: Ref, record: Mapping[str, Any], result: StageResult, seconds: float) -> Entry:
        """Store a result under `ref`; a result that is there already stays.

        Raises:
            StoreFull: There is no space left; the store is as it was before.
        """
        self._sweep(ref)
        partial = self.root / "incoming" / f"{ref}-{uuid.uuid4().hex[:8]}"
        try:
            with full_disk_named(ref, self.root):
                self._write(partial, ref, record, result, seconds)
                self._publish(partial, ref)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return self.get(ref)

    def _sweep(self, ref: Ref) -> None:
        """Delete what killed writers of `ref` left; who puts holds the lock, so nobody else is writing."""
        for folder in (self.root / "incoming").glob(f"{ref}-*"):
            shutil.rmtree(folder, ignore_errors=True)

    def _write(self, folder: Path, ref: Ref, record: Mapping[str, Any], result: StageResult, seconds: float) -> None:
        folder.mkdir(parents=True)
        if result.model is not None:
            result.model.save(folder / "model")
        for name, source in result.files.items():
            target = folder / "files" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        paths = sorted(path for path in folder.rglob("*") if path.is_file())
        content = {
            "ref": ref,
            "identity": dict(record),
            "report": json.loads(json.dumps(dict(result.report), allow_nan=False)),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(seconds, 3),
            "versions": versions(),
            "machine": machine(),
            "files": {
                str(path.relative_to(folder)): {"sha256": sha256_of(path), "bytes": path.stat().st_size}
                for path in paths
            },
        }
        write_json(folder / RECORD, content)

    def _publish(self, partial: Path, ref: Ref) -> None:
        target = self.folder(ref)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise

    def refs(self) -> list[Ref]:
        """Return the names of all entries, oldest first."""
        entries = self.root / "entries"
        folders = [path for path in entries.iterdir() if (path / RECORD).is_file()] if entries.is_dir() else []
        return [Ref(path.name) for path in sorted(folders, key=lambda path: (path / RECORD).stat().st_mtime_ns)]

    def alias(self, ref: Ref, name: str) -> None:
        """Let `name` stand for `ref`."""
        if Path(name).name != name or not name or name.startswith("."):
            raise ValueError(f"{name!r} cannot be an alias: use letters, digits, dashes and dots.")
        self.record(ref)
        write_json(self.root / "aliases" / f"{name}.json", {"ref": ref})

    def resolve(self, name: str) -> Ref:
        """Return the entry that `name` (an alias, a name or its unique beginning) stands for."""
        path = self.root / "aliases" / f"{Path(name).name}.json"
        if path.is_file():
            return Ref(json.loads(path.read_text())["ref"])
        refs = self.refs()
        matches = [ref for ref in refs if ref == name] or [ref for ref in refs if ref.startswith(name)]
        if len(matches) == 1:
            return matches[0]
        aliases = [path.stem for path in (self.root / "aliases").glob("*.json")]
        raise UnknownName.among(f"entry in {self.root}:", name, [*refs, *aliases])

    def scratch(self, ref: Ref) -> Path:
        """Return a folder that survives a kill, for checkpoints of the work on `ref`."""
        folder = self.root / "scratch" / ref
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def clear_scratch(self, ref: Ref) -> None:
        """Delete the checkpoints of finished work."""
        shutil.rmtree(self.root / "scratch" / ref, ignore_errors=True)

    @contextmanager
    def locked(self, ref: Ref) -> Iterator[None]:
        """Hold the right to make `ref`; a second process waits, and then finds it made."""
        path = self.root / "locks" / f"{ref}.lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
