"""What a local server answers with: a pulled package's ONNX models and its cascade, in ONNX Runtime, without torch.

They have the names that Triton gives them, so that a client need not know which server it talks to.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deploy.description import read_package
from deploy.pull import check_package
from deploy.runtime.onnx_session import session_from_bytes
from deploy.triton_config import MAX_BATCH, triton_name

Arrays = Mapping[str, NDArray[Any]]
#: ONNX Runtime's names of types, as the protocol and NumPy write them.
DATATYPES = {"tensor(float)": ("FP32", np.dtype(np.float32)), "tensor(bool)": ("BOOL", np.dtype(np.bool_))}
ONNX = "model.onnx"


class BadRequest(ValueError):
    """The inputs are not those that a model takes; says which ones it takes."""


@dataclass(frozen=True)
class TensorFacts:
    """An input or output.

    Attributes:
        name: Its name in the network.
        datatype: The protocol's name of its type.
        shape: Sizes; -1 for the batch.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]

    def as_json(self) -> dict[str, Any]:
        """Return it as the protocol's metadata write it."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


@dataclass(frozen=True)
class Served:
    """One model.

    Attributes:
        name: The name that Triton gives it.
        version: Number of the registered version.
        inputs: What it takes.
        outputs: What it returns.
        run: Computes the outputs.
    """

    name: str
    version: str
    inputs: tuple[TensorFacts, ...]
    outputs: tuple[TensorFacts, ...]
    run: Callable[[Arrays], dict[str, NDArray[Any]]]

    def answer(self, given: Arrays) -> dict[str, NDArray[Any]]:
        """Check inputs and return the outputs by name.

        Raises:
            BadRequest: An input is missing, unknown, of another type or shape, or the batch is empty or too large.
        """
        wanted = {one.name: one for one in self.inputs}
        if set(given) != set(wanted):
            raise BadRequest(f"{self.name} takes the inputs {', '.join(wanted)}; got {', '.join(given) or 'none'}.")
        for name, array in given.items():
            shape, dtype = wanted[name].shape, dict(DATATYPES.values())[wanted[name].datatype]
            if array.dtype != dtype or array.shape[1:] != shape[1:]:
                raise BadRequest(
                    f"{self.name}: {name} is {wanted[name].datatype} of shape {list(shape)}, -1 for the batch; got "
                    f"{array.dtype} of shape {list(array.shape)}."
                )
            if not 1 <= len(array) <= MAX_BATCH:
                raise BadRequest(f"{self.name}: {len(array)} inputs in one request; send 1 to {MAX_BATCH}.")
        return self.run(given)


def served_models(folder: Path, *, num_threads: int = 1) -> list[Served]:
    """Return the models of a pulled package that ONNX Runtime can run, every file of it checked.

    Args:
        folder: What `secateur pull` made; a link is followed once, so that a later switch changes nothing.
        num_threads: Threads inside one operator.

    Raises:
        CorruptModel: A file is not what was promoted.
        ValueError: The folder is no package.
    """
    folder = folder.resolve()
    if not folder.is_dir():
        raise ValueError(f"{folder} does not exist: secateur pull models:/NAME@champion --to {folder}.")
    check_package(folder)
    triton = read_package(folder).get("triton")
    if triton is None:
        raise ValueError(f"{folder} is a stored entry, no package: promote the model, and pull that.")
    version, cascade = str(triton["version"]), dict(triton.get("cascade") or {})
    members = {part: cascade.get(part, "") for part in ("small", "router", "large")}
    opened = {
        name: _opened(folder, name, version, num_threads)
        for name in map(_checked, triton["models"])
        if (folder / name / version / ONNX).is_file()
    }
    found = [served for name, served in opened.items() if name not in members.values()]
    if cascade:
        parts = {part: opened[name] for part, name in members.items()}
        found.append(_cascade(cascade["name"], parts, float(cascade["large_temperature"])))
    return found


def _checked(name: str) -> str:
    if triton_name(name) != name:
        raise ValueError(f"{name!r} cannot name a model: promote it again.")
    return name


def _opened(folder: Path, name: str, version: str, num_threads: int) -> Served:
    session = session_from_bytes((folder / name / version / ONNX).read_bytes(), num_threads=num_threads)
    inputs, outputs = (tuple(map(_facts, found)) for found in (session.get_inputs(), session.get_outputs()))
    names = [one.name for one in outputs]

    def run(given: Arrays) -> dict[str, NDArray[Any]]:
        return dict(zip(names, session.run(names, dict(given)), strict=True))

    return Served(name, version, inputs, outputs, run)


def _facts(found: Any) -> TensorFacts:
    sizes = tuple(size if isinstance(size, int) else -1 for size in found.shape)
    return TensorFacts(found.name, DATATYPES[found.type][0], sizes)


def _cascade(name: str, parts: Mapping[str, Served], large_temperature: float) -> Served:
    """Return the cascade: the large network runs on what the small one defers, and not at all when that is nothing."""
    small, router, large = parts["small"], parts["router"], parts["large"]
    (image,), (logits,) = small.inputs, small.outputs
    temperature = np.float32(large_temperature)

    def run(given: Arrays) -> dict[str, NDArray[Any]]:
        decided = router.run({router.inputs[0].name: small.run(given)[logits.name]})
        logits_BC, is_deferred_B1 = decided["scaled"], decided["is_deferred"]
        if (rows_B := is_deferred_B1[:, 0]).any():
            deferred_BCHW = np.ascontiguousarray(given[image.name][rows_B])
            logits_BC[rows_B] = large.run({large.inputs[0].name: deferred_BCHW})[large.outputs[0].name] / temperature
        return {logits.name: logits_BC, "is_deferred": is_deferred_B1}

    deferred = next(one for one in router.outputs if one.name == "is_deferred")
    return Served(name, small.version, small.inputs, (logits, deferred), run)
