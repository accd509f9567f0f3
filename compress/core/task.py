"""Task: what a model is for. Data in fixed splits, preprocessing, loss and metric."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from compress.core.random import generator
from compress.core.registry import Family, Piece

if TYPE_CHECKING:
    import torch
    from torch import Tensor

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class InputSpec:
    """How a picture becomes a tensor, and what the outputs mean. Travels with every model.

    Attributes:
        shape: (channels, height, width) of one input.
        mean: Per channel, subtracted after division by 255.
        std: Per channel, divided by last.
        class_names: One a output.
    """

    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not len(self.mean) == len(self.std) == self.shape[0]:
            raise ValueError(f"mean and std need one number for each of the {self.shape[0]} channels.")

    @property
    def num_classes(self) -> int:
        """Number of outputs."""
        return len(self.class_names)

    def preprocess(self, images_BCHW: Tensor) -> Tensor:
        """Return float32 inputs (B, C, H, W) from uint8 pictures of the same height and width."""
        import torch

        mean = torch.tensor(self.mean).view(1, -1, 1, 1)
        std = torch.tensor(self.std).view(1, -1, 1, 1)
        return (images_BCHW.float() / 255 - mean) / std

    def example(self, batch: int = 2) -> Tensor:
        """Return a fixed random input (batch, C, H, W) for tracing and parity."""
        import torch

        return torch.randn(batch, *self.shape, generator=generator(0, "example", batch))

    def as_json(self) -> dict[str, Any]:
        """JSON with what `from_json` needs."""
        return {
            "shape": list(self.shape),
            "mean": list(self.mean),
            "std": list(self.std),
            "class_names": list(self.class_names),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> InputSpec:
        """Read what `as_json` wrote."""
        channels, height, width = data["shape"]
        return cls(
            shape=(int(channels), int(height), int(width)),
            mean=tuple(data["mean"]),
            std=tuple(data["std"]),
            class_names=tuple(data["class_names"]),
        )


@dataclass(frozen=True, kw_only=True)
class Split:
    """One part of the data.

    Attributes:
        labels_B: Class indices, int64.
        images: Function from indices (int64) to uint8 pictures (B, C, H, W).
    """

    labels_B: Tensor
    images: Callable[[Tensor], Tensor]

    def __len__(self) -> int:
        return len(self.labels_B)


class SealedTestSplit(RuntimeError):
    """Something other than `evaluate` asked for test data."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Data, preprocessing, loss and metric of one classification problem.

    Attributes:
        piece: The task's piece, whose JSON rebuilds this object.
        input: Preprocessing and class names.
        digest: SHA-256 over the source data and the rules of the split.
        load: Returns the splits by name; called at most once, on first use.
        augment: Function (x_BCHW uint8, generator) -> x_BCHW uint8 for training, or None.
    """

    piece: Piece[Any]
    input: InputSpec
    digest: str
    load: Callable[[], Mapping[str, Split]]
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None
    is_test_open: bool = False
    _cache: dict[str, Mapping[str, Split]] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        """Name of the task's piece."""
        return self.piece.name

    def opened(self) -> Task:
        """Return this task with the test split readable. For `evaluate` alone."""
        return replace(self, is_test_open=True)

    def split(self, name: str) -> Split:
        """Return one split.

        Raises:
            SealedTestSplit: For "test", unless this task was opened.
        """
        assert name in SPLITS, name
        if name == "test" and not self.is_test_open:
            raise SealedTestSplit("test data is read once, by `evaluate`; select on the validation split.")
        if not self._cache:
            self._cache["splits"] = self.load()
        return self._cache["splits"][name]

    def batches(
        self, split: str, *, batch_size: int, shuffle: torch.Generator | None = None, limit: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (x_BCHW float32, y_B int64).

        Args:
            split: "train", "validation" or "test".
            batch_size: Largest B; the last batch may be smaller.
            shuffle: Generator for order and augmentation. Without it: file order, no augmentation.
            limit: At most this many inputs (the first ones, or a random choice when shuffled).
        """
        import torch

        part = self.split(split)
        order = torch.arange(len(part)) if shuffle is None else torch.randperm(len(part), generator=shuffle)
        for index in order[:limit].split(batch_size):
            images = part.images(index)
            if shuffle is not None and self.augment is not None:
                images = self.augment(images, shuffle)
            yield self.input.preprocess(images), part.labels_B[index]

    def loss(self, logits_BC: Tensor, target_B: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
        """Cross-entropy, a scalar."""
        from torch.nn import functional

        return functional.cross_entropy(logits_BC, target_B, label_smoothing=label_smoothing)

    def correct(self, logits_BC: Tensor, target_B: Tensor) -> Tensor:
        """Return 1.0 where the largest output is the target, else 0.0; shape (B,)."""
        return (logits_BC.argmax(1) == target_B).float()

    def identity(self) -> dict[str, Any]:
        """What goes into the hash of every stage that uses this task."""
        return {"piece": self.piece.as_json(), "digest": self.digest}

    def check_fits(self, spec: InputSpec) -> None:
        """Raise ValueError when a model made for `spec` cannot answer this task."""
        if spec.shape != self.input.shape:
            raise ValueError(
                f"the model takes {spec.shape} inputs, task {self.name!r} gives {self.input.shape}: "
                f"choose a task of that shape, or train a model for this one."
            )
        if spec.num_classes != self.input.num_classes:
            raise ValueError(
                f"the model knows {spec.num_classes} classes, task {self.name!r} has {self.input.num_classes}: "
                f"choose the task that it was trained on, or train a model for this one."
            )
        if spec != self.input:
            raise ValueError(
                f"the model was made for other inputs than task {self.name!r} gives: its mean is {spec.mean}, std "
                f"{spec.std}, first class {spec.class_names[0]!r}; the task's are {self.input.mean}, {self.input.std} "
                f"and {self.input.class_names[0]!r}. Choose the task that it was trained on."
            )


#: () -> Task. Registered by the modules of `compress.data`.
TASKS: Family[Callable[..., Task]] = Family("task", data=())
