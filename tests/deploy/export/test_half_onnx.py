from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from deploy.export.half_onnx import Precision, half_onnx
from deploy.export.onnx_from_model import onnx_from_model
from deploy.export.quantized_onnx import INT8_VARIANTS, calibration_batches
from deploy.runtime.onnxruntime import OnnxSession
from tests.deploy.export.trained_toy import trained_toy
from tests.toys import toy_task


def test_weights_are_half_and_the_outside_stays_float(tmp_path: Path) -> None:
    model = trained_toy()
    source, target = onnx_from_model(model, tmp_path / "m.onnx").path, tmp_path / "deep" / "h.onnx"
    half_onnx(source, target)
    graph = onnx.load(str(target)).graph
    weights = {item.name: item.data_type for item in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert [weights[node.input[1]] for node in convolutions] == [TensorProto.FLOAT16] * 4
    outside = [item.type.tensor_type.elem_type for item in (*graph.input, *graph.output)]
    assert outside == [TensorProto.FLOAT, TensorProto.FLOAT]
    x_BCHW = model.input.example(5)
    gap = np.abs(OnnxSession(target).infer(x_BCHW.numpy()) - model(x_BCHW).numpy()).max()
    assert 0 < gap < 0.02


def test_bfloat16_keeps_the_range_of_float(tmp_path: Path) -> None:
    model = trained_toy()
    source, target = onnx_from_model(model, tmp_path / "m.onnx").path, tmp_path / "h.onnx"
    graph = onnx.load(str(source))
    scaled = next(item for item in graph.graph.initializer if len(item.dims) == 4)
    exact = onnx.numpy_helper.to_array(scaled) * 1e6
    scaled.CopyFrom(onnx.numpy_helper.from_array(exact, scaled.name))
    onnx.save(graph, str(source))
    half_onnx(source, target, precision="bf16")
    written = onnx.load(str(target)).graph
    kinds = {item.data_type for item in (*written.initializer, *_constants(written))}
    assert TensorProto.BFLOAT16 in kinds
    assert TensorProto.FLOAT16 not in kinds
    assert TensorProto.FLOAT16 not in {item.type.tensor_type.elem_type for item in written.value_info}
    assert TensorProto.FLOAT16 not in {item.i for node in written.node for item in node.attribute if item.name == "to"}
    kept = next(item for item in written.initializer if item.name == scaled.name)
    assert np.abs(exact).max() > 65504, "more than FP16 holds"
    np.testing.assert_allclose(onnx.numpy_helper.to_array(kept).astype(np.float32), exact, rtol=2**-8)


def test_bfloat16_answers_nearly_like_float(tmp_path: Path) -> None:
    model = trained_toy()
    source, target = onnx_from_model(model, tmp_path / "m.onnx").path, tmp_path / "h.onnx"
    half_onnx(source, target, precision="bf16")
    x_BCHW = model.input.example(3).numpy()
    (found,) = ReferenceEvaluator(str(target)).run(None, {"input": x_BCHW})
    gap = np.abs(found - OnnxSession(source).infer(x_BCHW)).max()
    assert 0 < gap < 0.1


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_nothing_stands_between_a_pair_and_its_operator(tmp_path: Path, precision: Precision) -> None:
    source, pairs, target = (tmp_path / name for name in ("m.onnx", "q.onnx", "h.onnx"))
    model = trained_toy()
    onnx_from_model(model, source)
    INT8_VARIANTS.bind("symmetric_fused")(source, pairs, calibration_batches(toy_task(), num_images=32))
    half_onnx(pairs, target, precision=precision)
    graph = onnx.load(str(target)).graph
    known = {item.name: item for item in graph.initializer}
    maker = {name: node for node in graph.node for name in node.output}
    half = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[precision]
    quantized = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert {known[node.input[1]].data_type for node in quantized} == {half}
    operators = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert {maker[name].op_type for node in operators for name in node.input[:2]} == {"DequantizeLinear"}
    assert {known[maker[node.input[1]].input[0]].data_type for node in operators} == {TensorProto.INT8}


def test_a_file_of_pairs_answers_like_before(tmp_path: Path) -> None:
    source, pairs, target = (tmp_path / name for name in ("m.onnx", "q.onnx", "h.onnx"))
    model = trained_toy()
    onnx_from_model(model, source)
    INT8_VARIANTS.bind("symmetric_fused")(source, pairs, calibration_batches(toy_task(), num_images=64))
    half_onnx(pairs, target)
    x_BCHW = next(iter(toy_task().batches("validation", batch_size=64)))[0].numpy()
    before, after = OnnxSession(pairs).infer(x_BCHW), OnnxSession(target).infer(x_BCHW)
    assert (before.argmax(1) == after.argmax(1)).mean() > 0.95
    assert 0 < np.abs(before - after).max() < 0.1 * np.abs(before).max()


def _constants(graph: onnx.GraphProto) -> list[TensorProto]:
    return [item.t for node in graph.node for item in node.attribute if item.HasField("t")]
