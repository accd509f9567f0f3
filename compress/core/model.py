"""Model: a module plus the record of every decision that shaped it. Never pickled."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from compress.core.lineage import BUILDERS, Lineage, Step, rebuild
from compress.core.random import seeded
from compress.core.registry import Piece
from compress.core.task import InputSpec
from compress.core.weights import load_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn

FORMAT = 1
MANIFEST = "manifest.json"
PARTS = ("weights.safetensors", "architecture.json", "input.json")


class CorruptModel(ValueError):
    """A stored file is missing, or its hash is not the one that was recorded."""


@dataclass(frozen=True)
class Model:
    """A network that knows how it came to be.

    Attributes:
        module: Takes x_BCHW, returns logits_BC.
        input: Preprocessing and class names.
        lineage: Builder and steps; `rebuild(lineage)` has the module's structure.
    """

    module: nn.Module
    input: InputSpec
    lineage: Lineage

    @classmethod
    def build(cls, builder: Piece[Any], spec: InputSpec, *, seed: int) -> Self:
        """Return a freshly initialised model for `spec`."""
        lineage = Lineage(builder=builder.as_json(), shape=spec.shape, num_classes=spec.num_classes)
        with seeded(seed, "build"):
            module = builder(spec.shape, spec.num_classes)
        return cls(module.eval(), spec, lineage)

    def __call__(self, x_BCHW: Tensor) -> Tensor:
        """Return logits (B, classes) in evaluation mode, without gradients."""
        import torch

        with torch.inference_mode():
            return self.module.eval()(x_BCHW)

    def copy(self) -> Model:
        """Return a model whose module can be changed without changing this one's."""
        return Model(copy.deepcopy(self.module), self.input, self.lineage)

    def then(self, module: nn.Module, step: Step) -> Model:
        """Return `module` as the model that `step` made of this one."""
        return Model(module.eval(), self.input, self.lineage.then(step))

    def save(self, folder: Path) -> None:
        """Write weights, architecture, input and a manifest with the SHA-256 of each into `folder`."""
        from safetensors.torch import save

        folder.mkdir(parents=True, exist_ok=True)
        state = {key: value.detach().cpu().contiguous().clone() for key, value in self.module.state_dict().items()}
        (folder / "weights.safetensors").write_bytes(save(state))
        _write_json(folder / "architecture.json", {"format": FORMAT, **self.lineage.as_json()})
        _write_json(folder / "input.json", self.input.as_json())
        _write_json(folder / MANIFEST, {name: sha256_of(folder / name) for name in PARTS})

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Rebuild the model that was saved in `folder`.

        Raises:
            CorruptModel: A file is missing or is not the one that was saved.
        """
        from safetensors.torch import load_file

        check_manifest(folder)
        architecture = json.loads((folder / "architecture.json").read_text())
        if architecture["format"] > FORMAT:
            raise CorruptModel(f"{folder} has format {architecture['format']}, newer than {FORMAT}: upgrade secateur.")
        lineage = Lineage.from_json(architecture)
        with seeded(0, "rebuild"):
            module = rebuild(lineage)
        load_tensors(module, load_file(folder / "weights.safetensors"))
        spec = InputSpec.from_json(json.loads((folder / "input.json").read_text()))
        return cls(module.eval(), spec, lineage)


def check_manifest(folder: Path) -> None:
    """Raise CorruptModel unless every part in `folder` has the SHA-256 that its manifest records."""
    if not (folder / MANIFEST).is_file():
        raise CorruptModel(f"no model in {folder}: {MANIFEST} is missing. Name a folder that `secateur run` wrote.")
    recorded = json.loads((folder / MANIFEST).read_text())
    for name in PARTS:
        if not (folder / name).is_file():
            raise CorruptModel(f"{folder / name} is missing: fetch the model again, or run the stage again.")
        if (found := sha256_of(folder / name)) != recorded.get(name):
            raise CorruptModel(
                f"{folder / name} was changed after it was saved (SHA-256 {found[:12]}…, recorded "
                f"{str(recorded.get(name))[:12]}…): fetch the model again, or run the stage again."
            )


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: Path, data: Any) -> None:
    path.write_text(json.dumps(data, indent=1, sort_keys=True) + "\n")


__all__ = ["BUILDERS", "CorruptModel", "Model", "check_manifest", "sha256_of"]
