"""`python -m deploy.storage_initializer models:/NAME@ALIAS FOLDER`: what KServe runs in front of a model server.

KServe mounts a volume at FOLDER and gives the InferenceService's `storageUri`; the chart's ClusterStorageContainer
says that this program understands `models:/`. Everything is written below FOLDER, because all else is read-only.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

#: Holds the download until it is whole; also says that a folder is ours.
PULLING = ".pulling"
#: Files in the root of what `pull` brings.
OURS = (PULLING, "package.json", "entry.json")


def initialize(name: str, folder: str | Path, *, uri: str = "") -> Path:
    """Fill the existing folder `folder` with the package that `name` stands for, every file checked.

    A container that is started again finds what an earlier start left; it is replaced.

    Args:
        name: "models:/digits@champion", "models:/digits/3" or "models:/m-…".
        folder: The mounted volume.
        uri: Tracking URI; without it MLFLOW_TRACKING_URI.

    Returns:
        `folder`.

    Raises:
        ValueError: `name` is no `models:/` URI, or `folder` is missing or holds something else.
        CorruptModel: What was downloaded is not what was promoted.
    """
    from deploy.tracking.pull import pull

    target = Path(folder)
    if not name.startswith("models:/"):
        raise ValueError(f"{name!r} is no models:/ URI: give a storageUri such as models:/digits@champion.")
    if not target.is_dir():
        raise ValueError(f"{target} is no folder: KServe mounts a volume there.")
    if any(target.iterdir()) and not any((target / mark).exists() for mark in OURS):
        raise ValueError(f"{target} holds something else already: mount an empty volume there.")
    hidden = target / PULLING
    hidden.mkdir(exist_ok=True)
    _clear(target, but=hidden)
    _clear(hidden)
    package = pull(name, hidden / "package", uri=uri).resolve()
    for path in sorted(package.iterdir()):
        path.rename(target / path.name)
    shutil.rmtree(hidden)
    return target


def _clear(folder: Path, but: Path | None = None) -> None:
    for path in folder.iterdir():
        if path == but:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill the folder and return the exit status; KServe tries a failed container again."""
    parser = argparse.ArgumentParser(prog="python -m deploy.storage_initializer", description=__doc__)
    parser.add_argument("name", help="models:/NAME@ALIAS, models:/NAME/VERSION or models:/m-…")
    parser.add_argument("folder", type=Path, help="mounted volume")
    options = parser.parse_args(arguments)
    try:
        folder = initialize(options.name, options.folder)
    except (ValueError, OSError) as error:
        print(f"storage_initializer: {error}", file=sys.stderr)
        return 1
    print(f"{options.name} -> {folder}: {', '.join(sorted(path.name for path in folder.iterdir()))}")
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
