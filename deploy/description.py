"""What package.json says, and what it must say before anybody acts on it: it comes from a registry."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, ValidationError, model_validator

from compress.core.model import CorruptModel
from deploy.triton_config import triton_name

PACKAGE = "package.json"
#: Code may lie in a package where Triton looks for a model's script, and nowhere else.
SCRIPT = "model.py"
CODE = (".py", ".pyc", ".so", ".sh", ".dll", ".pkl", ".pth")


def _model_name(name: str) -> str:
    if triton_name(name) != name:
        raise ValueError(f"{name!r} is no name of a Triton model")
    return name


def _inside(name: str) -> str:
    parts = PurePosixPath(name).parts
    if not parts or name.startswith("/") or ".." in parts or "\\" in name:
        raise ValueError(f"{name!r} is no path inside of the package")
    return name


ModelName = Annotated[str, AfterValidator(_model_name)]
Inside = Annotated[str, AfterValidator(_inside)]


class Serving(BaseModel):
    """The part for Triton.

    Attributes:
        models: Folders of the package that are models, in the order in which a server loads them.
        version: Number of the folder in each that holds its files.
        backend: Backend that runs the ONNX files.
        cascade: Names of the cascade and its members, and its large network's temperature; empty without one.
    """

    models: list[ModelName]
    version: Annotated[StrictInt, Field(ge=1)]
    backend: str = "onnxruntime"
    cascade: dict[str, str] = {}


class Description(BaseModel):
    """What a package says of itself.

    Attributes:
        files: SHA-256 of every other file, by relative name.
        onnx: The float ONNX file.
        model: Folder of the model as safetensors and JSON.
        triton: The part for Triton.
        on_request: Models that a server is shown only on request, by kind.
    """

    model_config = ConfigDict(extra="allow")

    files: dict[Inside, Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]]
    onnx: Inside
    model: Inside
    triton: Serving
    on_request: dict[str, ModelName] = {}

    @model_validator(mode="after")
    def _is_whole(self) -> Description:
        """Names lead to recorded files, and code lies where it will be replaced."""
        version = str(self.triton.version)
        parts = [PurePosixPath(name).parts for name in self.files]
        if self.onnx not in self.files:
            raise ValueError(f"onnx {self.onnx!r} is none of the files")
        if not any(name.startswith(f"{self.model}/") for name in self.files):
            raise ValueError(f"model {self.model!r} holds none of the files")
        for name in self.triton.models:
            if not any(found[:2] == (name, version) for found in parts):
                raise ValueError(f"triton.models names {name!r}, of which version {version} holds no file")
        scripts = {(name, version, SCRIPT) for name in self.triton.models}
        asleep = set(self.on_request.values())
        for found in parts:
            is_script = found in scripts or (found[-1] == SCRIPT and len(found) > 2 and found[-3] in asleep)
            if PurePosixPath(found[-1]).suffix in CODE and not is_script:
                raise ValueError(f"{'/'.join(found)} is code that no package holds")
        return self


def read_package(folder: str | Path) -> dict[str, Any]:
    """Return what `package.json` says, checked; nothing for an entry that was pushed as it is.

    Raises:
        CorruptModel: It is not the description of a package; says where.
    """
    path = Path(folder) / PACKAGE
    if not path.is_file():
        return {}
    try:
        return Description.model_validate_json(path.read_bytes()).model_dump()
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        raise CorruptModel(f"{path}: {where or 'the whole'}: {said}. Promote the model again.") from None
