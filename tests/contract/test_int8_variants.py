"""What every way of quantizing an ONNX file promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from compress.core.task import Task
from deploy.export.int8_choice import accuracy_of
from deploy.export.onnx_from_model import onnx_from_model, spec_of_onnx
from deploy.export.quantized_onnx import INT8_VARIANTS, calibration_batches
from deploy.runtime.onnxruntime import OnnxSession
from tests.deploy.export.trained_toy import trained_toy
from tests.toys import TOY_INPUT, toy_task

SIGNED = {"signed_per_channel", "symmetric_float_bias", "symmetric_fused"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("int8")
    source = onnx_from_model(trained_toy(), folder / "fp32.onnx", ref="train-1").path
    calibration = calibration_batches(toy_task(), num_images=64)
    for name in INT8_VARIANTS:
        INT8_VARIANTS.bind(name)(source, folder / f"{name}.onnx", calibration)
    return {"fp32": source, **{name: folder / f"{name}.onnx" for name in INT8_VARIANTS}}


def constants(graph: onnx.GraphProto) -> dict[str, TensorProto]:
    return {item.name: item for item in graph.initializer}


def convolution_inputs(path: Path) -> list[tuple[onnx.NodeProto, list[onnx.NodeProto | None]]]:
    graph = onnx.load(str(path)).graph
    maker = {name: node for node in graph.node for name in node.output}
    return [(node, [maker.get(name) for name in node.input]) for node in graph.node if node.op_type == "Conv"]


@pytest.mark.parametrize("name", sorted(INT8_VARIANTS))
def test_every_convolution_reads_dequantized_values(files: dict[str, Path], name: str) -> None:
    convolutions = convolution_inputs(files[name])
    assert len(convolutions) == 4
    for _, (data, weight, *_) in convolutions:
        assert data is not None
        assert weight is not None
        assert data.op_type == weight.op_type == "DequantizeLinear"


@pytest.mark.parametrize("name", sorted(INT8_VARIANTS))
def test_types_of_activations_and_weights(files: dict[str, Path], name: str) -> None:
    graph = onnx.load(str(files[name])).graph
    known = constants(graph)
    wanted = TensorProto.INT8 if name in SIGNED else TensorProto.UINT8
    zeros = [known[node.input[2]] for node in graph.node if node.op_type == "QuantizeLinear"]
    assert zeros
    assert {zero.data_type for zero in zeros} == {wanted}
    for _, (_, weight, *_) in convolution_inputs(files[name]):
        assert weight is not None
        assert known[weight.input[0]].data_type == TensorProto.INT8


@pytest.mark.parametrize("name", sorted(INT8_VARIANTS))
def test_scales_a_channel_or_a_tensor(files: dict[str, Path], name: str) -> None:
    known = constants(onnx.load(str(files[name])).graph)
    sizes = []
    for _, (_, weight, *_) in convolution_inputs(files[name]):
        assert weight is not None
        sizes.append(numpy_helper.to_array(known[weight.input[1]]).size)
    assert sizes == ([1, 1, 1, 1] if name == "unsigned_per_tensor" else [8, 8, 8, 16])


def test_reduced_range_leaves_a_bit_of_the_weights_unused(files: dict[str, Path]) -> None:
    def largest(name: str) -> int:
        known = constants(onnx.load(str(files[name])).graph)
        weights = [known[weight.input[0]] for _, (_, weight, *_) in convolution_inputs(files[name]) if weight]
        return max(int(np.abs(numpy_helper.to_array(weight).astype(int)).max()) for weight in weights)

    assert largest("unsigned_reduced_range") == 64
    assert largest("unsigned_per_channel") == 127


@pytest.mark.parametrize("name", ["symmetric_float_bias", "symmetric_fused"])
def test_the_kinds_for_tensorrt_are_symmetric_and_keep_a_float_bias(files: dict[str, Path], name: str) -> None:
    known = constants(onnx.load(str(files[name])).graph)
    for node, (data, _, *_) in convolution_inputs(files[name]):
        assert data is not None
        assert numpy_helper.to_array(known[data.input[2]]) == 0
        assert known[node.input[2]].data_type == TensorProto.FLOAT


@pytest.mark.parametrize("name", sorted(INT8_VARIANTS))
def test_accuracy_and_metadata_stay(files: dict[str, Path], name: str) -> None:
    task = toy_task()
    assert accuracy_of(OnnxSession(files["fp32"]), task) == 1.0
    assert accuracy_of(OnnxSession(files[name]), task) >= 1.0 - 1 / 48
    assert spec_of_onnx(files[name]) == TOY_INPUT
    assert OnnxSession(files[name]).infer(TOY_INPUT.example(7).numpy()).shape == (7, 3)


def test_other_methods_give_other_ranges(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calibration = calibration_batches(toy_task(), num_images=48)
    outputs = []
    for method in ("minmax", "entropy", "percentile"):
        target = tmp_path / f"{method}.onnx"
        INT8_VARIANTS.bind("unsigned_per_tensor", method=method)(files["fp32"], target, calibration)
        outputs.append(OnnxSession(target).infer(TOY_INPUT.example(4).numpy()))
    assert not np.array_equal(outputs[0], outputs[2])
    assert not np.array_equal(outputs[1], outputs[2])
    assert capsys.readouterr().out == ""


def test_equal_arguments_give_equal_files(files: dict[str, Path], tmp_path: Path) -> None:
    calibration = calibration_batches(toy_task(), num_images=64)
    again = tmp_path / "again.onnx"
    INT8_VARIANTS.bind("unsigned_per_channel")(files["fp32"], again, calibration)
    assert again.read_bytes() == files["unsigned_per_channel"].read_bytes()


def test_calibration_inputs_are_plain_training_inputs() -> None:
    from dataclasses import replace

    def refuse(*_: object) -> None:
        raise AssertionError("augmented")

    task: Task = replace(toy_task(), augment=refuse)  # type: ignore[arg-type]
    batches = calibration_batches(task, num_images=70, batch_size=50, seed=3)
    assert [batch.shape for batch in batches] == [(50, 1, 8, 8), (20, 1, 8, 8)]
    again = calibration_batches(task, num_images=70, batch_size=50, seed=3)
    other = calibration_batches(task, num_images=70, batch_size=50, seed=4)
    assert np.array_equal(batches[0], again[0])
    assert not np.array_equal(batches[0], other[0])


def test_without_calibration_inputs_there_is_no_int8(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        INT8_VARIANTS.bind("signed_per_channel")(files["fp32"], tmp_path / "x.onnx", [])
