"""Trained weights from .npz archives: arrays by state-dictionary name, no code inside."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compress.core.model import Model

#: Endings of entries that an archive may leave out: nothing needs them for inference.
OPTIONAL = ("num_batches_tracked",)


def load_npz(model: Model, path: str | Path) -> Model:
    """Return a copy of `model` with the weights of the archive at `path`.

    Args:
        model: Gives the structure; stays as it is.
        path: File that `numpy.savez` wrote: state-dictionary name to array. Counters of batch norm may be missing.

    Raises:
        ValueError: No such file, not such an archive, or its names or shapes are not the model's; says which.
    """
    arrays = _arrays_of(Path(path))
    loaded = model.copy()
    state = loaded.module.state_dict()
    missing = [name for name in state if name not in arrays and not name.endswith(OPTIONAL)]
    unknown = [name for name in arrays if name not in state]
    shapes = [
        f"{name} is {arrays[name].shape}, the model's {tuple(value.shape)}"
        for name, value in state.items()
        if name in arrays and arrays[name].shape != tuple(value.shape)
    ]
    faults = [
        f"{what}: {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
        for what, names in (("missing", missing), ("not in the model", unknown), ("of another shape", shapes))
        if names
    ]
    if faults:
        raise ValueError(
            f"{path} does not fit builder {dict(model.lineage.builder)} on {model.lineage.shape}: "
            f"{'; '.join(faults)}. Choose the builder and options that the weights were trained with."
        )
    with torch.no_grad():
        for name, array in arrays.items():
            state[name].copy_(torch.from_numpy(array))
    return loaded


def _arrays_of(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise ValueError(f"no weights at {path}: name an .npz file that exists.")
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not an .npz archive: name a file that numpy.savez wrote.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (ValueError, OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as plain arrays ({error}): fetch or write it again.") from error
    if odd := [name for name, array in arrays.items() if getattr(array, "dtype", np.dtype(object)).kind not in "fiu"]:
        raise ValueError(f"{path} holds entries that are not numbers: {', '.join(odd[:4])}; store weights only.")
    return arrays
