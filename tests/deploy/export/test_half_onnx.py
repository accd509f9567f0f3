from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from deploy.export.half_onnx import half_onnx
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


def test_a_quantized_file_is_refused(tmp_path: Path) -> None:
    source, quantized = onnx_from_model(trained_toy(), tmp_path / "m.onnx").path, tmp_path / "q.onnx"
    INT8_VARIANTS.bind("signed_per_channel")(source, quantized, calibration_batches(toy_task(), num_images=32))
    with pytest.raises(ValueError, match="is quantized"):
        half_onnx(quantized, tmp_path / "h.onnx")
