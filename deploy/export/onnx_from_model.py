"""ONNX from a model: one file, dynamic batch, checked against torch before anybody sees it.

The TorchScript exporter comes first: a CIFAR ResNet takes it 0.3 s (torch.export: 4 s), and it writes
GlobalAveragePool, which quantizes, where the other writes ReduceMean. What it cannot say goes to torch.export.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from compress.core.model import Model
from compress.core.task import InputSpec

INPUT, OUTPUT = "input", "logits"
#: Lowest opset of both exporters; TensorRT 10 and 11 and ONNX Runtime read it.
OPSET = 18
#: Batch sizes whose outputs are compared: one of them alone would not show that the batch is dynamic.
PARITY_BATCHES = (1, 2, 7)
PARITY_MAX = 1e-4


class ParityError(ValueError):
    """The exported file answers differently from the model."""


@dataclass(frozen=True)
class OnnxExport:
    """An ONNX file that agrees with its model.

    Attributes:
        path: The file; weights inside.
        size_bytes: Its size.
        opset: Version of the ONNX operators in it.
        parity_max_abs: Largest |ONNX Runtime - torch| of any output over the batches 1, 2 and 7.
    """

    path: Path
    size_bytes: int
    opset: int
    parity_max_abs: float

    def as_json(self) -> dict[str, Any]:
        """Return the numbers, without the path."""
        return {"size_bytes": self.size_bytes, "opset": self.opset, "parity_max_abs": self.parity_max_abs}


def onnx_from_model(
    model: Model, path: Path, *, opset: int = OPSET, ref: str = "", parity_max: float = PARITY_MAX
) -> OnnxExport:
    """Write `model` to `path` and compare it with torch.

    The file has one input "input" (batch, C, H, W) and one output "logits" (batch, classes), batch norms
    folded into convolutions where they follow one, and the preprocessing and class names as metadata.

    Args:
        model: What to export; it is left as it is.
        path: Where the file goes; its folder is made.
        opset: Version of the ONNX operators; at least 18.
        ref: Entry that the model comes from, for the metadata.
        parity_max: Largest difference of an output that is let through (see `Parity.is_within`).

    Raises:
        ParityError: ONNX Runtime and torch differ by more; names the first layer that does.
        ValueError: The opset is too low.
    """
    if opset < OPSET:
        raise ValueError(f"opset {opset} is too old: use {OPSET} or newer.")
    path.parent.mkdir(parents=True, exist_ok=True)
    module = copy.deepcopy(model.module).cpu().eval()
    _write(module, model.input, path, opset)
    _finish(path, _metadata(model.input, ref))
    worst = _compare(Model(module, model.input, model.lineage), path, parity_max)
    return OnnxExport(path, path.stat().st_size, _opset_of(path), worst)


def spec_of_onnx(path: Path) -> InputSpec:
    """Return the preprocessing and class names that `onnx_from_model` wrote into a file."""
    import onnx

    found = {item.key: item.value for item in onnx.load(str(path), load_external_data=False).metadata_props}
    if "preprocessing" not in found:
        raise ValueError(f"{path} carries no preprocessing: export it with `secateur run export`.")
    return InputSpec.from_json(json.loads(found["preprocessing"]))


def copy_metadata(source: Path, target: Path) -> None:
    """Give the file `target` the metadata of the file `source`."""
    import onnx

    known = {item.key: item.value for item in onnx.load(str(source)).metadata_props}
    graph = onnx.load(str(target))
    known = {**{item.key: item.value for item in graph.metadata_props}, **known}
    onnx.helper.set_model_props(graph, known)
    onnx.save(graph, str(target))


def _write(module: nn.Module, spec: InputSpec, path: Path, opset: int) -> None:
    """Export with the TorchScript exporter, or with torch.export what that one cannot say."""
    import torch
    from torch.onnx import errors

    x_BCHW = spec.example(2)
    names: dict[str, Any] = {"input_names": [INPUT], "output_names": [OUTPUT], "opset_version": opset}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            axes = {INPUT: {0: "batch"}, OUTPUT: {0: "batch"}}
            torch.onnx.export(module, (x_BCHW,), str(path), dynamo=False, dynamic_axes=axes, **names)
        except errors.OnnxExporterError:
            shapes = ({0: torch.export.Dim("batch", min=1)},)
            torch.onnx.export(
                module,
                (x_BCHW,),
                str(path),
                dynamo=True,
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
                **names,
            )


def _metadata(spec: InputSpec, ref: str) -> dict[str, str]:
    return {
        "class_names": json.dumps(list(spec.class_names)),
        "preprocessing": json.dumps(spec.as_json(), sort_keys=True),
        "ref": ref,
    }


def _finish(path: Path, metadata: Mapping[str, str]) -> None:
    """Add metadata, drop what depends on the machine, and check the file."""
    import onnx

    graph = onnx.load(str(path))
    for node in graph.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    onnx.helper.set_model_props(graph, dict(metadata))
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, str(path))


def _compare(model: Model, path: Path, parity_max: float) -> float:
    from deploy.parity import first_layer_that_differs, parity
    from deploy.runtime.onnxruntime import OnnxSession

    session, worst = OnnxSession(path), 0.0
    for batch in PARITY_BATCHES:
        x_BCHW = model.input.example(batch)
        found = parity(model, {session.name: session}, x_BCHW)
        worst = max(worst, found.max_abs)
        if not found.is_within(parity_max):
            layer = first_layer_that_differs(model, path, x_BCHW)
            raise ParityError(
                f"{path.name} differs from the model by {found.max_abs:.3g} at batch {batch} (allowed {parity_max:g}); "
                f"the first layer that differs is {layer or 'none: every layer agrees, the operations between do not'}."
                f" Rewrite that layer with plain operations, or raise parity_max."
            )
    return worst


def _opset_of(path: Path) -> int:
    import onnx

    graph = onnx.load(str(path), load_external_data=False)
    return max(item.version for item in graph.opset_import if item.domain in ("", "ai.onnx"))
