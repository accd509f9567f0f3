"""Serving packages for NVIDIA's Triton: every folder of a package's root is a Triton model.

    digits/config.pbtxt, 1/model.onnx      the network
    digits/source/                         the same as safetensors and JSON; Triton ignores folders without a number
    digits_int8/, digits_tensorrt/         where the export kept them
    digits_cascade/1/model.py              small network first, large one for what is deferred, by calling
    digits_cascade_{small,router,large}_<id>/        its members, whose names no other cascade shares
    digits/source/on_request/digits_aotinductor/     machine code: no model of the repository until a pull asks for it

A cascade and its members must belong together while a server goes from one version to the next. Members are
therefore found by names that hold the cascade's identity, never by a version that may be gone.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.core.layout import write_json
from compress.core.model import sha256_of
from deploy.triton_config import MAX_BATCH, Tensor, TritonModel, triton_name, with_onnx_backend

if TYPE_CHECKING:
    from compress.cascade.inference import Router
    from compress.core.task import InputSpec

CONFIG, LABELS, SOURCE = "config.pbtxt", "labels.txt", "source"
MODEL_FILE, SCRIPT, COMPILED_FILE = "model.onnx", "model.py", "model.pt2"
#: Folder in `source` for models that are machine code for some machines only.
ON_REQUEST = "on_request"
VERSION = 1
_SCRIPTS = Path(__file__).with_name("triton_backend")


@dataclass(frozen=True)
class Plan:
    """A TensorRT engine.

    Attributes:
        path: The serialized engine.
        manifest: What `engine_from_onnx` wrote beside it; says for which GPU and batches it was built.
    """

    path: Path
    manifest: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Return an engine with the manifest that lies beside it."""
        return cls(path, json.loads(path.with_name(f"{path.name}.json").read_text()))

    @property
    def capability(self) -> str:
        """Compute capability of the GPU that it was built on ("8.6")."""
        found = str(self.manifest.get("compute_capability", ""))
        if not found:
            raise ValueError(f"{self.path.name}.json names no compute capability: build the engine again on a GPU.")
        return found


