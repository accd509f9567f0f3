from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from deploy.export.onnx_from_model import onnx_from_model
from deploy.parity import first_layer_that_differs, parity
from deploy.runtime.onnxruntime import OnnxSession
from tests.deploy.export.trained_toy import trained_toy
from tests.toys import TOY_INPUT

X = TOY_INPUT.example(4)


class Shifted:
    """Answers like torch plus a constant on the first output."""

    name, device, num_threads = "shifted", "cpu", 1

    def __init__(self, shift: float) -> None:
        self.shift = shift

    def infer(self, x_BCHW: np.ndarray) -> np.ndarray:
        logits_BC = trained_toy()(torch.from_numpy(x_BCHW)).numpy().copy()
        logits_BC[:, 0] += self.shift
        return logits_BC


def spoiled(path: Path, node_index: int, target: Path) -> Path:
    """Copy an ONNX file and add 0.5 to the bias of one convolution."""
    graph = onnx.load(str(path))
    node = [node for node in graph.graph.node if node.op_type == "Conv"][node_index]
    bias = next(item for item in graph.graph.initializer if item.name == node.input[2])
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + 0.5, bias.name))
    onnx.save(graph, str(target))
    return target


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return onnx_from_model(trained_toy(), tmp_path_factory.mktemp("parity") / "m.onnx").path


def test_the_worst_session_counts() -> None:
    found = parity(trained_toy(), {"near": Shifted(0.25), "far": Shifted(-0.5)}, X)
    assert found.max_abs == pytest.approx(0.5, abs=1e-5)
    assert found.worst == "far"
    assert found.first_layer_that_differs is None


def test_agreement_counts_the_named_class() -> None:
    assert parity(trained_toy(), {"same": Shifted(0.0)}, X).top1_agree == 1.0
    names_B = trained_toy()(X).argmax(1)
    found = parity(trained_toy(), {"first": Shifted(1000.0)}, X)
    assert found.top1_agree == float((names_B == 0).float().mean())


def test_not_a_number_is_infinitely_far() -> None:
    found = parity(trained_toy(), {"broken": Shifted(float("nan"))}, X)
    assert found.max_abs == float("inf")
    assert not found.is_within(1e9)


def test_a_good_export_has_no_layer_that_differs(exported: Path) -> None:
    session = OnnxSession(exported)
    found = parity(trained_toy(), {"onnxruntime": session}, X, onnx_path=exported)
    assert found.max_abs < 1e-4
    assert found.top1_agree == 1.0
    assert found.first_layer_that_differs is None
    assert first_layer_that_differs(trained_toy(), exported, X) is None


@pytest.mark.parametrize(("index", "layer"), [(0, "conv1"), (1, "block.conv1"), (2, "block.conv2"), (3, "conv2")])
def test_the_spoiled_layer_is_named(exported: Path, tmp_path: Path, index: int, layer: str) -> None:
    bad = spoiled(exported, index, tmp_path / "bad.onnx")
    found = parity(trained_toy(), {"onnxruntime": OnnxSession(bad)}, X, onnx_path=bad)
    assert found.max_abs > 1e-4
    assert found.first_layer_that_differs == layer


def test_nothing_to_compare() -> None:
    with pytest.raises(ValueError, match="at least one session"):
        parity(trained_toy(), {}, X)
