"""AOTInductor package from a model: torch.export and a C++ compiler make one archive that needs no Python to run.

The archive holds a shared library for one kind of processor and one version of torch; a manifest beside it says which.
It never holds a pickle, and nothing of the place where it was built.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
import time
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from compress.core.layout import write_json
from compress.core.model import Model, sha256_of
from deploy.export.onnx_from_model import PARITY_BATCHES, PARITY_MAX, ParityError

#: File names inside an archive that may stay; a library, what it was built for, and marks of the format.
ALLOWED_SUFFIXES = frozenset({".so", ".json", ".cubin"})
ALLOWED_NAMES = frozenset({"archive_format", "archive_version", "byteorder", "version", "serialization_id"})
#: Sources that torch packs beside the library, with the paths of the machine; nobody reads them again.
SOURCE_SUFFIXES = frozenset({".cpp"})
DEVICES = ("cpu", "cuda")


class CompilerMissing(RuntimeError):
    """Nothing can be compiled here; the message is the reason."""


class UnsafeArchive(ValueError):
    """An archive holds something else than a compiled library."""


@dataclass(frozen=True)
class AotExport:
    """A compiled package that agrees with its model.

    Attributes:
        path: The archive; its manifest is `<path>.json`.
        size_bytes: Its size.
        manifest: Version of torch, processor, threads, hash, seconds, parity.
    """

    path: Path
    size_bytes: int
    manifest: Mapping[str, Any]


def require_compiler(device: str = "cpu") -> None:
    """Raise CompilerMissing unless a package for `device` can be compiled here."""
    import torch

    if device not in DEVICES:
        raise ValueError(f"AOTInductor: device {device!r}; use one of {', '.join(DEVICES)}.")
    if not hasattr(torch.cpu, "get_capabilities"):
        raise CompilerMissing(f"AOTInductor packages need a newer torch than {torch.__version__}.")
    name = os.environ.get("CXX", "g++")
    if shutil.which(name) is None and shutil.which("clang++") is None:
        raise CompilerMissing(f"AOTInductor needs a C++ compiler and finds no {name}: install g++, or set CXX.")
    if device == "cuda" and not torch.cuda.is_available():
        raise CompilerMissing("AOTInductor can compile for a GPU only beside one, and torch sees none here.")


def aotinductor_from_model(
    model: Model, path: Path, *, device: str = "cpu", num_threads: int = 1, parity_max: float = PARITY_MAX
) -> AotExport:
    """Compile `model` for `device`, compare it with torch, and write the archive and its manifest.

    Args:
        model: What to compile; it is left as it is.
        path: Where the archive goes; ends in .pt2.
        device: "cpu" or "cuda".
        num_threads: CPU threads of the compiled loops; fixed at compile time.
        parity_max: Largest difference of an output that is let through (see `Parity.is_within`).

    Raises:
        CompilerMissing: This machine cannot compile for the device.
        ParityError: The package answers otherwise than torch.
    """
    import torch

    require_compiler(device)
    if path.suffix != ".pt2":
        raise ValueError(f"{path.name}: name the AOTInductor package with the ending .pt2.")
    path.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="secateur-") as folder:
        made = Path(folder) / "model.pt2"
        _compile(model, made, device, num_threads, cache=Path(folder) / "cache")
        _repack(made, path, places=(folder, str(Path(folder).resolve()), str(Path(torch.__file__).parent)))
    check_archive(path)
    manifest: dict[str, Any] = {
        "format": 1,
        **_built_for(path, device),
        "num_threads": num_threads,
        "input_shape": list(model.input.shape),
        "archive": {"bytes": path.stat().st_size, "sha256": sha256_of(path)},
        "build_seconds": round(time.monotonic() - started, 3),
    }
    write_json(manifest_path(path), manifest)
    manifest["parity_max_abs"] = _compare(model, path, parity_max)
    write_json(manifest_path(path), manifest)
    return AotExport(path, path.stat().st_size, manifest)


def check_archive(path: Path) -> None:
    """Raise UnsafeArchive unless an archive holds a library and texts alone: no pickle, no program, no way out.

    torch would unpickle an exported program that lies in such an archive, so that this comes before it reads one.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise UnsafeArchive(f"{path.name} is no .pt2 archive ({error}): export the model again.") from error
    for name in names:
        place = PurePosixPath(name)
        is_known = place.suffix in ALLOWED_SUFFIXES or place.name in ALLOWED_NAMES
        if not is_known or place.is_absolute() or ".." in place.parts or "\\" in name:
            raise UnsafeArchive(f"{path.name} holds {name!r}, which no compiled package needs: do not load it.")
    if not any(name.endswith(".so") for name in names):
        raise UnsafeArchive(f"{path.name} holds no compiled library: export the model again.")


