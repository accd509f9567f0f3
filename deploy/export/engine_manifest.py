"""What is recorded with every TensorRT engine: enough to know where it will load and what it was made from."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import subprocess
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.model import sha256_of

if TYPE_CHECKING:
    from deploy.export.engine_from_onnx import EngineSettings

#: Tag or digest of the Triton that is to load the engines; the chart sets it for all tasks (serving.triton.image).
TRITON_TAG = "SECATEUR_TRITON_TAG"


def manifest_of(trt: Any, logger: Any, *, source: Path, engine: bytes, settings: EngineSettings) -> dict[str, Any]:
    """Return versions, settings, hashes and the census of precisions of one engine.

    Args:
        trt: The module `tensorrt`.
        logger: The logger that the builder used.
        source: ONNX file that the engine was built from.
        engine: The serialized engine.
        settings: How it was built.
    """
    cache = settings.timing_cache
    shown = {**asdict(settings), "timing_cache": cache.name if cache else None}
    return {
        "tensorrt": trt.__version__,
        "is_strongly_typed": True,
        "settings": shown,
        "builder_flags": ["VERSION_COMPATIBLE"] if settings.is_version_compatible else [],
        "profiles": [{"min": settings.min_batch, "opt": settings.opt_batch, "max": settings.max_batch}],
        "engine": {"bytes": len(engine), "sha256": hashlib.sha256(engine).hexdigest()},
        "onnx": _onnx_facts(source),
        "timing_cache_sha256": sha256_of(cache) if cache and cache.is_file() else None,
        "precisions": _census(trt, logger, engine),
        "image": os.environ.get("SECATEUR_IMAGE_DIGEST", ""),
        "triton": os.environ.get(TRITON_TAG, ""),
    }


def gpu_facts() -> dict[str, Any]:
    """Return name and compute capability of the GPU and the CUDA versions; nothing without a GPU."""
    import torch

    if not torch.cuda.is_available():
        return {}
    major, minor = torch.cuda.get_device_capability(0)
    return {
        "gpu": torch.cuda.get_device_name(0),
        "compute_capability": f"{major}.{minor}",
        "cuda_runtime": torch.version.cuda,
        "cuda_driver": _driver_version(),
    }


def gpu_conditions() -> dict[str, Any]:
    """Return the GPU's clocks and power limit as nvidia-smi tells them; nothing without it."""
    if (program := shutil.which("nvidia-smi")) is None:
        return {}
    wanted = ("clocks.sm", "clocks.mem", "power.limit")
    command = [program, f"--query-gpu={','.join(wanted)}", "--format=csv,noheader", "--id=0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    told = [part.strip() for part in done.stdout.strip().split(",")]
    return {"gpu_conditions": dict(zip(wanted, told, strict=True))} if len(told) == len(wanted) else {}


def _driver_version() -> str | None:
    """Return the newest CUDA version that the driver serves ("13.0"), or None without a driver."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return f"{version.value // 1000}.{version.value % 1000 // 10}"


def _onnx_facts(source: Path) -> dict[str, Any]:
    import onnx

    graph = onnx.load(str(source), load_external_data=False)
    opset = max(item.version for item in graph.opset_import if item.domain in ("", "ai.onnx"))
    return {
        "sha256": sha256_of(source),
        "opset": opset,
        "producer": f"{graph.producer_name} {graph.producer_version}".strip(),
    }


def _census(trt: Any, logger: Any, engine: bytes) -> dict[str, int]:
    """Return how many layers write each format, in the words of TensorRT's inspector.

    A version-compatible engine carries code of its own that the runtime must be allowed to run.
    """
    runtime = trt.Runtime(logger)
    runtime.engine_host_code_allowed = True
    loaded = runtime.deserialize_cuda_engine(engine)
    if loaded is None:
        return {}
    text = loaded.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    formats = [
        layer["Outputs"][0].get("Format/Datatype", "unknown")
        for layer in json.loads(text).get("Layers", [])
        if isinstance(layer, dict) and layer.get("Outputs")
    ]
    return dict(sorted(Counter(formats).items()))
