"""From arrays of pictures to the fixed, seeded and disjoint splits of a task."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from compress.core.random import generator
from compress.core.registry import Piece
from compress.core.task import InputSpec, Split, Task
from compress.data.augment import Augment

#: Counts up when the same options divide the same data differently.
SPLIT_VERSION = 1


class PictureRows(Protocol):
    """Anything that gives uint8 pictures (n, C, H, W) for an array of n row numbers."""

    def __getitem__(self, rows: np.ndarray, /) -> np.ndarray: ...

    def __len__(self) -> int: ...


@dataclass(frozen=True)
class Pictures:
    """Pictures of one source part and their classes.

    Attributes:
        images: uint8 (N, C, H, W), an array or something that reads rows when asked.
        labels: Class indices, (N,) of any integer type.
    """

    images: PictureRows
    labels: np.ndarray

    def take(self, rows_B: Tensor) -> Split:
        """Return the split that holds `rows_B` of these pictures; nothing is copied."""
        rows = rows_B.numpy()

        def images(index_B: Tensor) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(self.images[rows[index_B.numpy()]]))

        return Split(labels_B=torch.from_numpy(np.asarray(self.labels)[rows].astype(np.int64)), images=images)

    def check(self, part: str, num_classes: int) -> None:
        """Raise ValueError when labels and pictures do not belong together."""
        if len(self.images) != len(self.labels):
            raise ValueError(f"{part} has {len(self.images)} pictures but {len(self.labels)} labels: repair the data.")
        if len(self.labels) and not 0 <= int(np.min(self.labels)) <= int(np.max(self.labels)) < num_classes:
            raise ValueError(
                f"{part} has labels from {np.min(self.labels)} to {np.max(self.labels)}, but the classes are "
                f"0 to {num_classes - 1}: number them from 0 without holes."
            )


def stratified_order(labels_N: Tensor, random: torch.Generator) -> Tensor:
    """Return a random order in which every prefix has each class in about its share of the whole.

    Args:
        labels_N: Class indices.
        random: Draws the order within and between classes.

    Returns:
        A permutation of 0 to N-1, int64.

    >>> order = stratified_order(torch.tensor([0, 0, 0, 1, 1, 1]), generator(0))
    >>> sorted(torch.tensor([0, 0, 0, 1, 1, 1])[order[:2]].tolist())
    [0, 1]
    """
    shuffled_N = torch.randperm(len(labels_N), generator=random)
    place_N = torch.empty(len(labels_N), dtype=torch.float64)
    for label in range(int(labels_N.max()) + 1 if len(labels_N) else 0):
        rows = shuffled_N[labels_N[shuffled_N] == label]
        place_N[rows] = (torch.arange(len(rows), dtype=torch.float64) + 0.5) / max(1, len(rows))
    return shuffled_N[place_N[shuffled_N].argsort(stable=True)]


@dataclass(frozen=True, kw_only=True)
class SplitRule:
    """How the source's training part becomes a train and a validation split.

    Attributes:
        validation: Number of pictures held out; 0 stands for a tenth.
        split_seed: Which ones. The test split never depends on it.
        limit: Train on at most so many pictures; 0 for all. A smaller limit gives a subset of a larger one.
    """

    validation: int
    split_seed: int
    limit: int

    def __post_init__(self) -> None:
        for name in ("validation", "limit"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}={getattr(self, name)}: a number of pictures is 0 or more.")

    def divide(self, labels_N: Tensor) -> tuple[Tensor, Tensor]:
        """Return the rows of the train and of the validation split, each ascending.

        Raises:
            ValueError: There are too few pictures for what is asked.
        """
        return self._divide(labels_N, self.validation or max(1, len(labels_N) // 10))

    def limited(self, labels_N: Tensor) -> Tensor:
        """Return the rows of the train split where validation pictures come from elsewhere, ascending."""
        return self._divide(labels_N, 0)[0]

    def _divide(self, labels_N: Tensor, num_validation: int) -> tuple[Tensor, Tensor]:
        num_rest = len(labels_N) - num_validation
        if num_rest < max(1, self.limit):
            raise ValueError(
                f"{len(labels_N)} training pictures cannot give {num_validation} for validation and "
                f"{max(1, self.limit)} for training: lower validation= or limit=."
            )
        order = stratified_order(labels_N, generator(self.split_seed, "split", "validation"))
        train = order[num_validation:][: self.limit or None]
        return train.sort().values, order[:num_validation].sort().values


def picture_task(
    piece: Piece[Any],
    *,
    spec: InputSpec,
    rule: SplitRule,
    source_digest: str,
    load: Callable[[], Mapping[str, Pictures]],
    augment: Augment | None,
) -> Task:
    """Return the task over what `load` gives: parts "train", "test" and perhaps "validation".

    Without a validation part, `rule` takes one out of the training part. Nothing is loaded here.

    Args:
        piece: The task's piece with its options.
        spec: Preprocessing and class names.
        rule: Division of the training part.
        source_digest: SHA-256 of the source files.
        load: Decodes the pictures; called on first use.
        augment: For training batches, or None.
    """
    rules = {"version": SPLIT_VERSION, **asdict(rule), "input": spec.as_json()}
    text = json.dumps({"source": source_digest, "rules": rules}, sort_keys=True)
    return Task(
        piece=piece,
        input=spec,
        digest=hashlib.sha256(text.encode()).hexdigest(),
        load=lambda: _splits(load(), rule, spec.num_classes),
        augment=augment,
    )


def _splits(parts: Mapping[str, Pictures], rule: SplitRule, num_classes: int) -> dict[str, Split]:
    for name, part in parts.items():
        part.check(name, num_classes)
    labels_N = torch.from_numpy(np.asarray(parts["train"].labels).astype(np.int64))
    if "validation" in parts:
        train, held_out = rule.limited(labels_N), parts["validation"]
        validation = held_out.take(torch.arange(len(held_out.labels)))
    else:
        train, rows = rule.divide(labels_N)
        validation = parts["train"].take(rows)
    test = parts["test"].take(torch.arange(len(parts["test"].labels)))
    return {"train": parts["train"].take(train), "validation": validation, "test": test}
