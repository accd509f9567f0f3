"""FP16 or BF16 written into the ONNX file, where strongly typed networks look for it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np

OPS_IN_FLOAT = ("Softmax", "ReduceMean", "GlobalAveragePool")
#: First versions of the operators whose Q and DQ take 16-bit scales, and whose convolutions take BF16.
QUANTIZED_OPSET, BF16_OPSET = 19, 22
Precision = Literal["fp16", "bf16"]


def half_onnx(
    source: Path, target: Path, *, precision: Precision = "fp16", ops_in_float: tuple[str, ...] = OPS_IN_FLOAT
) -> None:
    """Cast what an ONNX file computes in float32 to 16 bits; input and output stay float32.

    In a file with Q/DQ pairs the INT8 values stay what they are, and all around them is cast, scales included: a cast
    between a pair and its operator would keep TensorRT from fusing them.

    Args:
        source: ONNX file in float32, or with Q/DQ pairs around some operators.
        target: Where the 16-bit file goes.
        precision: "fp16" (10 bits of fraction, up to 65,504) or "bf16" (7 bits, the range of float32).
        ops_in_float: Kinds of operators that keep float32, with casts around them: sums over many
            values lose digits in 16 bits.
    """
    import onnx
    from onnx import version_converter
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    graph = onnx.load(str(source))
    needed = _needed_opset(graph, precision)
    if needed > max(item.version for item in graph.opset_import if item.domain in ("", "ai.onnx")):
        graph = version_converter.convert_version(graph, needed)
    exact = {item.name: onnx.numpy_helper.to_array(item) for item in graph.graph.initializer}
    blocked = [*DEFAULT_OP_BLOCK_LIST, *ops_in_float]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = convert_float_to_float16(graph, keep_io_types=True, op_block_list=blocked)
    OnnxModel(graph).topological_sort()
    if precision == "bf16":
        _to_bfloat16(graph, exact)
    onnx.checker.check_model(graph, full_check=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(graph, str(target))


def _needed_opset(graph: Any, precision: Precision) -> int:
    if precision == "bf16":
        return BF16_OPSET
    is_quantized = any(node.op_type == "QuantizeLinear" for node in graph.graph.node)
    return QUANTIZED_OPSET if is_quantized else 0


def _to_bfloat16(graph: Any, exact: dict[str, np.ndarray[Any, Any]]) -> None:
    """Make BF16 of every FP16 in a graph; weights are rounded from their `exact` values."""
    from onnx import TensorProto

    for tensor in _half_tensors(graph):
        tensor.CopyFrom(_bfloat16(tensor, exact.get(tensor.name)))
    for node in graph.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.BFLOAT16
    for value in graph.graph.value_info:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.BFLOAT16


def _half_tensors(graph: Any) -> Iterator[Any]:
    """Yield the FP16 weights and constants of a graph."""
    from onnx import TensorProto

    constants = (attribute.t for node in graph.graph.node for attribute in node.attribute if attribute.HasField("t"))
    for tensor in (*graph.graph.initializer, *constants):
        if tensor.data_type == TensorProto.FLOAT16:
            yield tensor


def _bfloat16(tensor: Any, exact: np.ndarray[Any, Any] | None) -> Any:
    import ml_dtypes
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor) if exact is None else exact
    return numpy_helper.from_array(values.astype(np.float32).astype(ml_dtypes.bfloat16), tensor.name)
