"""What a registered version consists of: model, ONNX files, cascade, reports, an example and every hash."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.layout import write_json
from compress.core.model import sha256_of
from compress.core.stage import Ref
from compress.store import ModelStore
from deploy.tracking.pull import EXAMPLE, PACKAGE

if TYPE_CHECKING:
    from compress.core.model import Model

#: What a gate says of an INT8 file or a cascade that lost too much; it is left out of the package.
DEMOTED = "demoted"


def build_package(store: ModelStore, folder: Path, refs: Mapping[str, str], *, name: str) -> None:
    """Write everything that a user of the model needs into `folder`, with the SHA-256 of each file."""
    export = store.get(Ref(refs["export"]))
    folder.mkdir(parents=True)
    assert export.folder is not None
    shutil.copytree(export.folder, folder / "model")
    has_int8 = store.record(Ref(refs["gate"]))["report"].get("int8") != DEMOTED
    for relative, source in export.files.items():
        if has_int8 or relative != "model.int8.onnx":
            _copy(source, folder / "files" / relative)
    _write_example(export.model, folder / EXAMPLE)
    for part in ("export", "evaluation", "gate", "cascade"):
        if refs[part]:
            write_json(folder / f"{part}.json", store.record(Ref(refs[part])))
    if refs["cascade"]:
        _pack_cascade(store, folder / "cascade", refs)
    report = store.record(Ref(refs["evaluation"]))["report"]
    (folder / "README.md").write_text(_card(name, report))
    files = {str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    write_json(folder / PACKAGE, {"format": 1, "refs": dict(refs), "files": files})


def _pack_cascade(store: ModelStore, folder: Path, refs: Mapping[str, str]) -> None:
    """Copy cascade.json and those of its models that the package does not hold already."""
    cascade = store.get(Ref(refs["cascade"]))
    for relative, source in cascade.files.items():
        _copy(source, folder / relative)
    description = json.loads((folder / "cascade.json").read_text())
    inside = (refs["export"], store.record(Ref(refs["export"]))["identity"]["parents"].get("model"))
    for part in ("small", "large"):
        if description[part] in inside:
            continue
        model = store.get(Ref(description[part]))
        assert model.folder is not None
        shutil.copytree(model.folder, folder / part)
        for relative, source in model.files.items():
            if relative.endswith(".onnx"):
                _copy(source, folder / f"{part}-files" / relative)


def _write_example(model: Model, path: Path) -> None:
    import numpy as np

    x_BCHW = model.input.example(4)
    np.savez(path, x_BCHW=x_BCHW.numpy(), logits_BC=model(x_BCHW).numpy())


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _card(name: str, report: Mapping[str, Any]) -> str:
    from deploy.report.markdown import models_table

    files = "Files: `model/` (safetensors and JSON), `files/model.onnx`, `example.npz`, reports."
    return f"# {name}\n\n{models_table(report)}\n\n{files}\n"