def manifest_path(path: Path) -> Path:
    """Return where the manifest of a package lies."""
    return path.with_name(f"{path.name}.json")


def _compile(model: Model, path: Path, device: str, num_threads: int, cache: Path) -> None:
    import torch
    from torch._inductor import aoti_compile_and_package

    module = copy.deepcopy(model.module).to(device).eval()
    batch = {0: torch.export.Dim("batch", min=1)}
    with warnings.catch_warnings(), _inductor_cache(cache), torch.no_grad():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, (model.input.example(2).to(device),), dynamic_shapes=(batch,))
        aoti_compile_and_package(program, package_path=str(path), inductor_configs=_settings(device, num_threads))


def _settings(device: str, num_threads: int) -> dict[str, Any]:
    """Return what the compiler is told: no instructions but the named ones, no debug lines, nothing outside its cache.

    Freezing folds batch norms into convolutions and lays out weights for the CPU's kernels.
    """
    return {
        "freezing": device == "cpu",
        "compile_threads": 1,
        "cpp.threads": num_threads,
        "cpp.march": "",
        "cpp_cache_precompile_headers": False,
        "aot_inductor.precompile_headers": False,
        "aot_inductor.enable_line_tables": False,
        "aot_inductor.enable_frame_pointer": False,
    }


@contextmanager
def _inductor_cache(folder: Path) -> Iterator[None]:
    """Let the compiler write its files into `folder`, which works where the root file system is read-only."""
    key = "TORCHINDUCTOR_CACHE_DIR"
    before = os.environ.get(key)
    os.environ[key] = str(folder)
    try:
        yield
    finally:
        os.environ.pop(key, None)
        if before is not None:
            os.environ[key] = before


def _repack(made: Path, path: Path, places: Sequence[str]) -> None:
    """Copy an archive without the sources, with one date for all files, and with dots for the folders in `places`.

    The library names its sources in messages alone, so that texts of equal length can stand there.
    """
    with zipfile.ZipFile(made) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
        for item in source.infolist():
            if PurePosixPath(item.filename).suffix not in SOURCE_SUFFIXES:
                data = source.read(item)
                for place in map(str.encode, places):
                    data = data.replace(place, b"." * len(place))
                target.writestr(zipfile.ZipInfo(item.filename, (1980, 1, 1, 0, 0, 0)), data)


def _built_for(path: Path, device: str) -> dict[str, Any]:
    """Return what the package needs to be the same where it is loaded."""
    import torch

    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith("wrapper_metadata.json")]
        facts = json.loads(archive.read(names[0]))
    return {
        "torch": torch.__version__,
        "device": device,
        "platform": facts["AOTI_PLATFORM"],
        "machine": facts["AOTI_MACHINE"],
        "cpu_isa": facts["AOTI_CPU_ISA"].split(),
        "compute_capability": _capability(torch) if device == "cuda" else "",
        "cuda": torch.version.cuda if device == "cuda" else "",
    }


def _capability(torch: Any) -> str:
    major, minor = torch.cuda.get_device_capability(0)
    return f"{major}.{minor}"


def _compare(model: Model, path: Path, parity_max: float) -> float:
    from deploy.parity import parity
    from deploy.runtime.aotinductor import AotSession

    session, worst = AotSession(path), 0.0
    for batch in PARITY_BATCHES:
        found = parity(model, {session.name: session}, model.input.example(batch))
        worst = max(worst, found.max_abs)
        if not found.is_within(parity_max):
            raise ParityError(
                f"{path.name} differs from the model by {found.max_abs:.3g} at batch {batch} (allowed "
                f"{parity_max:g}): raise parity_max if that is good enough, or export without AOTInductor."
            )
    return worst
