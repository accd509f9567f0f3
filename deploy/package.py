"""What a registered version consists of: a Triton repository, the model, cascade, reports, an example and every hash.

Each folder of the package's root is a Triton model, so that the place where MLflow keeps the package can be served as
it is. What Triton does not need lies in the models' `source` folders and in files beside them.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.layout import write_json
from compress.core.stage import Entry, Ref
from compress.store import ModelStore
from deploy.description import PACKAGE
from deploy.pull import EXAMPLE
from deploy.triton import COMPILED_FILE, MODEL_FILE, SOURCE, VERSION, Plan, Repository, hashes
from deploy.triton_config import triton_name

if TYPE_CHECKING:
    from compress.core.model import Model
    from compress.core.task import InputSpec

#: What a gate says of an INT8 file or a cascade that lost too much; it is left out of the package.
DEMOTED = "demoted"
FORMAT = 2
_ONNX, _INT8, _ENGINE = "model.onnx", "model.int8.onnx", "model.plan"


def build_package(
    store: ModelStore,
    folder: Path,
    refs: Mapping[str, str],
    *,
    name: str,
    backend: str = "onnxruntime",
    engines: Sequence[str] = (),
) -> None:
    """Write everything that a user of the model needs into `folder`, with the SHA-256 of each file.

    Args:
        store: Holds the entries.
        folder: Must not exist yet.
        refs: Entries by part: export, evaluation, gate, and cascade or an empty string.
        name: Registered model; the Triton models are named after it.
        backend: Triton backend that runs the ONNX files: "onnxruntime" or "python".
        engines: Further exports of the same model, made on other kinds of GPU; their engines join the export's own.

    Raises:
        ValueError: One of `engines` is of another model, holds no engine or one for GPUs that have one already.
    """
    export = store.get(Ref(refs["export"]))
    plans = _plans(store, export, engines)
    folder.mkdir(parents=True)
    model, triton = export.model, triton_name(name)
    has_int8 = store.record(Ref(refs["gate"]))["report"].get("int8") != DEMOTED
    repository = _repository(folder, triton, export, plans, backend=backend, has_int8=has_int8)
    assert export.folder is not None
    shutil.copytree(export.folder, folder / triton / SOURCE / "model")
    if refs["cascade"]:
        _pack_cascade(store, repository, f"{triton}_cascade", refs, model.input, backend)
    _write_example(model, folder / EXAMPLE)
    for part in ("export", "evaluation", "gate", "cascade"):
        if refs[part]:
            write_json(folder / f"{part}.json", store.record(Ref(refs[part])))
    for ref in engines:
        write_json(folder / f"{ref}.json", store.record(Ref(ref)))
    report = store.record(Ref(refs["evaluation"]))["report"]
    (folder / "README.md").write_text(_card(name, triton, report))
    package = {
        "format": FORMAT,
        "refs": dict(refs) | ({"engines": sorted(engines)} if engines else {}),
        "model": f"{triton}/{SOURCE}/model",
        "onnx": f"{triton}/{VERSION}/{MODEL_FILE}",
        "triton": {"models": repository.models, "version": VERSION, "backend": backend, "cascade": repository.cascade},
        "on_request": repository.on_request,
        "files": hashes(folder),
    }
    write_json(folder / PACKAGE, package)


def _plans(store: ModelStore, export: Entry, engines: Sequence[str]) -> list[Plan]:
    """Return the engine of the export, if it has one, and those of further exports of the same model."""
    model = store.record(export.ref)["identity"]["parents"].get("model")
    found = [(export.ref, Plan.read(export.files[_ENGINE]))] if _ENGINE in export.files else []
    for ref in map(Ref, engines):
        entry, made = store.get(ref), store.record(ref)["identity"]
        if made["stage"] != "export" or made["parents"].get("model") != model:
            raise ValueError(
                f"{ref} is no export of {model}, of which {export.ref} is one: export {model} for that GPU."
            )
        if _ENGINE not in entry.files:
            said = entry.report.get("tensorrt", {}).get("reason", "its report gives no reason")
            raise ValueError(f"{ref} holds no engine ({said}): leave it out, or export where such a GPU is.")
        found.append((ref, Plan.read(entry.files[_ENGINE])))
    for (ref, plan), (other, second) in combinations(found, 2):
        is_same = plan.capability == second.capability
        if is_same or plan.file_name == second.file_name:
            gpus = f"GPUs of compute capability {plan.capability}" if is_same else "all GPUs from Ampere on"
            raise ValueError(f"{ref} and {other} both hold an engine for {gpus}: name one of them.")
    return [plan for _, plan in found]


def _repository(
    folder: Path, triton: str, export: Entry, plans: Sequence[Plan], *, backend: str, has_int8: bool
) -> Repository:
    """Write the export's files as Triton models; files of other kinds go to the `source` folder."""
    from deploy.export.aotinductor_from_model import manifest_path

    repository, files, spec = Repository(folder), dict(export.files), export.model.input
    repository.add_onnx(triton, files.pop(_ONNX), spec, backend=backend)
    int8 = files.pop(_INT8, None)
    if int8 is not None and has_int8:
        repository.add_onnx(f"{triton}_int8", int8, spec, backend=backend)
    for engine in (_ENGINE, f"{_ENGINE}.json"):
        files.pop(engine, None)
    if plans:
        repository.add_plans(triton, plans, spec)
    if (made := files.pop(COMPILED_FILE, None)) is not None:
        repository.add_aotinductor(triton, made, spec)
        files.pop(manifest_path(made).name)
    for relative, source in files.items():
        target = folder / triton / SOURCE / "files" / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return repository


def _pack_cascade(
    store: ModelStore, repository: Repository, name: str, refs: Mapping[str, str], spec: InputSpec, backend: str
) -> None:
    """Add the cascade as a Triton model, and the models of those members that the package does not hold already."""
    from compress.cascade.inference import Router

    router = Router.read(store.get(Ref(refs["cascade"])).files["cascade.json"])
    inside = (refs["export"], store.record(Ref(refs["export"]))["identity"]["parents"].get("model"))
    with tempfile.TemporaryDirectory(prefix="secateur-") as scratch:
        paths = {}
        for part, ref in (("small", router.small), ("large", router.large)):
            member = store.get(Ref(refs["export"] if ref in inside else ref))
            paths[part] = _onnx_of(member, Path(scratch) / f"{part}.onnx")
            if ref not in inside:
                assert member.folder is not None
                shutil.copytree(member.folder, repository.root / name / SOURCE / part)
        repository.add_cascade(name, router, paths["small"], paths["large"], spec, backend=backend)


def _onnx_of(entry: Entry, path: Path) -> Path:
    """Return the float ONNX file of an entry, exported to `path` when it holds none."""
    if _ONNX in entry.files:
        return entry.files[_ONNX]
    from deploy.export.onnx_from_model import onnx_from_model

    return onnx_from_model(entry.model, path, ref=entry.ref).path


def _write_example(model: Model, path: Path) -> None:
    import numpy as np

    x_BCHW = model.input.example(4)
    np.savez(path, x_BCHW=x_BCHW.numpy(), logits_BC=model(x_BCHW).numpy())


def _card(name: str, triton: str, report: Mapping[str, Any]) -> str:
    from deploy.report.markdown import models_table

    files = (
        f"A Triton model repository: `{triton}/{VERSION}/{MODEL_FILE}` is the network, `{triton}/{SOURCE}/model` the "
        f"same as safetensors and JSON; `{EXAMPLE}` holds inputs with their outputs; reports."
    )
    return f"# {name}\n\n{models_table(report)}\n\n{files}\n"
