"""FP16 written into the ONNX file, where strongly typed networks look for it."""

from __future__ import annotations

import warnings
from pathlib import Path

OPS_IN_FLOAT = ("Softmax", "ReduceMean", "GlobalAveragePool")


def half_onnx(source: Path, target: Path, *, ops_in_float: tuple[str, ...] = OPS_IN_FLOAT) -> None:
    """Cast weights and activations of a float ONNX file to FP16; input and output stay float32.

    Args:
        source: Float ONNX file.
        target: Where the FP16 file goes.
        ops_in_float: Kinds of operators that keep float32, with casts around them: sums over many
            values lose digits in FP16.

    Raises:
        ValueError: The source holds Q/DQ pairs; its precision is decided already.
    """
    import onnx
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    graph = onnx.load(str(source))
    if any(node.op_type == "QuantizeLinear" for node in graph.graph.node):
        raise ValueError(f"{source.name} is quantized: build the engine from it as it is.")
    blocked = [*DEFAULT_OP_BLOCK_LIST, *ops_in_float]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = convert_float_to_float16(graph, keep_io_types=True, op_block_list=blocked)
    OnnxModel(graph).topological_sort()
    onnx.checker.check_model(graph)
    target.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(graph, str(target))
