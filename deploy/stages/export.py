"""The stage `export`: one float ONNX file, the INT8 file that is worth shipping, an engine where one can be built.

An AOTInductor package comes on top when it is asked for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import copyfile
from typing import Any, Literal

from compress.core.stage import STAGES, StageCall, StageConfig, StageResult
from compress.measure import cost_of
from compress.measure.runtimes import Session
from deploy.export.aotinductor_from_model import CompilerMissing, aotinductor_from_model, manifest_path
from deploy.export.engine_choice import INT8, EngineBench, EngineCandidate, choose_engine, latency_report
from deploy.export.engine_from_onnx import (
    EngineError,
    EngineExport,
    EngineSettings,
    TensorRTMissing,
    engine_from_onnx,
    require_capability,
    require_tensorrt,
    timing_cache,
)
from deploy.export.half_onnx import half_onnx
from deploy.export.int8_choice import Int8Bench, Int8Limits, accuracy_of, choose
from deploy.export.onnx_from_model import OPSET, PARITY_MAX, onnx_from_model
from deploy.export.quantized_onnx import INT8_VARIANTS, calibration_batches
from deploy.parity import Parity, parity
from deploy.runtime.aotinductor import PACKAGE
from deploy.runtime.onnxruntime import FILES, OnnxSession
from deploy.runtime.tensorrt import ENGINE, EngineSession

VARIANTS = ("unsigned_per_channel", "unsigned_reduced_range", "unsigned_per_tensor", "signed_per_channel")
#: Piece of the family int8_variant that TensorRT's INT8 engine is built from.
ENGINE_VARIANT = "symmetric_fused"


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
        engine_precision: "fp16", or "bf16" for networks whose activations leave the range of FP16.
        engine_parity_max: Largest difference between the 16-bit engine and torch that is let through, relative to
            torch's largest output when that is above 1.
        engine_drop_max: Accuracy that the 16-bit engine may lose against ONNX Runtime, as a difference.
        engine_int8: Whether to build an INT8 engine too, and to ship it if it is surely faster.
        engine_version_compatible: Whether newer TensorRT runtimes may load the engine, at some cost in speed.
        engine_hardware: GPUs that may load it: NONE (the builder's kind), AMPERE_PLUS or SAME_COMPUTE_CAPABILITY.
        engine_capability: Compute capability of the GPU that the engine is for ("8.6"), built there alone; empty: of
            the GPU that is here. Exports for several kinds of GPU are entries of their own.
        aotinductor: Device to compile an AOTInductor package for: "cpu", "cuda", or "none".
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
    engine_precision: Literal["fp16", "bf16"] = "fp16"
    engine_parity_max: float = 0.02
    engine_drop_max: float = 0.005
    engine_int8: bool = False
    engine_version_compatible: bool = False
    engine_hardware: Literal["NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY"] = "NONE"
    engine_capability: str = ""
    aotinductor: Literal["none", "cpu", "cuda"] = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        # JSON and the command line read 8.6 as a number.
        object.__setattr__(self, "engine_capability", str(self.engine_capability))
        super().__post_init__()
        if not self.batches:
            raise ValueError("batches is empty: name at least one batch size, for example 32.")
        for name, is_good, allowed in (
            ("opset", self.opset >= OPSET, f"{OPSET} or more"),
            ("parity_max", self.parity_max >= 0, "0 or more"),
            ("calibration_images", self.calibration_images >= 1, "1 or more"),
            ("validation_images", self.validation_images >= 0, "0 or more"),
            ("int8_drop_max", 0 <= self.int8_drop_max <= 1, "in [0, 1]"),
            ("batches", min(self.batches) >= 1, "1 or more each"),
            ("rounds", self.rounds >= 1, "1 or more"),
            ("num_threads", self.num_threads >= 1, "1 or more"),
            ("engine_batch_max", self.engine_batch_max >= 1, "1 or more"),
            ("engine_drop_max", 0 <= self.engine_drop_max <= 1, "in [0, 1]"),
            ("engine_parity_max", self.engine_parity_max >= 0, "0 or more"),
            ("engine_capability", _is_capability(self.engine_capability), 'written like "8.6", or empty'),
        ):
            if not is_good:
                raise ValueError(f"{name}={getattr(self, name)!r}: must be {allowed}.")
        for variant in self.variants:
            INT8_VARIANTS.from_json(variant)


def _is_capability(text: str) -> bool:
    return re.fullmatch(r"([1-9][0-9]*\.[0-9])?", text) is not None


@STAGES.register("export", config=ExportConfig, roles=("model",), version=3)
def export(call: StageCall) -> StageResult:
    """Export to ONNX, to the INT8 file that is measured to be worth it, and to TensorRT where there is a GPU.

    The engine is an extra: when it cannot be built or answers otherwise than torch, the report says why.
    """
    config: ExportConfig = call.config
    model, folder = call.model(), call.scratch
    onnx_path = folder / FILES["fp32"]
    made = onnx_from_model(
        model, onnx_path, opset=config.opset, ref=call.parents["model"].ref, parity_max=config.parity_max
    )
    accuracy = accuracy_of(OnnxSession(onnx_path), call.task, limit=config.validation_images or None)
    int8, int8_files = _int8(call, onnx_path, accuracy)
    engine, engine_files = _engine(call, onnx_path, accuracy)
    report = {
        "cost": replace(cost_of(model), size_bytes=float(made.size_bytes)).as_json(),
        "validation_accuracy": accuracy,
        "onnx": made.as_json(),
        "int8": int8,
        "tensorrt": engine,
    }
    files = {FILES["fp32"]: onnx_path, **int8_files, **engine_files}
    if config.aotinductor != "none":
        report["aotinductor"], compiled = _aotinductor(call)
        files |= compiled
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


def _aotinductor(call: StageCall) -> tuple[dict[str, Any], dict[str, Path]]:
    """Compile a package and keep it when it answers as torch does, or say why there is none."""
    config: ExportConfig = call.config
    path = call.scratch / PACKAGE
    try:
        made = aotinductor_from_model(
            call.model(), path, device=config.aotinductor, num_threads=config.num_threads, parity_max=config.parity_max
        )
    except CompilerMissing as error:
        return {"status": "skipped", "reason": str(error)}, {}
    except Exception as error:
        return {"status": "failed", "reason": f"{type(error).__name__}: {error}"}, {}
    reason = f"package of {made.size_bytes} bytes for {config.aotinductor}, any batch."
    report = {"status": "built", "reason": reason, "size_bytes": made.size_bytes, "manifest": dict(made.manifest)}
    return report, {PACKAGE: path, manifest_path(path).name: manifest_path(path)}


def _engine(call: StageCall, onnx_path: Path, accuracy: float) -> tuple[dict[str, Any], dict[str, Path]]:
    """Build engines and keep the one that is worth it, or say why there is none.

    Whatever TensorRT or the conversion raises costs the engine alone, not the ONNX files that are good.
    """
    try:
        trt = require_tensorrt()
        require_capability(call.config.engine_capability)
        return _EngineBuild(call, trt, onnx_path, accuracy).run()
    except TensorRTMissing as error:
        return {"status": "skipped", "reason": str(error)}, {}
    except Exception as error:
        said = str(error) if isinstance(error, EngineError) else f"{type(error).__name__}: {error}"
        return {"status": "failed", "reason": said}, {}


@dataclass(frozen=True)
class _EngineBuild:
    """One export's engines."""

    call: StageCall
    trt: Any
    onnx_path: Path
    accuracy: float

    def run(self) -> tuple[dict[str, Any], dict[str, Path]]:
        """Return the report and the files to keep."""
        config: ExportConfig = self.call.config
        name = config.engine_precision.upper()
        path = self.call.scratch / "model.half.onnx"
        half_onnx(self.onnx_path, path, precision=config.engine_precision)
        built = self._built(path, self.call.scratch / ENGINE)
        session = EngineSession(built.path, trt=self.trt)
        found = self._parity(session)
        limit = config.engine_parity_max * max(1.0, found.largest)
        compared = {"max_abs": found.max_abs, "top1_agree": found.top1_agree, "limit": limit}
        if not found.max_abs <= limit:
            reason = (
                f"the {name} engine differs from torch by {found.max_abs:.3g} (allowed {limit:.3g}, engine_parity_max "
                f"{config.engine_parity_max:g}; {found.top1_agree:.1%} equal answers), so it is not kept."
            )
            return {"status": "failed", "reason": reason, "parity": compared}, {}
        half = self._candidate(config.engine_precision, built, session)
        drop = self.accuracy - half.validation_accuracy
        if drop > config.engine_drop_max + 1e-9:
            reason = (
                f"the {name} engine has {half.validation_accuracy:.2%} validation accuracy against {self.accuracy:.2%} "
                f"of ONNX Runtime (may lose {100 * config.engine_drop_max:g} points), so it is not kept."
            )
            return {"status": "failed", "reason": reason, "parity": compared}, {}
        kept, more = self._chosen(half)
        reason = f"{kept.precision.upper()} engine of {kept.export.size_bytes} bytes for batches 1 to "
        report = {
            "status": "built",
            "reason": f"{reason}{config.engine_batch_max}.",
            "size_bytes": kept.export.size_bytes,
            "manifest": kept.export.manifest,
            "parity": compared,
            "precision": kept.precision,
            "validation_accuracy": kept.validation_accuracy,
            **more,
        }
        path = kept.export.path
        return report, {ENGINE: path, f"{ENGINE}.json": path.with_name(f"{path.name}.json")}

    def _chosen(self, half: EngineCandidate) -> tuple[EngineCandidate, dict[str, Any]]:
        """Return the engine to keep, and what the report says of latency and of INT8."""
        config, bench = self.call.config, self._bench
        sessions: dict[str, Session] = {"onnxruntime": OnnxSession(self.onnx_path), half.precision: half.session}
        if not config.engine_int8:
            found = bench.latency(sessions)
            return half, {"latency": latency_report(found, "onnxruntime"), "conditions": bench.conditions()}
        try:
            int8 = self._int8()
        except Exception as error:
            found = bench.latency(sessions)
            refused = {
                "status": "refused",
                "reason": f"no INT8 engine was built ({error}): {half.precision.upper()} is kept.",
            }
            return half, {"latency": latency_report(found, "onnxruntime"), INT8: refused}
        found = bench.latency({**sessions, INT8: int8.session})
        speedup = found[bench.deciding_batch].ratio(half.precision, INT8)
        choice = choose_engine(half, int8, speedup=speedup, accuracy=self.accuracy, drop_max=config.int8_drop_max)
        kept = int8 if choice.precision == INT8 else half
        verdict = {
            "status": "accepted" if kept is int8 else "refused",
            "reason": choice.reason,
            "speedup_vs_half": speedup.as_json(),
            "validation_accuracy": int8.validation_accuracy,
        }
        more = {"latency": latency_report(found, "onnxruntime"), "conditions": bench.conditions(), INT8: verdict}
        return kept, more

    def _int8(self) -> EngineCandidate:
        """Build the engine from a file whose pairs lie where TensorRT fuses; what has no pair has 16 bits."""
        config: ExportConfig = self.call.config
        pairs, path = self.call.scratch / "model.pairs.onnx", self.call.scratch / "model.int8_half.onnx"
        batches = calibration_batches(self.call.task, num_images=config.calibration_images, seed=config.seed)
        INT8_VARIANTS.bind(ENGINE_VARIANT)(self.onnx_path, pairs, batches)
        half_onnx(pairs, path, precision=config.engine_precision)
        built = self._built(path, self.call.scratch / "int8" / ENGINE)
        return self._candidate(INT8, built, EngineSession(built.path, trt=self.trt))

    def _candidate(self, precision: str, built: EngineExport, session: Session) -> EngineCandidate:
        accuracy = self._bench.accuracy(session)
        return EngineCandidate(precision=precision, export=built, session=session, validation_accuracy=accuracy)

    @property
    def _bench(self) -> EngineBench:
        config: ExportConfig = self.call.config
        return EngineBench(
            task=self.call.task,
            batches=config.batches,
            max_batch=config.engine_batch_max,
            limit=config.validation_images or None,
            rounds=config.rounds,
            seed=config.seed,
        )

    def _built(self, source: Path, target: Path) -> EngineExport:
        config, largest = self.call.config, self.call.config.engine_batch_max
        settings = EngineSettings(
            opt_batch=min(8, largest),
            max_batch=largest,
            timing_cache=timing_cache(self.trt),
            is_version_compatible=config.engine_version_compatible,
            hardware_compatibility=config.engine_hardware,
        )
        return engine_from_onnx(source, target, settings=settings, trt=self.trt)

    def _parity(self, session: Session) -> Parity:
        """Compare an engine with torch on one batch of validation inputs."""
        size = self.call.config.engine_batch_max
        x_BCHW, _ = next(iter(self.call.task.batches("validation", batch_size=size, limit=size)))
        return parity(self.call.model(), {session.name: session}, x_BCHW)
