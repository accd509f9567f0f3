"""KServe's init container for `models:/` addresses: from MLflow's registry to the folder that the server reads.

KServe calls it with the address and the folder:

    python -m deploy.storage_initializer models://digits@champion /mnt/models
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from compress.core.model import CorruptModel
from deploy.description import PACKAGE
from deploy.kserve import BACKEND
from deploy.pull import check_package, fetch, find
from deploy.tracking.connection import default_uri, retrying

#: Says that this program is filling the folder; PACKAGE comes last of all files.
INCOMING = ".secateur-incoming"


def fill(name: str, folder: Path, *, uri: str = "", backend: str = "") -> None:
    """Put the files of a package into a folder that cannot be replaced, such as a mounted volume.

    No server reads the folder yet. A call that was killed is made up for by the next one.

    Args:
        name: "models:/digits@champion" or "models://digits@champion", which KServe takes for an address.
        folder: Empty, or filled by this function before.
        uri: Tracking URI; empty for the environment's.
        backend: Triton backend that runs ONNX files; empty to leave the package's choice.

    Raises:
        FileExistsError: The folder holds somebody else's files.
        CorruptModel: What was downloaded is not what was promoted.
        ValueError: The name does not exist.
        Unreachable: MLflow does not answer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    incoming = folder / INCOMING
    is_ours = incoming.exists() or (folder / PACKAGE).is_file()
    if any(folder.iterdir()) and not is_ours:
        raise FileExistsError(f"{folder} holds files of somebody else: give an empty folder.")
    incoming.touch()
    for old in [folder / PACKAGE, *folder.iterdir()]:
        if old.name == INCOMING:
            continue
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
    uri = uri or default_uri(".secateur")
    found = retrying(uri, lambda client: find(client, name.replace("models://", "models:/", 1)))
    partial = folder / ".partial"
    package = fetch(uri, found, partial, backend=backend)
    if not (package / PACKAGE).is_file():
        raise CorruptModel(f"{name} is no package: promote the model first.")
    check_package(package)
    for path in sorted(package.iterdir(), key=lambda path: path.name == PACKAGE):
        path.rename(folder / path.name)
    shutil.rmtree(partial, ignore_errors=True)
    incoming.unlink()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as KServe runs it, and return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if len(words) != 2:
        print("usage: python -m deploy.storage_initializer models://NAME@ALIAS FOLDER", file=sys.stderr)
        return 2
    try:
        fill(words[0], Path(words[1]), backend=os.environ.get(BACKEND, ""))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{words[0]} -> {words[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
