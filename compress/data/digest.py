"""Digests of source files, cheap the second time.

Hashing a hundred megabytes takes a moment, and every stage asks for its task's digest. The result is
kept in memory and in `digests.json` of the cache folder, and trusted while path, size and time of
change of every file stay the same.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

from compress.core.model import sha256_of
from compress.data.cache import atomic_file, cache_folder

#: Less than this is hashed each time: reading the cache would take as long.
SMALL_BYTES = 1 << 20

#: A file changed more recently than this may change again within one tick of the file system's clock.
SETTLED_AFTER_S = 2.0

_memory: dict[str, tuple[str, str]] = {}


def files_digest(files: Mapping[str, Path]) -> str:
    """Return a SHA-256 over the names and the contents of `files`.

    Args:
        files: Paths by name. The names count and the folders do not, so that the same data has the
            same digest on every machine.
    """
    paths = {name: files[name].resolve() for name in sorted(files)}
    key = _sha256("\n".join(f"{name}\0{path}" for name, path in paths.items()))
    stats = [path.stat() for path in paths.values()]
    if sum(stat.st_size for stat in stats) < SMALL_BYTES:
        return _hashed(paths)
    state = _sha256(json.dumps([(stat.st_size, stat.st_mtime_ns) for stat in stats]))
    known = _memory.get(key) or _stored().get(key)
    if known is not None and known[0] == state:
        _memory[key] = (known[0], known[1])
        return known[1]
    digest = _hashed(paths)
    if max((stat.st_mtime for stat in stats), default=0.0) < time.time() - SETTLED_AFTER_S:
        _memory[key] = (state, digest)
        _store(key, state, digest)
    return digest


def _hashed(paths: Mapping[str, Path]) -> str:
    return _sha256("\n".join(f"{name}\0{sha256_of(path)}" for name, path in paths.items()))


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _file() -> Path:
    return cache_folder() / "digests.json"


def _stored() -> dict[str, tuple[str, str]]:
    """Read the stored digests; a missing or damaged file holds none."""
    try:
        found = json.loads(_file().read_text())
        return {str(key): (str(state), str(digest)) for key, (state, digest) in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _store(key: str, state: str, digest: str) -> None:
    """Add one digest. Two writers at once may lose one of the two, which costs a hash and nothing else."""
    try:
        with atomic_file(_file()) as partial:
            partial.write_text(json.dumps({**_stored(), key: [state, digest]}, indent=1, sort_keys=True) + "\n")
    except OSError:
        return
