"""Where the INT8 variant for TensorRT puts its pairs, on residual networks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from compress import catalogue
from compress.core.lineage import BUILDERS
from compress.core.model import Model
from compress.measure.agreement import agreement
from deploy.export.onnx_from_model import onnx_from_model
from deploy.export.quantized_onnx import INT8_VARIANTS
from deploy.runtime.onnxruntime import OnnxSession
from tests.toys import TOY_INPUT

catalogue.load()

PAIR = ("QuantizeLinear", "DequantizeLinear")


class Graph:
    """Who makes and who reads each value of an ONNX file."""

    def __init__(self, path: Path) -> None:
        self.nodes = list(onnx.load(str(path)).graph.node)
        self.known = {item.name: numpy_helper.to_array(item) for item in onnx.load(str(path)).graph.initializer}
        self.maker = {name: node for node in self.nodes for name in node.output}

    def readers(self, node: onnx.NodeProto) -> list[onnx.NodeProto]:
        return [reader for reader in self.nodes if set(node.output) & set(reader.input)]

    def of(self, kind: str) -> list[onnx.NodeProto]:
        return [node for node in self.nodes if node.op_type == kind]


@pytest.fixture(scope="module", params=[8, 20])
def depth(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def files(depth: int, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp(f"resnet{depth}")
    model = Model.build(BUILDERS.bind("resnet_cifar", depth=depth, width=8), TOY_INPUT, seed=0)
    source = onnx_from_model(model, folder / "fp32.onnx").path
    calibration = [TOY_INPUT.example(32).numpy()]
    INT8_VARIANTS.bind("symmetric_fused")(source, folder / "int8.onnx", calibration)
    return source, folder / "int8.onnx"


@pytest.fixture(scope="module")
def graph(files: tuple[Path, Path]) -> Graph:
    return Graph(files[1])


def test_both_inputs_of_a_residual_sum_are_int8(graph: Graph, depth: int) -> None:
    sums = graph.of("Add")
    assert len(sums) == (depth - 2) // 2
    for node in sums:
        assert [graph.maker[name].op_type for name in node.input] == ["DequantizeLinear"] * 2


def test_no_quantizer_stands_between_an_operator_and_its_activation(graph: Graph, depth: int) -> None:
    activations = graph.of("Relu")
    assert len(activations) == depth - 1
    assert {graph.maker[node.input[0]].op_type for node in activations} == {"Conv", "Add"}


def test_weights_have_a_scale_a_channel_and_biases_stay_float(graph: Graph, depth: int) -> None:
    convolutions = graph.of("Conv")
    assert len(convolutions) == depth - 1
    for node in convolutions:
        data, weight = (graph.maker[name] for name in node.input[:2])
        assert data.op_type == weight.op_type == "DequantizeLinear"
        assert graph.known[weight.input[1]].shape == (graph.known[weight.input[0]].shape[0],)
        assert graph.known[weight.input[0]].dtype == np.int8
        assert graph.known[node.input[2]].dtype == np.float32


def test_everything_is_symmetric(graph: Graph) -> None:
    pairs = [node for kind in PAIR for node in graph.of(kind)]
    assert pairs
    assert all(not graph.known[node.input[2]].any() for node in pairs)


def test_the_output_is_float(graph: Graph) -> None:
    assert [node.op_type for node in graph.nodes if "logits" in node.output] == ["Gemm"]


def test_it_answers_like_the_float_file(files: tuple[Path, Path]) -> None:
    x_BCHW = TOY_INPUT.example(32).numpy()
    found = agreement(*(OnnxSession(path).infer(x_BCHW) for path in files))
    assert found.top1_agree >= 0.8
    assert found.max_abs > 0, "nothing was quantized"
