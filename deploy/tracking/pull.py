"""From a name in the registry to a folder on disk: the promoted package, checked, without pickle."""

from __future__ import annotations

import json
import shutil
import uuid
from pathlib import Path

from compress.core.model import CorruptModel, Model
from deploy.tracking.connection import default_uri, retrying
from deploy.tracking.fetch import check_entry, check_files, download, publish

#: SHA-256 of every other file of a package, by relative name.
PACKAGE = "package.json"
#: Inputs and the outputs that the packaged model gave for them.
EXAMPLE = "example.npz"


def pull(name: str, folder: str | Path, *, uri: str = "") -> Path:
    """Download `name` into the new folder `folder`, check every file, and return the folder.

    Args:
        name: "models:/digits@champion", "models:/digits/3" or "models:/m-…".
        folder: Must not exist yet.
        uri: Tracking URI; without it MLFLOW_TRACKING_URI, or `.secateur/mlflow.db` here.

    Raises:
        FileExistsError: `folder` is there already.
        CorruptModel: What was downloaded is not what was promoted.
    """
    target = Path(folder).absolute()
    if target.exists():
        raise FileExistsError(f"{target} exists already: choose another folder, or delete it.")
    uri = uri or default_uri(".secateur")
    partial = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
    location = name if name.startswith("models:/") else f"models:/{name}"
    try:
        found = retrying(uri, lambda client: download(uri, location, partial))
        check_package(found)
        publish(found, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def check_package(folder: Path) -> None:
    """Raise CorruptModel unless the files in `folder` are those that were packaged (or stored as an entry)."""
    if (folder / PACKAGE).is_file():
        check_files(folder, json.loads((folder / PACKAGE).read_text())["files"], also=(PACKAGE,))
    elif (folder / "entry.json").is_file():
        check_entry(folder, json.loads((folder / "entry.json").read_text()).get("ref", ""))
    else:
        raise CorruptModel(f"{folder} is no secateur model: neither {PACKAGE} nor entry.json is there.")


def load(folder: str | Path) -> Model:
    """Return the model of a pulled folder, rebuilt from its record and weights."""
    from compress import catalogue

    catalogue.load()
    return Model.load(Path(folder) / "model")


def output_difference(folder: str | Path) -> float:
    """Return the largest absolute difference between the packaged outputs and the model's outputs here."""
    import numpy as np
    import torch

    with np.load(Path(folder) / EXAMPLE, allow_pickle=False) as example:
        logits_BC = load(folder)(torch.from_numpy(example["x_BCHW"])).numpy()
        return float(np.abs(logits_BC - example["logits_BC"]).max())
