"""The folder for what can be made again: fetched files, decoded pictures, digests of files."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

#: Counts up when a decoder gives other pictures for the same files.
DECODER_VERSION = 1

Arrays = Mapping[str, np.ndarray]


def cache_folder() -> Path:
    """Return the cache folder: the environment's SECATEUR_CACHE, else `~/.cache/secateur`."""
    return Path(os.environ.get("SECATEUR_CACHE") or "~/.cache/secateur").expanduser()


@contextmanager
def atomic_file(target: Path) -> Iterator[Path]:
    """Give a temporary path beside `target` that becomes `target` when the block ends well.

    Readers see the old file or the whole new one; after an error nothing is left behind.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    number, name = tempfile.mkstemp(dir=target.parent, prefix=".partial-")
    os.close(number)
    partial = Path(name)
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def decoded(name: str, digest: str, decode: Callable[[], Arrays], *, names: tuple[str, ...]) -> Arrays:
    """Return the arrays that `decode` makes of the files with `digest`, from the cache where possible.

    The second call, in any process, maps the arrays from disk without decoding. A cache that cannot
    be written costs speed only: a warning says so, and the arrays stay in memory.

    Args:
        name: Name of the data, part of the folder's name.
        digest: SHA-256 of the source files.
        decode: Makes the arrays; called at most once.
        names: The arrays that it makes.
    """
    folder = cache_folder() / "decoded" / f"{name}-v{DECODER_VERSION}-{digest[:16]}"
    found = _read(folder, names)
    if found is not None:
        return found
    arrays = dict(decode())
    try:
        _write(folder, arrays)
    except OSError as error:
        warnings.warn(
            f"the decoded pictures of {name} could not be kept in {folder} ({error}): they stay in memory and are "
            f"decoded again next time. Point SECATEUR_CACHE at a folder with space that can be written.",
            stacklevel=2,
        )
        return arrays
    return _read(folder, names) or arrays


def _read(folder: Path, names: tuple[str, ...]) -> Arrays | None:
    """Map the arrays of a complete folder; None when there is none, or when a file in it is damaged."""
    if not folder.is_dir():
        return None
    try:
        return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}
    except (OSError, ValueError, EOFError):
        shutil.rmtree(folder, ignore_errors=True)
        return None


def _write(folder: Path, arrays: Arrays) -> None:
    """Write all arrays beside `folder`, then rename: a folder with this name is always complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".partial-"))
    try:
        for name, array in arrays.items():
            with (partial / f"{name}.npy").open("wb") as file:
                np.save(file, array)
                file.flush()
                os.fsync(file.fileno())
        try:
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
