"""`python -m deploy.engine_sweep FOLDER --older-than 30d --keep 2`: delete engines that nobody uses any more.

FOLDER holds one folder a model, and these hold one folder (or file) a version: packages that were pulled, or
engines. Below them, and in FOLDER itself, `secateur pull` may keep its versions (`.NAME.versions`). Only what holds an
engine or a package is ever deleted. What a link anywhere in FOLDER leads to is in use.
"""

from __future__ import annotations

import argparse
import fcntl
import re
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

#: Seconds of each unit of a duration.
UNITS = {"h": 3600, "d": 86400, "w": 7 * 86400}
#: Files that make a folder a package or an engine.
MARKS = frozenset({"package.json", "config.pbtxt"})
SUFFIXES = frozenset({".plan", ".engine"})
#: What a killed sweep left half deleted.
GONE = ".gone-"
LINKED = "a link leads to it"
#: What `secateur pull` holds while it changes the versions beside it.
LOCK = "lock"


@dataclass
class Swept:
    """What a sweep did, or would do.

    Attributes:
        removed: Deleted versions, as MODEL/VERSION.
        kept: The others, with the reason.
        freed_bytes: Size of what was deleted.
    """

    removed: list[str] = field(default_factory=list)
    kept: dict[str, str] = field(default_factory=dict)
    freed_bytes: int = 0


def seconds_of(text: str) -> int:
    """Return the seconds of a duration such as "36h", "30d" or "4w".

    >>> seconds_of("2d")
    172800

    Raises:
        ValueError: Not a positive whole number with one of these units.
    """
    match = re.fullmatch(r"([1-9][0-9]*)([hdw])", text)
    if match is None:
        raise ValueError(f"{text!r} is no duration: write a whole number with h, d or w, for example 30d.")
    return int(match[1]) * UNITS[match[2]]


def sweep(folder: str | Path, *, older_than_s: float, keep: int, is_dry: bool = False) -> Swept:
    """Delete versions that nobody wrote or read for a time, but not the newest ones of each model.

    A version disappears by one rename; a reader sees it whole or not at all.

    Args:
        folder: Holds MODEL/VERSION.
        older_than_s: Versions whose files were all written and last read longer ago than this go.
        keep: So many of the newest versions of each model stay.
        is_dry: Report alone.

    Returns:
        What was deleted and what stayed.

    Raises:
        ValueError: `folder` is missing, or `keep` is negative.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"{root} is no folder: mount the volume with the engines there, or name another folder.")
    if keep < 0:
        raise ValueError(f"keep is {keep}: write 0 or more.")
    swept = Swept()
    for model in _models(root):
        with _held(model):
            if not is_dry:
                _finish(model)
            for path, kept in _judged(model, root, older_than_s=older_than_s, keep=keep):
                name = str(path.relative_to(root))
                if kept:
                    swept.kept[name] = kept
                    continue
                swept.removed.append(name)
                swept.freed_bytes += sum(file.lstat().st_size for file in _files(path))
                if not is_dry:
                    _remove(path)
    return swept


def holds_engine(path: Path) -> bool:
    """Return whether a file is an engine, or a folder holds an engine or a package."""
    return any(file.name in MARKS or file.suffix in SUFFIXES for file in _files(path))


def _judged(model: Path, root: Path, *, older_than_s: float, keep: int) -> Iterator[tuple[Path, str]]:
    """Yield the versions of a model, newest first, each with the reason to keep it or an empty string."""
    linked = frozenset(_link_targets(root))
    versions = {path: _last_use(path) for path in model.iterdir() if _is_version(path)}
    now = time.time()
    newest_first = sorted(versions, key=lambda path: (versions[path], path.name), reverse=True)
    for rank, path in enumerate(newest_first):
        age_s = now - versions[path]
        if not holds_engine(path):
            yield path, "holds neither an engine nor a package"
        elif _is_linked(path, linked):
            yield path, LINKED
        elif rank < keep:
            yield path, f"one of the newest {keep}"
        elif age_s <= older_than_s:
            yield path, f"used {age_s / UNITS['d']:.1f} days ago"
        else:
            yield path, LINKED if _is_linked(path, frozenset(_link_targets(root))) else ""


@contextmanager
def _held(model: Path) -> Iterator[None]:
    """Keep `secateur pull` from changing the versions of a folder of its own meanwhile."""
    if not (model / LOCK).is_file():
        yield
        return
    with (model / LOCK).open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _models(root: Path) -> list[Path]:
    """Return the folders whose entries are versions, none of them behind a link."""
    below = [path for path in root.iterdir() if not path.is_symlink()]
    pulled = [path for model in below if model.is_dir() for path in model.glob(".*.versions")]
    return sorted(path for path in (*below, *pulled) if path.is_dir() and not path.is_symlink())


def _is_version(path: Path) -> bool:
    return not path.is_symlink() and not path.name.startswith(".")


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    yield from (file for file in path.rglob("*") if file.is_file() and not file.is_symlink())


def _last_use(path: Path) -> float:
    """Return when anything of a version was last written or read, as far as the volume notes reading.

    A version of which a file goes away meanwhile is being changed: it is in use now.
    """
    try:
        stats = [file.stat() for file in _files(path)]
        return max([path.stat().st_mtime, *(max(stat.st_mtime, stat.st_atime) for stat in stats)])
    except FileNotFoundError:
        return time.time()


def _link_targets(root: Path) -> Iterator[Path]:
    for path in root.rglob("*"):
        if path.is_symlink():
            yield path.resolve()


def _is_linked(path: Path, targets: frozenset[Path]) -> bool:
    place = path.resolve()
    return any(target == place or place in target.parents for target in targets)


def _remove(path: Path) -> None:
    gone = path.with_name(f"{GONE}{path.name}")
    path.rename(gone)
    if gone.is_dir():
        shutil.rmtree(gone)
    else:
        gone.unlink()


def _finish(model: Path) -> None:
    """Delete what a killed sweep had begun to delete."""
    for path in model.iterdir():
        if path.name.startswith(GONE) and path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)


def main(arguments: list[str] | None = None) -> int:
    """Sweep a folder and print what was done; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.engine_sweep", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with one folder a model")
    parser.add_argument("--older-than", default="30d", help="age since the last use, with h, d or w")
    parser.add_argument("--keep", type=int, default=2, help="newest versions of each model that stay")
    parser.add_argument("--dry-run", action="store_true", help="report alone")
    options = parser.parse_args(arguments)
    try:
        age_s = seconds_of(options.older_than)
        swept = sweep(options.folder, older_than_s=age_s, keep=options.keep, is_dry=options.dry_run)
    except (ValueError, OSError) as error:
        print(f"engine_sweep: {error}", file=sys.stderr)
        return 2
    verb = "would delete" if options.dry_run else "deleted"
    for name in swept.removed:
        print(f"{verb} {name}")
    for name, reason in swept.kept.items():
        print(f"kept {name}: {reason}")
    print(f"{verb} {len(swept.removed)} of {len(swept.removed) + len(swept.kept)}, {swept.freed_bytes:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
