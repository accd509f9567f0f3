"""AOTInductor: a compiled package, on the kind of machine that it was compiled for and on no other."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from compress.core.model import sha256_of
from compress.core.stage import Entry
from compress.measure.runtimes import RUNTIMES, Session
from deploy.export.aotinductor_from_model import check_archive, manifest_path

PACKAGE = "model.pt2"
#: Names in `torch.cpu.get_capabilities` of what the compiler may use for each of AOTInductor's instruction sets.
INSTRUCTIONS = {
    "AVX2": ("avx2", "fma3"),
    "AVX512": ("avx512_f", "avx512_dq", "avx512_vl", "avx512_bw", "fma3"),
    "AVX512_VNNI": ("avx512_vnni",),
    "AMX_TILE": ("amx_tile", "amx_bf16", "amx_int8"),
}


class WrongMachine(RuntimeError):
    """A package was compiled for another machine or version of torch; the message says for which."""


class AotSession:
    """A compiled package that is ready to answer.

    Loading runs the machine code of the package: load only what you built or pulled yourself.

    Attributes:
        path: The archive.
        device: "cpu" or "cuda".
        num_threads: CPU threads; those that it was compiled for.
        input_shape: (C, H, W) of one input.
        size_bytes: Size of the archive.
    """

    name = "aotinductor"

    def __init__(self, path: Path) -> None:
        manifest = read_manifest(path)
        if reason := mismatch(manifest):
            raise WrongMachine(f"{path.name} was compiled for {reason}: export it again on a machine like this one.")
        check_archive(path)
        if sha256_of(path) != manifest["archive"]["sha256"]:
            raise ValueError(f"{path.name} is not the archive that its manifest describes: pull or export it again.")
        self.path, self.size_bytes = path, path.stat().st_size
        self.device, self.num_threads = str(manifest["device"]), int(manifest["num_threads"])
        self.input_shape = tuple(int(size) for size in manifest["input_shape"])
        self._call = torch._inductor.aoti_load_package(str(path))

    def infer(self, x_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits (B, num_classes), float32, for inputs (B, C, H, W)."""
        if torch.get_num_threads() != self.num_threads:
            torch.set_num_threads(self.num_threads)
        with torch.inference_mode():
            logits_BC: NDArray[np.float32] = self._call(torch.from_numpy(x_BCHW).to(self.device)).float().cpu().numpy()
        return logits_BC


def read_manifest(path: Path) -> dict[str, Any]:
    """Return what the exporter wrote beside a package.

    Raises:
        ValueError: The package or its manifest is not there.
    """
    for part in (path, manifest_path(path)):
        if not part.is_file():
            raise ValueError(f"{part} does not exist: export with the option aotinductor, or copy both files.")
    found: dict[str, Any] = json.loads(manifest_path(path).read_text())
    return found


def mismatch(manifest: Mapping[str, Any]) -> str:
    """Return what a package was compiled for and this machine is not, or an empty string."""
    wanted_and_here = [
        ("torch", manifest["torch"], str(torch.__version__)),
        ("platform", manifest["platform"], sys.platform),
        ("processor", manifest["machine"], platform.machine()),
    ]
    if manifest["device"] == "cuda":
        wanted_and_here += [
            ("CUDA", manifest["cuda"], str(torch.version.cuda)),
            ("compute capability", manifest["compute_capability"], _capability()),
        ]
    for what, wanted, here in wanted_and_here:
        if wanted != here:
            return f"{what} {wanted}, and here is {here}"
    known = torch.cpu.get_capabilities()
    lacking = [name for name in manifest["cpu_isa"] if not all(known.get(one) for one in INSTRUCTIONS.get(name, ()))]
    return f"a processor with {', '.join(lacking)}, which this one lacks" if lacking else ""


def _capability() -> str:
    if not torch.cuda.is_available():
        return "no GPU"
    major, minor = torch.cuda.get_device_capability(0)
    return f"{major}.{minor}"


@RUNTIMES.register("aotinductor", package="torch")
@contextmanager
def aotinductor(entry: Entry) -> Iterator[Session]:
    """AOTInductor on the package that the export stage compiled.

    Args:
        entry: Holds model.pt2 and its manifest.

    Yields:
        A session whose logits are torch's within 1e-4; torch's number of threads is restored on exit.

    Differs from the paper: no paper.

    Cost: one forward pass a call, on a GPU with a copy there and back.

    Reference: torch._inductor.aoti_load_package.
    """
    if (path := entry.files.get(PACKAGE)) is None:
        reason = entry.report.get("aotinductor", {}).get("reason", "the export stage was not asked for one")
        raise ValueError(f"{entry.ref} holds no {PACKAGE} ({reason}): export with the option aotinductor.")
    before = torch.get_num_threads()
    try:
        yield AotSession(path)
    finally:
        torch.set_num_threads(before)
