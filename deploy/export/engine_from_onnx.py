"""TensorRT engine from ONNX: strongly typed, so that the precision is the file's and nobody else's.

FP16 comes from `half_onnx`, INT8 from a Q/DQ file. TensorRT 11 dropped the precision flags and
calibrators, so what is written here uses only names that 10.16 and 11.x share.
"""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from compress.core.layout import write_json
from compress.core.registry import UnknownName
from compress.data.cache import atomic_file, cache_folder
from deploy.export.engine_manifest import gpu_conditions, gpu_facts, manifest_of

GIB = 1 << 30
#: Members of `trt.HardwareCompatibilityLevel` that both major versions have.
HARDWARE_LEVELS = ("NONE", "AMPERE_PLUS", "SAME_COMPUTE_CAPABILITY")


class TensorRTMissing(RuntimeError):
    """No engine can be built here; the message is the reason."""


class EngineError(RuntimeError):
    """TensorRT refused the network; the message holds what it said."""


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How an engine is built.

    Attributes:
        min_batch: Smallest batch that it takes.
        opt_batch: Batch that it is tuned for.
        max_batch: Largest batch that it takes.
        workspace_bytes: Memory that tactics may use.
        optimization_level: 0 (quick build) to 5 (search long).
        is_version_compatible: Whether newer TensorRT runtimes may load it, at some cost in speed.
        hardware_compatibility: Name in `trt.HardwareCompatibilityLevel`: NONE, AMPERE_PLUS, SAME_COMPUTE_CAPABILITY.
        timing_cache: File of kernel timings, read and written; None for no cache.
    """

    min_batch: int = 1
    opt_batch: int = 8
    max_batch: int = 32
    workspace_bytes: int = GIB
    optimization_level: int = 3
    is_version_compatible: bool = False
    hardware_compatibility: str = "NONE"
    timing_cache: Path | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.min_batch <= self.opt_batch <= self.max_batch:
            raise ValueError(
                f"batches {self.min_batch}, {self.opt_batch}, {self.max_batch}: need 1 <= min <= opt <= max."
            )
        if self.hardware_compatibility not in HARDWARE_LEVELS:
            raise UnknownName.among("hardware compatibility", self.hardware_compatibility, HARDWARE_LEVELS)


@dataclass(frozen=True)
class EngineExport:
    """A built engine.

    Attributes:
        path: The serialized engine.
        size_bytes: Its size.
        manifest: Versions, GPU, settings, hashes, precision census; also written to `<path>.json`.
    """

    path: Path
    size_bytes: int
    manifest: dict[str, Any]


def require_tensorrt() -> ModuleType:
    """Return the module `tensorrt` on a machine that can build engines.

    Raises:
        TensorRTMissing: The package or its libraries or a GPU is not there.
    """
    try:
        trt = importlib.import_module("tensorrt")
    except (ImportError, OSError, RuntimeError) as error:
        raise TensorRTMissing(f"TensorRT cannot be imported ({error}): install secateur[tensorrt].") from error
    import torch

    if not torch.cuda.is_available():
        raise TensorRTMissing(f"TensorRT {trt.__version__} is installed, but torch sees no NVIDIA GPU here.")
    return trt


def require_capability(wanted: str) -> None:
    """Check that the GPU here is of the kind that the engine is for; nothing is checked for an empty name.

    Args:
        wanted: Compute capability ("8.6"), or an empty string for whatever GPU is here.

    Raises:
        TensorRTMissing: The GPU here has another compute capability.
    """
    if not wanted or (here := gpu_facts().get("compute_capability", "none")) == wanted:
        return
    raise TensorRTMissing(
        f"The engine is for GPUs of compute capability {wanted}, the one here has {here}: delete this entry from the "
        f"store and export again on a machine with such a GPU, or set engine_capability to what is here."
    )


def timing_cache(trt: Any) -> Path:
    """Return where timings are kept between builds: one file a version of TensorRT and a kind of GPU."""
    capability = gpu_facts().get("compute_capability", "none")
    return cache_folder() / "tensorrt" / f"timing-{trt.__version__}-sm{capability}.cache"


def engine_from_onnx(
    source: Path, target: Path, *, settings: EngineSettings | None = None, trt: Any = None
) -> EngineExport:
    """Build an engine from an ONNX file and write it and its manifest.

    Args:
        source: Float, FP16 or Q/DQ ONNX file with one input whose first axis is the batch.
        target: Where the engine goes; the manifest is `<target>.json`.
        settings: Batches, workspace, compatibility; the defaults when not given.
        trt: The module `tensorrt`; found by `require_tensorrt` when not given.

    Raises:
        TensorRTMissing: This machine cannot build engines.
        EngineError: The parser or the builder refused; says why.
    """
    trt = trt or require_tensorrt()
    settings = settings or EngineSettings()
    started = time.monotonic()
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    _parse(trt, network, logger, source)
    config = _configured(trt, builder, network, settings)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"TensorRT built no engine from {source.name}: its log above says which layer it refused.")
    data = bytes(plan)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    if settings.timing_cache is not None:
        with atomic_file(settings.timing_cache) as partial:
            partial.write_bytes(bytes(config.get_timing_cache().serialize()))
    build_s = time.monotonic() - started
    manifest = manifest_of(trt, logger, source=source, engine=data, settings=settings)
    manifest |= {"build_seconds": round(build_s, 3), **gpu_facts(), **gpu_conditions()}
    write_json(target.with_name(f"{target.name}.json"), manifest)
    return EngineExport(target, len(data), manifest)


def _parse(trt: Any, network: Any, logger: Any, source: Path) -> None:
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(source)):
        said = "; ".join(parser.get_error(index).desc() for index in range(parser.num_errors))
        raise EngineError(f"TensorRT cannot read {source.name}: {said or 'it gives no reason'}.")


def _configured(trt: Any, builder: Any, network: Any, settings: EngineSettings) -> Any:
    """Return the builder's configuration: profile, memory, compatibility, timing cache."""
    config = builder.create_builder_config()
    config.builder_optimization_level = settings.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, settings.hardware_compatibility)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_bytes)
    if settings.is_version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    profile = builder.create_optimization_profile()
    entry = network.get_input(0)
    sizes = tuple(entry.shape)[1:]
    profile.set_shape(
        entry.name, *((batch, *sizes) for batch in (settings.min_batch, settings.opt_batch, settings.max_batch))
    )
    config.add_optimization_profile(profile)
    if settings.timing_cache is not None:
        known = settings.timing_cache.read_bytes() if settings.timing_cache.is_file() else b""
        if not config.set_timing_cache(config.create_timing_cache(known), False):
            config.set_timing_cache(config.create_timing_cache(b""), False)
    return config
