"""Checkpoints: tensors and facts in one safetensors file that appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

#: A safetensors file begins with the length of its JSON header.
HEADER_LENGTH_BYTES = 8


def write(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Replace the checkpoint at `path`; whoever reads sees the old one or the new one, also after a kill.

    Args:
        path: The file. Its folder is made.
        tensors: By name.
        facts: JSON, kept in the header of the file.

    Raises:
        OSError: The disk is full or not writable; the old checkpoint is still there.
    """
    from safetensors.torch import save

    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    data = save(plain, metadata={"facts": json.dumps(facts)})
    draft = path.with_name(f".{path.name}.draft")
    try:
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return tensors and facts of the checkpoint at `path`, or None when there is none."""
    return parse(path.read_bytes()) if path.is_file() else None


def parse(data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and facts of a checkpoint's bytes."""
    from safetensors.torch import load

    length = int.from_bytes(data[:HEADER_LENGTH_BYTES], "little")
    header = json.loads(data[HEADER_LENGTH_BYTES : HEADER_LENGTH_BYTES + length])
    return load(data), json.loads(header["__metadata__"]["facts"])


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `tensors` with `prefix.` in front of every name.

    >>> list(under("module", {"weight": torch.zeros(1)}))
    ['module.weight']
    """
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what `under(prefix, …)` put into `tensors`, with its own names."""
    start = f"{prefix}."
    return {name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)}


def optimizer_parts(optimizer: Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split an optimiser's state into tensors by "<parameter>.<name>" and JSON for the rest."""
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    scalars: dict[str, dict[str, Any]] = {}
    for index, values in state["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                scalars.setdefault(str(index), {})[name] = value
    return tensors, {"groups": state["param_groups"], "scalars": scalars}


def load_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Put what `optimizer_parts` returned back into an optimiser over the same parameters."""
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in facts["scalars"].items()}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    groups = [{key: _tuple_of_pair(key, value) for key, value in group.items()} for group in facts["groups"]]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _tuple_of_pair(key: str, value: Any) -> Any:
    return tuple(value) if isinstance(value, list) and key != "params" else value


def state_digest(*modules: nn.Module) -> str:
    """Return the SHA-256 over names, types, shapes and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for module in modules:
        for name, value in sorted(module.state_dict().items()):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)};".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
