"""AOTInductor packages: what is no package, and what is one for another machine, is refused before it runs."""

from __future__ import annotations

import json
import platform
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from compress import catalogue
from compress.core.stage import StageCall
from deploy.export import aotinductor_from_model as module
from deploy.export.aotinductor_from_model import CompilerMissing, UnsafeArchive, check_archive, require_compiler
from deploy.pull import aotinductor_file
from deploy.runtime.aotinductor import AotSession, WrongMachine, mismatch
from deploy.stages.export import ExportConfig, export
from tests.deploy.export.trained_toy import trained_toy
from tests.toys import toy_entry, toy_task

catalogue.load()

HERE = {
    "torch": torch.__version__,
    "platform": sys.platform,
    "device": "cpu",
    "cpu_isa": [],
    "num_threads": 1,
    "input_shape": [1, 8, 8],
}


def here(**changes: Any) -> dict[str, Any]:
    return {**HERE, "machine": platform.machine(), **changes}


def archive(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, b"0")
    return path


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"torch": "1.0"}, "torch 1.0, and here is"),
        ({"platform": "win32"}, "platform win32"),
        ({"machine": "riscv64"}, "processor riscv64"),
        ({"device": "cuda", "cuda": "1.0", "compute_capability": "9.0"}, "CUDA 1.0"),
        ({"device": "cuda", "cuda": str(torch.version.cuda), "compute_capability": "1.0"}, "compute capability 1.0"),
    ],
)
def test_a_package_for_another_machine_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    path = archive(tmp_path / "model.pt2", "model/a.so")
    path.with_name("model.pt2.json").write_text(json.dumps(here(**changes)))
    with pytest.raises(WrongMachine, match=re.escape(said)):
        AotSession(path)


def test_a_package_for_a_better_processor_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "fma3": True, "avx512_f": True})
    assert mismatch(here(cpu_isa=["AVX2"])) == ""
    assert mismatch(here(cpu_isa=["AVX512", "AVX512_VNNI"])).startswith("a processor with AVX512, AVX512_VNNI, which")


@pytest.mark.parametrize("name", ["model/data.pkl", "model/models/model.json.pt2", "../a.so", "/a.so", "model/a.py"])
def test_an_archive_with_anything_else_in_it_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnsafeArchive, match=re.escape(name)):
        check_archive(archive(tmp_path / "model.pt2", "model/a.so", name))


def test_an_archive_without_a_library_and_no_archive_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsafeArchive, match="no compiled library"):
        check_archive(archive(tmp_path / "model.pt2", "model/byteorder"))
    (tmp_path / "text.pt2").write_text("hello")
    with pytest.raises(UnsafeArchive, match=r"is no \.pt2 archive"):
        check_archive(tmp_path / "text.pt2")


def test_a_changed_archive_and_a_missing_manifest_are_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "model.pt2", "model/a.so")
    with pytest.raises(ValueError, match=r"model\.pt2\.json does not exist"):
        AotSession(path)
    path.with_name("model.pt2.json").write_text(json.dumps(here(archive={"sha256": "0" * 64})))
    with pytest.raises(ValueError, match="not the archive that its manifest describes"):
        AotSession(path)


def test_what_cannot_be_compiled_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="use one of cpu, cuda"):
        require_compiler("tpu")
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    with pytest.raises(CompilerMissing, match="install g\\+\\+"):
        require_compiler("cpu")
    config = ExportConfig(variants=(), aotinductor="cpu")
    call = StageCall(
        config=config, parents={"model": toy_entry(trained_toy())}, scratch=tmp_path, optional_task=toy_task()
    )
    result = export(call)
    assert result.report["aotinductor"]["status"] == "skipped"
    assert set(result.files) == {"model.onnx"}


def test_a_folder_without_a_package_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="export with the option aotinductor"):
        aotinductor_file(tmp_path)
