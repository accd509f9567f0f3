"""Serving packages for NVIDIA's Triton: every folder of a package's root is a Triton model.

    digits/config.pbtxt, 1/model.onnx      the network
    digits/source/                         the same as safetensors and JSON; Triton ignores folders without a number
    digits_int8/                           where the export kept it
    digits_cascade/1/model.py              small network first, large one for what is deferred, by calling
    digits_cascade_{small,router,large}_<id>/        its members, whose names no other cascade shares
    digits/source/on_request/digits_{tensorrt,aotinductor}/   no models of the repository until a pull asks for them:
                                           machine code, which one kind of GPU or one kind of Python can run

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
from deploy.description import PACKAGE, read_package
from deploy.triton_config import MAX_BATCH, Tensor, TritonModel, check_backend, with_onnx_backend

if TYPE_CHECKING:
    from compress.cascade.inference import Router
    from compress.core.task import InputSpec

CONFIG, LABELS, SOURCE = "config.pbtxt", "labels.txt", "source"
MODEL_FILE, SCRIPT, COMPILED_FILE = "model.onnx", "model.py", "model.pt2"
#: The plan that Triton takes when none is for its GPU.
DEFAULT_PLAN = "model.plan"
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

    @property
    def file_name(self) -> str:
        """Name of its file among a model's plans; the default one when it runs on other GPUs than its builder's too."""
        level = self.manifest.get("settings", {}).get("hardware_compatibility")
        return DEFAULT_PLAN if level == "AMPERE_PLUS" else f"model.{self.capability}.plan"


class Repository:
    """A Triton model repository that is being written.

    Attributes:
        root: Its folder.
        models: Names of the models in the order in which a server should load them.
        cascade: Names of the cascade, of its members, and the large network's temperature; empty without one.
        on_request: Names of models that are not shown to a server unless a pull asks for their kind, by kind.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.models, self.cascade, self.on_request = root, list[str](), dict[str, str](), dict[str, str]()

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

        An engine for all GPUs from Ampere on is the one that a server takes when none is for its own. They lie in the
        folder `source` of the model `name` until a pull asks for them (`prepare`): a server without such a GPU could
        load none of them, and one model that does not load keeps a server from being ready.

        Raises:
            ValueError: Two engines are for the same GPUs, or one does not say for which it is.
        """
        names = {plan.capability: plan.file_name for plan in plans}
        if len(set(names.values())) != len(plans) or not plans:
            found = ", ".join(plan.capability for plan in plans) or "none"
            raise ValueError(
                f"engines for {name} are for compute capabilities {found}: give one engine for each, and no more than "
                f"one for all GPUs from Ampere on."
            )
        largest = min(int(plan.manifest.get("settings", {}).get("max_batch", MAX_BATCH)) for plan in plans)
        model = TritonModel(
            name=f"{name}_tensorrt",
            backend="tensorrt",
            inputs=[_input(spec)],
            outputs=[_logits(spec)],
            max_batch=largest,
            plans={capability: file for capability, file in names.items() if file != DEFAULT_PLAN},
        )
        asleep = self._asleep(name, "tensorrt", model, spec)
        for plan in plans:
            target = asleep._version(model.name) / names[plan.capability]
            shutil.copyfile(plan.path, target)
            write_json(asleep.root / model.name / SOURCE / f"{target.name}.json", dict(plan.manifest))

    def add_aotinductor(self, name: str, source: Path, spec: InputSpec) -> Path:
        """Add a network as an AOTInductor package beside its manifest, and return where it lies.

        Like engines, it lies in the folder `source` of the model `name` until a pull asks for it: a Triton whose Python
        has no torch could not load it.
        """
        from deploy.export.aotinductor_from_model import manifest_path

        model = TritonModel(
            name=f"{name}_aotinductor",
            backend="python",
            inputs=[_input(spec)],
            outputs=[_logits(spec)],
            is_on_cpu=json.loads(manifest_path(source).read_text())["device"] == "cpu",
        )
        asleep = self._asleep(name, "aotinductor", model, spec)
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

    def _asleep(self, name: str, kind: str, model: TritonModel, spec: InputSpec) -> Repository:
        """Add a model where no server sees it, and return the repository there."""
        asleep = Repository(self.root / name / SOURCE / ON_REQUEST)
        asleep._add(model, spec)
        self.on_request[kind] = model.name
        return asleep

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


def prepare(package: Path, *, version: int | None = None, backend: str = "", also: Sequence[str] = ()) -> None:
    """Give the Triton models of a pulled package the registered version's number and the server's backend.

    Scripts of the package are replaced by this project's own, so that no code from a registry runs. `package.json` is
    written again with the new names and hashes. A package without Triton models stays as it is.

    Args:
        package: Folder that was pulled and checked; nobody else reads it yet.
        version: Number of the version folders; None to leave them.
        backend: Backend that runs ONNX files; empty to leave it.
        also: Kinds of models on request (`triton_config.KINDS`) that a server is to find too.

    Raises:
        ValueError: No such backend runs ONNX files, or the package holds no model of a kind in `also`.
    """
    check_backend(backend)
    found = read_package(package)
    if "triton" not in found:
        return
    for kind in also:
        _wake(package, found, kind)
    before, after = str(found["triton"]["version"]), str(version or found["triton"]["version"])
    for name in found["triton"]["models"]:
        folder = package / name
        (folder / before).rename(folder / after)
        if backend:
            _run_onnx_with(folder, int(after), backend)
        _own_script(folder / after, is_cascade=name == found["triton"]["cascade"].get("name"))
    found["onnx"] = found["onnx"].replace(f"/{before}/", f"/{after}/", 1)
    found["triton"] |= {"version": int(after)} | ({"backend": backend} if backend else {})
    found["files"] = hashes(package)
    write_json(package / PACKAGE, found)


def asleep_or_awake(package: Path, found: Mapping[str, Any], kind: str) -> Path:
    """Return the folder with the files of a model on request, wherever it lies; it may not exist."""
    name = found["on_request"].get(kind, "")
    if name in found["triton"]["models"]:
        return package / name / str(found["triton"]["version"])
    return package / found["onnx"].partition("/")[0] / SOURCE / ON_REQUEST / name / str(VERSION)


def _wake(package: Path, found: dict[str, Any], kind: str) -> None:
    """Make a model on request one of the repository's, the last one that a server loads."""
    if (name := found["on_request"].get(kind, "")) == "":
        there = ", ".join(found["on_request"]) or "none"
        raise ValueError(f"this version holds no model of kind {kind!r} (there is: {there}): export and promote one.")
    if name not in found["triton"]["models"]:
        asleep_or_awake(package, found, kind).parent.rename(package / name)
        version = str(found["triton"]["version"])
        if version != str(VERSION):
            (package / name / str(VERSION)).rename(package / name / version)
        found["triton"]["models"].append(name)


def _own_script(folder: Path, *, is_cascade: bool) -> None:
    """Replace the script in a version's folder by this project's for what lies beside it."""
    script = folder / SCRIPT
    if not script.is_file():
        return
    if is_cascade:
        own = "cascade_model.py"
    elif (folder / COMPILED_FILE).is_file():
        own = "aotinductor_model.py"
    else:
        own = "onnx_model.py"
    shutil.copyfile(_SCRIPTS / own, script)


def hashes(package: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a package but its list, by relative name."""
    files = (path for path in sorted(package.rglob("*")) if path.is_file())
    return {name: sha256_of(path) for path in files if (name := str(path.relative_to(package))) != PACKAGE}


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
