"""From a name in the registry to a folder on disk: the promoted package, checked, without pickle.

`pull` leaves a link to one of several versions that lie side by side in a hidden folder next to it:

    champion                        -> .champion.versions/3-m-0123abcd…
    .champion.versions/3-m-0123abcd…   what the link shows
    .champion.versions/2-m-89efcdab…   what it showed before; going back to it needs no download
    .champion.versions/previous     -> 2-m-89efcdab…

A version comes to its place by one rename and is shown by another one, so that a reader sees a whole package,
the old or the new one, whenever the writer is killed.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from compress.core.layout import RECORD
from compress.core.model import CorruptModel, Model
from deploy.description import PACKAGE, read_package
from deploy.engine_sweep import LOCK
from deploy.tracking.connection import database_file, default_uri, retrying
from deploy.tracking.fetch import check_entry, check_files, digest_of, download, publish, read_hashes
from deploy.triton_config import check_backend, check_kinds

if TYPE_CHECKING:
    from mlflow import MlflowClient

#: Inputs and the outputs that the packaged model gave for them.
EXAMPLE = "example.npz"
PREVIOUS = "previous"
_MODEL_ID = re.compile(r"m-[0-9a-f]{8,64}")


@dataclass(frozen=True)
class Found:
    """What a name in the registry stands for now.

    Attributes:
        model_id: The LoggedModel "m-…" that holds the files.
        version: Number of the registered version; None when the LoggedModel was named itself.
    """

    model_id: str
    version: int | None = None

    def folder_name(self, backend: str = "", also: Sequence[str] = ()) -> str:
        """Return the name of its folder among the versions, prepared for `backend`."""
        parts = (str(self.version or ""), self.model_id, backend, *sorted(set(also)))
        return "-".join(part for part in parts if part)


def pull(name: str, folder: str | Path, *, uri: str = "", backend: str = "", also: Sequence[str] = ()) -> Path:
    """Let `folder` show the package that `name` stands for now, every file checked, and return `folder`.

    A version that is there already and whose files are whole is not downloaded again. The one that was shown
    before is kept; older ones are deleted. Two calls on one folder take turns.

    In a Triton repository the version of every model becomes the number of the registered version, so that a
    server's answers name it.

    Args:
        name: "models:/digits@champion", "models:/digits/3" or "models:/m-…".
        folder: Becomes a symbolic link; must not exist, or be such a link.
        uri: Tracking URI; without it MLFLOW_TRACKING_URI, or `.secateur/mlflow.db` here.
        backend: Triton backend that runs the ONNX files ("python" where the server has no "onnxruntime");
            empty to leave the package's choice.
        also: Kinds of models that Triton is to find too: "tensorrt", "aotinductor". They are machine code.

    Raises:
        FileExistsError: `folder` is there already and was not made by this function.
        CorruptModel: What was downloaded is not what was promoted; `folder` shows what it showed.
        ValueError: The name, alias, version or backend does not exist.
        Unreachable: MLflow does not answer; `folder` shows what it showed.
    """
    versions = Versions(Path(folder))
    versions.check_free()
    check_backend(backend)
    check_kinds(also)
    uri = uri or default_uri(".secateur")
    if (database := database_file(uri)) is not None and not database.is_file():
        raise ValueError(f"no MLflow is at {uri}: name it with --uri, or set MLFLOW_TRACKING_URI.")
    found = retrying(uri, lambda client: find(client, name))
    bring(versions, found, uri=uri, backend=backend, also=also)
    return versions.link


def bring(versions: Versions, found: Found, *, uri: str, backend: str = "", also: Sequence[str] = ()) -> None:
    """Let the link of `versions` show what was found, downloaded where it is not there yet (see `pull`)."""
    name = found.folder_name(backend, also)
    with versions.locked():
        if not versions.has(name):
            partial = versions.partial()
            try:
                package = fetch(uri, found, partial, backend=backend, also=also)
                versions.add(package, name)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
        versions.show(name)


def find(client: MlflowClient, name: str) -> Found:
    """Return what `name` stands for.

    Raises:
        ValueError: There is no such model, version or alias; names those that there are.
    """
    from mlflow.exceptions import MlflowException

    from deploy.tracking.registry import known_aliases, version_of

    plain = name.removeprefix("models:/")
    if _MODEL_ID.fullmatch(plain):
        return Found(plain)
    model, at, alias = plain.partition("@")
    if at:
        version = version_of(client, model, alias)
    else:
        model, _, number = plain.rpartition("/")
        if not (model and number.isdigit()):
            raise ValueError(f"{name!r}: write models:/NAME@ALIAS, models:/NAME/VERSION or models:/m-….")
        try:
            version = client.get_model_version(model, number)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            version = None
    if version is None:
        known = ", ".join(known_aliases(client)) or "none"
        raise ValueError(
            f"{name!r} is not in the registry at {client.tracking_uri}; its aliases are: {known}. Another MLflow is "
            f"named with --uri or MLFLOW_TRACKING_URI."
        )
    source = str(version.source or "").removeprefix("models:/")
    if not _MODEL_ID.fullmatch(source):
        raise ValueError(f"{name!r} was registered from {version.source!r}, no secateur package: promote it first.")
    return Found(source, int(version.version))


class Versions:
    """The versions of one package on disk, and the link that shows one of them.

    Attributes:
        link: What users open.
        root: Hidden folder beside it that holds the versions.
    """

    def __init__(self, link: Path) -> None:
        self.link = link.absolute()
        self.root = self.link.with_name(f".{self.link.name}.versions")

    def check_free(self) -> None:
        """Raise FileExistsError when somebody else's file or folder lies where the link shall be."""
        is_ours = self.link.is_symlink() and self.link.readlink().parent == Path(self.root.name)
        if not is_ours and (self.link.exists() or self.link.is_symlink()):
            raise FileExistsError(f"{self.link} exists already: choose another folder, or delete it.")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the right to change the versions; what a killed holder left half-written is deleted."""
        self.root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.root / LOCK, os.O_CREAT | os.O_RDWR)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            self._sweep()
            yield
        finally:
            os.close(descriptor)

    def current(self) -> str:
        """Return the name of the version that is shown, or an empty string."""
        return self.link.readlink().name if self.link.is_symlink() else ""

    def previous(self) -> str:
        """Return the name of the version that was shown before, or an empty string."""
        link = self.root / PREVIOUS
        return link.readlink().name if link.is_symlink() else ""

    def has(self, name: str) -> bool:
        """Return whether a version is there and whole; one that was changed is taken away."""
        folder = self.root / name
        if not folder.is_dir():
            return False
        try:
            check_package(folder, is_served=True)
        except (ValueError, KeyError, OSError) as error:
            if name == self.current():
                said = f"{folder} is shown and was changed after it was pulled ({error})"
                raise CorruptModel(f"{said} To repair: delete {self.link} and {self.root}, then pull again.") from error
            self._discard(folder)
            return False
        return True

    def partial(self) -> Path:
        """Return a new name for a version that is being written."""
        return self.root / f".partial-{uuid.uuid4().hex[:8]}"

    def add(self, partial: Path, name: str) -> None:
        """Move a complete version to its place."""
        publish(partial, self.root / name)

    def show(self, name: str) -> None:
        """Let the link point at version `name` in one step, and delete all but it and the one shown before."""
        before = self.current()
        if before and before != name:
            self._point(self.root / PREVIOUS, before)
        if before != name:
            self._point(self.link, f"{self.root.name}/{name}")
        for folder in self.root.iterdir():
            if folder.is_dir() and folder.name not in (name, self.previous(), PREVIOUS):
                self._discard(folder)

    def _point(self, link: Path, target: str) -> None:
        new = self.root / f".link-{uuid.uuid4().hex[:8]}"
        new.symlink_to(target)
        new.replace(link)

    def _discard(self, folder: Path) -> None:
        """Delete a folder under another name, so that nobody finds half of it under its own."""
        doomed = folder.rename(self.partial())
        shutil.rmtree(doomed, ignore_errors=True)

    def _sweep(self) -> None:
        for left in self.root.glob(".*-*"):
            if left.is_symlink():
                left.unlink()
            else:
                shutil.rmtree(left, ignore_errors=True)


def fetch(uri: str, found: Found, folder: Path, *, backend: str = "", also: Sequence[str] = ()) -> Path:
    """Download a package into `folder`, check every file, prepare it for serving, and return where it lies."""
    from deploy.triton import prepare

    digest = retrying(uri, lambda client: digest_of(client, found.model_id))
    package = retrying(uri, lambda client: download(uri, f"models:/{found.model_id}", folder))
    check_package(package, digest)
    prepare(package, version=found.version, backend=backend, also=also)
    return package


def check_package(folder: Path, digest: str = "", *, is_served: bool = False) -> None:
    """Raise CorruptModel unless the files in `folder` are those that were packaged (or stored as an entry).

    Args:
        folder: A package or an entry.
        digest: SHA-256 that the file with the hashes of the others must have, if it is known.
        is_served: Whether a server uses the folder: Python keeps bytecode beside the scripts that it runs.
    """
    if (folder / PACKAGE).is_file():
        if digest:
            read_hashes(folder / PACKAGE, digest)
        check_files(folder, read_package(folder)["files"], also=(PACKAGE,), is_served=is_served)
    elif (folder / RECORD).is_file():
        check_entry(folder, read_hashes(folder / RECORD).get("ref", ""), digest)
    else:
        raise CorruptModel(f"{folder} is no secateur model: neither {PACKAGE} nor {RECORD} is there.")


def onnx_file(folder: str | Path) -> Path:
    """Return the float ONNX file of a pulled folder."""
    return Path(folder) / read_package(folder).get("onnx", "files/model.onnx")


def aotinductor_file(folder: str | Path) -> Path:
    """Return the AOTInductor package of a pulled folder, its manifest beside it.

    It is machine code, so that every file of the folder is checked again before anybody loads it.

    Raises:
        ValueError: The export stage made none.
        CorruptModel: A file was changed after the pull.
    """
    from deploy.triton import COMPILED_FILE, asleep_or_awake

    root = Path(folder)
    package = read_package(root)
    path = asleep_or_awake(root, package, "aotinductor") / COMPILED_FILE if package else root / "files" / COMPILED_FILE
    if not path.is_file():
        raise ValueError(f"{folder} holds no AOTInductor package: export with the option aotinductor, then promote.")
    check_package(root, is_served=True)
    return path


def load(folder: str | Path) -> Model:
    """Return the model of a pulled folder, rebuilt from its record and weights."""
    from compress import catalogue

    catalogue.load()
    return Model.load(Path(folder) / read_package(folder).get("model", "model"))


def output_difference(folder: str | Path) -> float:
    """Return the largest absolute difference between the packaged outputs and the model's outputs here."""
    import numpy as np
    import torch

    with np.load(Path(folder) / EXAMPLE, allow_pickle=False) as example:
        logits_BC = load(folder)(torch.from_numpy(example["x_BCHW"])).numpy()
        return float(np.abs(logits_BC - example["logits_BC"]).max())
