"""KServe's init container for `models:/` addresses: from MLflow's registry to the folder that the server reads.

KServe calls it with the address and the folder:

    python -m deploy.storage_initializer "models://digits@champion?load=digits_cascade" /mnt/models
"""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compress.core.layout import write_json
from compress.core.model import CorruptModel
from deploy.description import PACKAGE, SCRIPT, read_package
from deploy.kserve import read_address
from deploy.pull import check_package, fetch, find
from deploy.tracking import Unreachable
from deploy.tracking.connection import default_uri, retrying
from deploy.triton import ON_REQUEST, SOURCE, hashes
from deploy.triton_config import check_backend

log = logging.getLogger("secateur.serving")

#: Says that the folder's files are being replaced; PACKAGE comes last of all files.
INCOMING = ".secateur-incoming"
#: Where a package is downloaded to, inside of the folder: a mount cannot be renamed.
PARTIAL = ".partial"
#: Folder in a model's `source`, which Triton does not look into, for the network that is not served by itself.
UNSERVED = "unserved"


def fill(address: str, folder: Path, *, uri: str = "") -> None:
    """Put the files of a package into a folder that cannot be replaced, such as a mounted volume.

    No server reads the folder yet. A call that was killed is made up for by the next one. What an earlier call put
    there is replaced only by what was downloaded whole, and stays while MLflow cannot be reached.

    Args:
        address: "models:/digits@champion" or what `deploy.kserve.address_of` writes.
        folder: Empty, or filled by this function before.
        uri: Tracking URI; empty for the environment's.

    Raises:
        FileExistsError: The folder holds somebody else's files.
        CorruptModel: What was downloaded is not what was promoted.
        ValueError: The name, the backend or a Triton model does not exist.
        Unreachable: MLflow does not answer, and the folder holds no whole package.
    """
    name, backend, models = read_address(address)
    check_backend(backend)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()) and not any((folder / ours).exists() for ours in (INCOMING, PARTIAL, PACKAGE)):
        raise FileExistsError(f"{folder} holds files of somebody else: give an empty folder.")
    partial = folder / PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    uri = uri or default_uri(".secateur")
    try:
        _replace(folder, _download(uri, name, partial, backend=backend, models=models))
    except Unreachable as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not _is_whole(folder):
            raise
        log.warning("%s Keeping the package that is in %s already; its files are whole.", error, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _download(uri: str, name: str, partial: Path, *, backend: str, models: Sequence[str]) -> Path:
    found = retrying(uri, lambda client: find(client, name))
    package = fetch(uri, found, partial, backend=backend)
    if not (package / PACKAGE).is_file():
        raise CorruptModel(f"{name} is no package: promote the model first.")
    if models:
        keep(package, models)
    check_package(package)
    return package


def keep(package: Path, names: Sequence[str]) -> None:
    """Delete the Triton models of a package that are not among `names`, nor members that one of these calls.

    A server that loads all that it finds then serves what was chosen. Members of a cascade have names with a digest,
    so nobody could name them in advance; `package.json` names them. The network itself stays, where no server sees it.

    Args:
        package: Folder that was pulled and checked; nobody else reads it yet.
        names: Triton models to keep.

    Raises:
        ValueError: The package has no such model; names those that it has.
    """
    found = read_package(package)
    there: list[str] = found["triton"]["models"]
    if unknown := sorted(set(names) - set(there)):
        raise ValueError(f"load={unknown[0]!r} is no Triton model of the package, which has {', '.join(there)}.")
    kept, cascade = set(names), found["triton"]["cascade"]
    if cascade.get("name") in kept:
        kept |= set(cascade.values()) & set(there)
    else:
        found["triton"]["cascade"] = {}
    found["triton"]["models"] = [name for name in there if name in kept]
    found["on_request"] = {kind: name for kind, name in found["on_request"].items() if name in kept}
    home = found["onnx"].partition("/")[0]
    for name in set(there) - kept - {home}:
        shutil.rmtree(package / name)
    if home not in kept:
        _hide(package, home, f"{found['triton']['models'][-1]}/{SOURCE}/{UNSERVED}/{home}", found)
    write_json(package / PACKAGE, found | {"files": hashes(package)})


def _hide(package: Path, home: str, place: str, found: dict[str, Any]) -> None:
    """Move the network's files to a place that no server looks into, without what a server would run."""
    shutil.rmtree(package / home / SOURCE / ON_REQUEST, ignore_errors=True)
    for script in (package / home).glob(f"*/{SCRIPT}"):
        script.unlink()
    (package / place).parent.mkdir(parents=True, exist_ok=True)
    (package / home).rename(package / place)
    for key in ("onnx", "model"):
        found[key] = place + found[key].removeprefix(home)


def _is_whole(folder: Path) -> bool:
    if (folder / INCOMING).exists() or not (folder / PACKAGE).is_file():
        return False
    try:
        check_package(folder)
    except (ValueError, KeyError, OSError):
        return False
    return True


def _replace(folder: Path, package: Path) -> None:
    """Let `folder` hold the files of `package`, which lies in its `PARTIAL`, and nothing else."""
    incoming = folder / INCOMING
    incoming.touch()
    for old in [folder / PACKAGE, *folder.iterdir()]:
        if old.name in (INCOMING, PARTIAL):
            continue
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
    for path in sorted(package.iterdir(), key=lambda path: path.name == PACKAGE):
        path.rename(folder / path.name)
    incoming.unlink()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as KServe runs it, and return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if len(words) != 2:
        print("usage: python -m deploy.storage_initializer models://NAME@ALIAS FOLDER", file=sys.stderr)
        return 2
    try:
        fill(words[0], Path(words[1]))
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{words[0]} -> {words[1]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
