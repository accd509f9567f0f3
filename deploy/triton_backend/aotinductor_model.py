"""Triton's Python backend running an AOTInductor package, which is machine code for one processor and one torch.

Needs numpy and torch in the Python that the backend runs. The package is loaded only when the manifest beside it
describes it and this machine. The requests that Triton batches are answered by one call of the network.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
import triton_python_backend_utils as pb_utils

FILE, INPUT, OUTPUT = "model.pt2", "input", "logits"
#: What a compiled package consists of; torch would unpickle some other files.
ALLOWED_SUFFIXES = frozenset({".so", ".json", ".cubin"})
ALLOWED_NAMES = frozenset({"archive_format", "archive_version", "byteorder", "version", "serialization_id"})
#: Names in `torch.cpu.get_capabilities` of what AOTInductor's instruction sets need.
INSTRUCTIONS = {
    "AVX2": ("avx2", "fma3"),
    "AVX512": ("avx512_f", "avx512_dq", "avx512_vl", "avx512_bw", "fma3"),
    "AVX512_VNNI": ("avx512_vnni",),
    "AMX_TILE": ("amx_tile", "amx_bf16", "amx_int8"),
}


class TritonPythonModel:
    """One instance of the model; Triton calls its methods."""

    def initialize(self, args: dict[str, str]) -> None:
        """Check the package of this version against its manifest, and load it."""
        path = Path(args["model_repository"]) / args["model_version"] / FILE
        manifest = json.loads(path.with_name(f"{FILE}.json").read_text())
        if reason := _objection(path, manifest):
            raise RuntimeError(f"{path} is not loaded: {reason}. Export it again on a machine like this one, and pull.")
        is_gpu = manifest["device"] == "cuda"
        self._device = f"cuda:{int(args['model_instance_device_id'])}" if is_gpu else "cpu"
        torch.set_num_threads(int(manifest["num_threads"]))
        index = torch.device(self._device).index if is_gpu else -1
        self._call = torch._inductor.aoti_load_package(str(path), device_index=index)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer all requests with one call of the network."""
        arrays = [pb_utils.get_input_tensor_by_name(request, INPUT).as_numpy() for request in requests]
        x_BCHW = torch.from_numpy(np.concatenate(arrays)).to(self._device)
        with torch.inference_mode():
            logits_BC = self._call(x_BCHW).float().cpu().numpy()
        parts = np.split(logits_BC, np.cumsum([len(array) for array in arrays])[:-1])
        return [pb_utils.InferenceResponse([pb_utils.Tensor(OUTPUT, part)]) for part in parts]


def _objection(path: Path, manifest: dict[str, Any]) -> str:
    """Return why a package must not be loaded here, or an empty string."""
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != manifest["archive"]["sha256"]:
            return "it is not the archive that its manifest describes"
    with zipfile.ZipFile(path) as archive:
        names = [PurePosixPath(name) for name in archive.namelist()]
    strange = [name for name in names if name.suffix not in ALLOWED_SUFFIXES and name.name not in ALLOWED_NAMES]
    if strange or any(name.is_absolute() or ".." in name.parts or "\\" in str(name) for name in names):
        return f"it holds {str((strange or names)[0])!r}, which no compiled package needs"
    here = {"torch": str(torch.__version__), "platform": sys.platform, "machine": platform.machine()}
    if manifest["device"] == "cuda":
        here |= {"cuda": str(torch.version.cuda), "compute_capability": _capability()}
    known = torch.cpu.get_capabilities()
    for name, found in here.items():
        if manifest[name] != found:
            return f"it was compiled for {name} {manifest[name]}, and here is {found}"
    lacking = [name for name in manifest["cpu_isa"] if not all(known.get(one) for one in INSTRUCTIONS.get(name, ()))]
    return f"it needs a processor with {', '.join(lacking)}, which this one lacks" if lacking else ""


def _capability() -> str:
    if not torch.cuda.is_available():
        return "no GPU"
    major, minor = torch.cuda.get_device_capability(0)
    return f"{major}.{minor}"
