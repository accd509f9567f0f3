"""From a folder to MLflow's artifact store, and a look at what the store holds afterwards.

The transfer is that of MLflow and, where clients write to S3 themselves, of boto3: in parts, several at once, tried
again. An answer "stored" is believed when the sizes agree, and what was sent is read back with the hashes that it had.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from compress.core.model import CorruptModel
from deploy.tracking.progress import telling
from deploy.tracking.troubles import Incomplete

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import FileInfo, LoggedModel


def upload_model(client: MlflowClient, model: LoggedModel, folder: Path) -> None:
    """Upload a folder as the files of a LoggedModel.

    Raises:
        Incomplete: The store holds less, or more, than was sent.
    """
    with telling(f"upload {model.name}", folder):
        client.log_model_artifacts(model.model_id, str(folder))
    check_sizes(lambda path: client.list_logged_model_artifacts(model.model_id, path or None), folder)


def upload_to_run(client: MlflowClient, run_id: str, folder: Path, place: str) -> None:
    """Upload a folder into the folder `place` of a run's artifacts.

    Raises:
        Incomplete: The store holds less, or more, than was sent.
    """
    with telling(f"upload {folder.name}", folder):
        client.log_artifacts(run_id, str(folder), place)
    check_sizes(lambda path: client.list_artifacts(run_id, path or None), folder, place)


def check_sizes(listing: Callable[[str], Sequence[FileInfo]], folder: Path, place: str = "") -> None:
    """Raise Incomplete unless every file of `folder` lies in the store with its size.

    Args:
        listing: What the store holds directly under a relative path.
        folder: What was sent.
        place: Relative path that it was sent to.
    """
    for parent in sorted({path.parent for path in folder.rglob("*") if path.is_file()}):
        relative = parent.relative_to(folder).as_posix().removeprefix(".")
        there = "/".join(part for part in (place, relative) if part)
        found = {item.path.rsplit("/", 1)[-1]: item.file_size for item in listing(there) if not item.is_dir}
        for path in (path for path in parent.iterdir() if path.is_file()):
            size, name = path.stat().st_size, "/".join(part for part in (there, path.name) if part)
            if path.name not in found:
                raise Incomplete(f"{name} was sent and is not in the artifact store")
            if found[path.name] not in (size, None):
                raise Incomplete(f"{name}: {size} bytes were sent, the artifact store holds {found[path.name]}")


def check_stored(uri: str, location: str, check: Callable[[Path], object]) -> None:
    """Read back what was uploaded and let `check` compare the hashes.

    Raises:
        Incomplete: The store gives back something else than what was sent.
    """
    from deploy.tracking.fetch import download

    with tempfile.TemporaryDirectory(prefix="secateur-") as scratch:
        try:
            check(download(uri, location, Path(scratch) / "stored"))
        except CorruptModel as error:
            raise Incomplete(f"the artifact store changed what was sent to {location}: {error}") from error
