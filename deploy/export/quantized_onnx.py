"""INT8 from a float ONNX file: Q/DQ pairs around every operator that has an integer kernel.

Which kind is fast depends on the processor, so there are several, and the stage measures them. On x86 the
integer kernels want unsigned activations; with signed ones the file is often slower than float.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from compress.core.random import generator
from compress.core.registry import Family
from compress.core.task import Task

Calibration = Sequence[NDArray[np.float32]]
Method = Literal["minmax", "entropy", "percentile"]
#: Part of the activations, in percent, that the method "percentile" leaves unclipped.
PERCENTILE = 99.9
#: ONNX Runtime option: kinds of operators whose outputs get no pair. Where it is set, no other kinds are quantized.
INPUTS_ALONE = "OpTypesToExcludeOutputQuantization"
#: Operators whose inputs TensorRT wants in INT8; their outputs are left to whoever reads them.
FUSED_OPS = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add")

#: (float ONNX file, file to write, batches of inputs) -> None. The target keeps the source's input, output, metadata.
INT8_VARIANTS: Family[Callable[..., None]] = Family("int8_variant", data=("source", "target", "calibration"))


def calibration_batches(task: Task, *, num_images: int = 400, batch_size: int = 50, seed: int = 0) -> Calibration:
    """Return a random choice of training inputs without augmentation, in batches (B, C, H, W)."""
    plain = replace(task, augment=None)
    draw = generator(seed, "calibration")
    return [x.numpy() for x, _ in plain.batches("train", batch_size=batch_size, shuffle=draw, limit=num_images)]


@INT8_VARIANTS.register("unsigned_per_channel", paper="Jacob 2018")
def unsigned_per_channel(source: Path, target: Path, calibration: Calibration, *, method: Method = "minmax") -> None:
    """Unsigned activations with a zero point, signed weights with a scale for each output channel.

    x = s (q - z), q in 0..255; w_c = s_c q, q in -127..127.

    Args:
        source: Float ONNX file.
        target: Where the Q/DQ file goes.
        calibration: Inputs (B, C, H, W) whose activations set the ranges.
        method: How a range follows from the activations: their extremes, least entropy lost, or 99.9 % of them.

    Returns:
        Nothing; `target` is written.

    Differs from the paper: weights have a scale a channel instead of a tensor.

    Cost: one float forward pass over the calibration inputs.

    Reference: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", equation 1.
    """
    _quantize(source, target, calibration, method, is_signed=False, per_channel=True)


@INT8_VARIANTS.register("unsigned_reduced_range", paper="Jacob 2018")
def unsigned_reduced_range(source: Path, target: Path, calibration: Calibration, *, method: Method = "minmax") -> None:
    """Unsigned activations and 7-bit weights a channel, for processors whose 16-bit sums saturate.

    w_c = s_c q, q in -64..64: two products of 255 * 64 still fit into 16 bits. AVX2 without VNNI adds
    two products in 16 bits, so that full 8-bit weights overflow there and cost accuracy.

    Args:
        source: Float ONNX file.
        target: Where the Q/DQ file goes.
        calibration: Inputs (B, C, H, W) whose activations set the ranges.
        method: How a range follows from the activations.

    Returns:
        Nothing; `target` is written.

    Differs from the paper: one bit less for the weights.

    Cost: one float forward pass over the calibration inputs.

    Reference: onnxruntime.quantization, option reduce_range.
    """
    _quantize(source, target, calibration, method, is_signed=False, per_channel=True, reduce_range=True)


@INT8_VARIANTS.register("unsigned_per_tensor", paper="Jacob 2018")
def unsigned_per_tensor(source: Path, target: Path, calibration: Calibration, *, method: Method = "minmax") -> None:
    """Unsigned activations with a zero point, signed weights with one scale a layer.

    x = s (q - z), q in 0..255; w = s q, q in -127..127.

    Args:
        source: Float ONNX file.
        target: Where the Q/DQ file goes.
        calibration: Inputs (B, C, H, W) whose activations set the ranges.
        method: How a range follows from the activations.

    Returns:
        Nothing; `target` is written.

    Differs from the paper: weights are symmetric, without a zero point.

    Cost: one float forward pass over the calibration inputs.

    Reference: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", equation 1.
    """
    _quantize(source, target, calibration, method, is_signed=False, per_channel=False)


@INT8_VARIANTS.register("signed_per_channel", paper="Jacob 2018")
def signed_per_channel(source: Path, target: Path, calibration: Calibration, *, method: Method = "minmax") -> None:
    """Signed activations with a zero point, signed weights with a scale for each output channel.

    x = s (q - z), q in -128..127; w_c = s_c q, q in -127..127.

    Args:
        source: Float ONNX file.
        target: Where the Q/DQ file goes.
        calibration: Inputs (B, C, H, W) whose activations set the ranges.
        method: How a range follows from the activations.

    Returns:
        Nothing; `target` is written.

    Differs from the paper: activations are signed, weights have a scale a channel.

    Cost: one float forward pass over the calibration inputs.

    Reference: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", equation 1.
    """
    _quantize(source, target, calibration, method, is_signed=True, per_channel=True)


@INT8_VARIANTS.register("symmetric_float_bias", paper="Wu 2020")
def symmetric_float_bias(source: Path, target: Path, calibration: Calibration, *, method: Method = "minmax") -> None:
    """Signed activations and weights without zero points, bias left in float: what TensorRT reads.

    x = s q, w_c = s_c q, q in -127..127.

    Args:
        source: Float ONNX file.
        target: Where the Q/DQ file goes.
        calibration: Inputs (B, C, H, W) whose activations set the ranges.
        method: How a range follows from the activations.

    Returns:
        Nothing; `target` is written.

    Differs from the paper: no difference.

    Cost: one float forward pass over the calibration inputs.

    Reference: Wu et al., "Integer Quantization for Deep Learning Inference: Principles and Empirical Evaluation",
    section 3.1.2.
    """
    more = {"ActivationSymmetric": True, "QuantizeBias": False}
    _quantize(source, target, calibration, method, is_signed=True, per_channel=True, more=more)


@INT8_VARIANTS.register("symmetric_fused", paper="Wu 2020")
def symmetric_fused(source: Path, target: Path, calibration: Calibration, *, method: Method = "minmax") -> None:
    """Symmetric INT8 whose pairs lie where TensorRT fuses: at inputs, at both of a residual sum, never before a ReLU.

    x = s q, w_c = s_c q, q in -127..127. A convolution and the activation behind it stay one kernel, and both inputs of
    a sum are INT8, so that TensorRT adds the shortcut inside the convolution's kernel instead of going back to float.

    Args:
        source: Float ONNX file.
        target: Where the Q/DQ file goes.
        calibration: Inputs (B, C, H, W) whose activations set the ranges.
        method: How a range follows from the activations.

    Returns:
        Nothing; `target` is written.

    Differs from the paper: pairs at the outputs of operators are left out; the next operator's input has one.

    Cost: one float forward pass over the calibration inputs.

    Reference: Wu et al., "Integer Quantization for Deep Learning Inference: Principles and Empirical Evaluation",
    section 3.1.2; placement after TensorRT's developer guide, "Q/DQ Layer-Placement Recommendations".
    """
    more = {"ActivationSymmetric": True, "QuantizeBias": False, INPUTS_ALONE: list(FUSED_OPS)}
    _quantize(source, target, calibration, method, is_signed=True, per_channel=True, more=more)


def _quantize(
    source: Path,
    target: Path,
    calibration: Calibration,
    method: Method,
    *,
    is_signed: bool,
    per_channel: bool,
    reduce_range: bool = False,
    more: Mapping[str, Any] | None = None,
) -> None:
    if not calibration:
        raise ValueError("INT8 needs calibration inputs: pass at least one batch of training data.")
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from deploy.export.onnx_from_model import copy_metadata

    methods = {
        "minmax": CalibrationMethod.MinMax,
        "entropy": CalibrationMethod.Entropy,
        "percentile": CalibrationMethod.Percentile,
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    silence = redirect_stdout(StringIO())
    with tempfile.TemporaryDirectory(prefix="secateur-") as folder, silence:
        prepared = Path(folder) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target),
            _reader(calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=per_channel,
            reduce_range=reduce_range,
            activation_type=QuantType.QInt8 if is_signed else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=methods[method],
            op_types_to_quantize=(more or {}).get(INPUTS_ALONE),
            extra_options={"CalibPercentile": PERCENTILE, **(more or {})},
        )
    copy_metadata(source, target)


def _reader(calibration: Calibration) -> Any:
    """Return the batches as ONNX Runtime's calibrator wants them."""
    from onnxruntime.quantization import CalibrationDataReader

    from deploy.export.onnx_from_model import INPUT

    class Batches(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter(calibration)

        def get_next(self) -> dict[str, NDArray[np.float32]] | None:
            x_BCHW = next(self._left, None)
            return None if x_BCHW is None else {INPUT: x_BCHW}

    return Batches()
