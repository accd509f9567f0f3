"""The stage `export`: one float ONNX file, the INT8 file that is worth shipping, an engine where one can be built."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copyfile
from typing import Any

from compress.core.stage import STAGES, StageCall, StageConfig, StageResult
from compress.measure import cost_of
from deploy.export.engine_from_onnx import EngineSettings, TensorRTMissing, engine_from_onnx, require_tensorrt
from deploy.export.half_onnx import half_onnx
from deploy.export.int8_choice import Int8Bench, Int8Limits, accuracy_of, choose
from deploy.export.onnx_from_model import OPSET, PARITY_MAX, onnx_from_model
from deploy.export.quantized_onnx import INT8_VARIANTS
from deploy.runtime.onnxruntime import FILES, OnnxSession
from deploy.runtime.tensorrt import ENGINE

VARIANTS = ("unsigned_per_channel", "unsigned_reduced_range", "unsigned_per_tensor", "signed_per_channel")


@dataclass(frozen=True, kw_only=True)
class ExportConfig(StageConfig):
    """Options of the stage.

    Attributes:
        opset: Version of the ONNX operators.
        parity_max: Largest difference between ONNX Runtime and torch that is let through.
        variants: Pieces of the family int8_variant to try, by name or JSON; none for no INT8.
        calibration_images: Training inputs that set the ranges of activations.
        validation_images: Validation inputs for the accuracy, at most; 0 for all.
        int8_drop_max: Accuracy that INT8 may lose, as a difference (0.005 is half a point).
        batches: Batch sizes for the latency; the first one decides.
        rounds: Rounds of paired timing a batch size.
        num_threads: Threads inside one operator.
        engine_batch_max: Largest batch of the TensorRT engine.
        seed: Seeds the calibration's choice and the timing's order.
    """

    opset: int = OPSET
    parity_max: float = PARITY_MAX
    variants: tuple[Any, ...] = VARIANTS
    calibration_images: int = 400
    validation_images: int = 2000
    int8_drop_max: float = 0.005
    batches: tuple[int, ...] = (32, 1)
    rounds: int = 40
    num_threads: int = 1
    engine_batch_max: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.batches:
            raise ValueError("batches is empty: name at least one batch size, for example 32.")
        for variant in self.variants:
            INT8_VARIANTS.from_json(variant)


@STAGES.register("export", config=ExportConfig, roles=("model",))
def export(call: StageCall) -> StageResult:
    """Export to ONNX, to the INT8 file that is measured to be worth it, and to TensorRT where there is a GPU."""
    config: ExportConfig = call.config
    model, folder = call.model(), call.scratch
    onnx_path = folder / FILES["fp32"]
    made = onnx_from_model(
        model, onnx_path, opset=config.opset, ref=call.parents["model"].ref, parity_max=config.parity_max
    )
    accuracy = accuracy_of(OnnxSession(onnx_path), call.task, limit=config.validation_images or None)
    int8, int8_files = _int8(call, onnx_path, accuracy)
    engine, engine_files = _engine(config, onnx_path, folder)
    report = {
        "cost": replace(cost_of(model), size_bytes=float(made.size_bytes)).as_json(),
        "validation_accuracy": accuracy,
        "onnx": made.as_json(),
        "int8": int8,
        "tensorrt": engine,
    }
    files = {FILES["fp32"]: onnx_path, **int8_files, **engine_files}
    return StageResult(report=report, model=model, files=files)


def _int8(call: StageCall, onnx_path: Path, accuracy: float) -> tuple[dict[str, Any], dict[str, Path]]:
    """Measure the variants, choose one, and return the report and the file to keep."""
    config: ExportConfig = call.config
    bench = Int8Bench(
        task=call.task,
        num_images=config.calibration_images,
        limit=config.validation_images or None,
        batches=config.batches,
        rounds=config.rounds,
        num_threads=config.num_threads,
        seed=config.seed,
    )
    pieces = [INT8_VARIANTS.from_json(variant) for variant in config.variants]
    variants = bench.measure(onnx_path, pieces, call.scratch / "int8") if pieces else []
    limits = Int8Limits(fp32_accuracy=accuracy, drop_max=config.int8_drop_max, batch=config.batches[0])
    choice = choose(variants, limits)
    report = {
        "status": choice.status,
        "reason": choice.reason,
        "batch": limits.batch,
        "variants": [variant.as_json(limits.batch) for variant in variants],
        "chosen": choice.chosen.name if choice.chosen else None,
    }
    if choice.chosen is None:
        return report, {}
    kept = call.scratch / FILES["int8"]
    copyfile(choice.chosen.path, kept)
    return report, {FILES["int8"]: kept}


def _engine(config: ExportConfig, onnx_path: Path, folder: Path) -> tuple[dict[str, Any], dict[str, Path]]:
    """Build an FP16 engine, or say why there is none."""
    try:
        trt = require_tensorrt()
    except TensorRTMissing as error:
        return {"status": "skipped", "reason": str(error)}, {}
    half, plan = folder / "model.fp16.onnx", folder / ENGINE
    half_onnx(onnx_path, half)
    largest = config.engine_batch_max
    settings = EngineSettings(opt_batch=min(8, largest), max_batch=largest, timing_cache=folder / "timing.cache")
    built = engine_from_onnx(half, plan, settings=settings, trt=trt)
    reason = f"FP16 engine of {built.size_bytes} bytes for batches 1 to {largest}."
    report = {"status": "built", "reason": reason, "size_bytes": built.size_bytes, "manifest": built.manifest}
    return report, {ENGINE: plan, f"{ENGINE}.json": plan.with_name(f"{ENGINE}.json")}