class Repository:
    """A Triton model repository that is being written.

    Attributes:
        root: Its folder.
        models: Names of the models in the order in which a server should load them.
        cascade: Names of the cascade, of its members, and the large network's temperature; empty without one.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.models, self.cascade = root, list[str](), dict[str, str]()

    def add_onnx(self, name: str, source: Path, spec: InputSpec, *, backend: str = "onnxruntime") -> None:
        """Add a network from an ONNX file with input "input" and output "logits"."""
        model = TritonModel(
            name=name,
            backend="onnxruntime",
            inputs=[_input(spec)],
            outputs=[_logits(spec)],
            parameters=_onnx_parameters(),
        )
        self._add(model, spec, backend)
        shutil.copyfile(source, self._version(name) / MODEL_FILE)

    def add_plans(self, name: str, plans: Sequence[Plan], spec: InputSpec) -> None:
        """Add a network as TensorRT engines, one a compute capability, of which the server takes its GPU's.

        Raises:
            ValueError: Two engines are for the same compute capability, or one does not say for which it is.
        """
        names = {plan.capability: f"model.{plan.capability}.plan" for plan in plans}
        if len(names) != len(plans) or not plans:
            found = ", ".join(plan.capability for plan in plans) or "none"
            raise ValueError(f"engines for {name} are for compute capabilities {found}: give one engine for each.")
        largest = min(int(plan.manifest.get("settings", {}).get("max_batch", MAX_BATCH)) for plan in plans)
        model = TritonModel(
            name=name,
            backend="tensorrt",
            inputs=[_input(spec)],
            outputs=[_logits(spec)],
            max_batch=largest,
            plans=names,
        )
        self._add(model, spec)
        for plan in plans:
            target = self._version(name) / names[plan.capability]
            shutil.copyfile(plan.path, target)
            write_json(self.root / name / SOURCE / f"{target.name}.json", dict(plan.manifest))

    def add_aotinductor(self, name: str, source: Path, spec: InputSpec) -> Path:
        """Add a network as an AOTInductor package beside its manifest, and return where it lies.

        It lies in the folder `source` of the model `name`, where no server sees it: a Triton whose Python has no torch
        could not load it, and it is machine code, which runs only where somebody asked for it (`prepare`).
        """
        from deploy.export.aotinductor_from_model import manifest_path

        model = TritonModel(
            name=f"{name}_aotinductor",
            backend="python",
            inputs=[_input(spec)],
            outputs=[_logits(spec)],
            is_on_cpu=json.loads(manifest_path(source).read_text())["device"] == "cpu",
        )
        asleep = Repository(self.root / name / SOURCE / ON_REQUEST)
        asleep._add(model, spec)
        target = asleep._version(model.name) / COMPILED_FILE
        shutil.copyfile(_SCRIPTS / "aotinductor_model.py", target.with_name(SCRIPT))
        shutil.copyfile(source, target)
        shutil.copyfile(manifest_path(source), manifest_path(target))
        return target

    def add_cascade(
        self, name: str, router: Router, small: Path, large: Path, spec: InputSpec, *, backend: str = "onnxruntime"
    ) -> None:
        """Add a cascade as one model, and its members.

        Args:
            name: Of the cascade.
            router: What decides; its members' weights are those in `small` and `large`.
            small: ONNX file of the small network.
            large: ONNX file of the large network.
            spec: Input of both.
            backend: Runs the ONNX files of the members.
        """
        from deploy.export.router_onnx import router_onnx

        description = json.dumps(router.as_json(), sort_keys=True)
        digest = hashlib.sha256(f"{description} {sha256_of(small)} {sha256_of(large)}".encode()).hexdigest()[:12]
        members = {part: f"{name}_{part}_{digest}" for part in ("small", "router", "large")}
        self.add_onnx(members["small"], small, spec, backend=backend)
        self.add_onnx(members["large"], large, spec, backend=backend)
        logits, deferred = _logits(spec), Tensor(name="is_deferred", dims=[1], dtype="TYPE_BOOL")
        scaled = replace(logits, name="scaled", labels="")
        decision = TritonModel(
            name=members["router"],
            backend="onnxruntime",
            inputs=[replace(logits, labels="")],
            outputs=[scaled, deferred],
            is_on_cpu=True,
            parameters=_onnx_parameters(),
        )
        self._add(decision, spec, backend)
        router_onnx(router, spec.num_classes, self._version(members["router"]) / MODEL_FILE)
        parameters = {**members, "large_temperature": repr(router.temperature[1])}
        cascade = TritonModel(
            name=name,
            backend="python",
            inputs=[_input(spec)],
            outputs=[logits, deferred],
            parameters=parameters,
            is_warmed=False,
            is_on_cpu=True,
        )
        self._add(cascade, spec)
        shutil.copyfile(_SCRIPTS / "cascade_model.py", self._version(name) / SCRIPT)
        router.write(self._made(self.root / name / SOURCE) / "cascade.json")
        self.cascade = {"name": name, **parameters}

    def _add(self, model: TritonModel, spec: InputSpec, backend: str = "onnxruntime") -> None:
        folder = self._version(model.name).parent
        (folder / CONFIG).write_text(model.pbtxt())
        (folder / LABELS).write_text("".join(f"{' '.join(name.split())}\n" for name in spec.class_names))
        _run_onnx_with(folder, VERSION, backend)
        self.models.append(model.name)

    def _version(self, name: str) -> Path:
        return self._made(self.root / name / str(VERSION))

    @staticmethod
    def _made(folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def prepare(package: Path, *, version: int | None = None, backend: str = "", has_aotinductor: bool = False) -> None:
    """Give the Triton models of a pulled package the registered version's number and the server's backend.

    `package.json` is written again with the new names and hashes. A package without Triton models stays as it is.

    Args:
        package: Folder that was pulled and checked; nobody else reads it yet.
        version: Number of the version folders; None to leave them.
        backend: Backend that runs ONNX files; empty to leave it.
        has_aotinductor: Whether the AOTInductor package, which is machine code, becomes a model of the repository.

    Raises:
        ValueError: No such backend runs ONNX files, `package.json` names models that are not there, or the package
            holds no AOTInductor package.
    """
    path = package / "package.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    if has_aotinductor:
        _wake(package, found)
    if "triton" not in found or not (version or backend or has_aotinductor):
        return
    before, after = str(found["triton"]["version"]), str(version or found["triton"]["version"])
    for name in found["triton"]["models"]:
        if triton_name(name) != name or not (package / name / before).is_dir():
            raise ValueError(f"{path} names {name!r}, which is no Triton model of the package: promote it again.")
        (package / name / before).rename(package / name / after)
        if backend:
            _run_onnx_with(package / name, int(after), backend)
    found["onnx"] = found["onnx"].replace(f"/{before}/", f"/{after}/", 1)
    if has_aotinductor:
        found["aotinductor"] = found["aotinductor"].replace(f"/{before}/", f"/{after}/", 1)
    found["triton"] |= {"version": int(after)} | ({"backend": backend} if backend else {})
    found["files"] = hashes(package)
    write_json(path, found)


def _wake(package: Path, found: dict[str, Any]) -> None:
    """Make the AOTInductor package a model of the repository, the last one that a server loads."""
    relative = found.get("aotinductor", "")
    if not relative or relative not in found["files"]:
        raise ValueError(
            "this version holds no AOTInductor package: export with the option aotinductor and promote, or pull "
            "without --aotinductor."
        )
    folder = (package / relative).parents[1]
    if folder.parent.name == ON_REQUEST:
        folder.rename(package / folder.name)
        found["triton"]["models"].append(folder.name)
        found["aotinductor"] = f"{folder.name}/{found['triton']['version']}/{COMPILED_FILE}"


def hashes(package: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a package but its list, by relative name."""
    files = (path for path in sorted(package.rglob("*")) if path.is_file())
    return {name: sha256_of(path) for path in files if (name := str(path.relative_to(package))) != "package.json"}


def _run_onnx_with(folder: Path, version: int, backend: str) -> None:
    """Let `backend` run the ONNX file of a model; nothing changes for a model without one."""
    text = (folder / CONFIG).read_text()
    changed = with_onnx_backend(text, backend)
    if changed != text:
        (folder / CONFIG).write_text(changed)
        shutil.copyfile(_SCRIPTS / "onnx_model.py", folder / str(version) / SCRIPT)


def _input(spec: InputSpec) -> Tensor:
    from deploy.export.onnx_from_model import INPUT

    return Tensor(name=INPUT, dims=spec.shape)


def _logits(spec: InputSpec) -> Tensor:
    from deploy.export.onnx_from_model import OUTPUT

    return Tensor(name=OUTPUT, dims=[spec.num_classes], labels=LABELS if spec.class_names else "")


def _onnx_parameters() -> dict[str, str]:
    return {"intra_op_thread_count": "1", "inter_op_thread_count": "1"}
