"""A partition of whole numbers: which of them belong together. Numbers come in tensors, many at a time."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

#: What belongs to nobody and cannot be cut. Joining a number with it marks the number.
FIXED = 0


class Partition:
    """Disjoint sets of numbers, and why some of them cannot be cut.

    >>> sets = Partition()
    >>> a, b = sets.new(3), sets.new(3)
    >>> sets.join(a, b, "")
    >>> sets.roots(b).tolist()
    [1, 2, 3]
    """

    def __init__(self) -> None:
        self._above = np.arange(1024)
        self._parent = torch.from_numpy(self._above)
        self._count = 1
        self._marks: dict[tuple[int, str], None] = {}

    def new(self, count: int) -> Tensor:
        """Return `count` numbers that nobody has yet, each a set of its own."""
        first, self._count = self._count, self._count + count
        if self._count > len(self._above):
            more = np.arange(len(self._above), max(self._count, 2 * len(self._above)))
            self._above = np.concatenate([self._above, more])
            self._parent = torch.from_numpy(self._above)
        return torch.arange(first, self._count)

    def roots(self, numbers: Tensor) -> Tensor:
        """Return the smallest number of the set of each of `numbers`."""
        root = self._parent[numbers]
        while not torch.equal(above := self._parent[root], root):
            root = above
        return root

    def join(self, a: Tensor, b: Tensor, reason: str) -> None:
        """Make one set of the sets of `a` and `b`, element by element after broadcasting.

        Args:
            a: Numbers.
            b: Numbers.
            reason: Why numbers that meet FIXED cannot be cut.
        """
        a, b = (self.roots(x) for x in thin(*torch.broadcast_tensors(a, b)))
        low, high = torch.minimum(a, b), torch.maximum(a, b)
        self.mark(high[low == FIXED], reason)
        differ = (low != high) & (low != FIXED)
        pairs = (low[differ] * self._count + high[differ]).unique().numpy()
        lows, highs = pairs // self._count, pairs % self._count
        # Nobody is joined twice, and no chain can become long.
        if len(np.unique(highs)) == len(highs) and not np.isin(highs, lows).any():
            self._above[highs] = lows
            return
        for one, other in zip(lows.tolist(), highs.tolist(), strict=True):
            low_root, high_root = sorted((self._root(one), self._root(other)))
            self._above[high_root] = low_root

    def mark(self, numbers: Tensor, reason: str) -> None:
        """Note that the sets of `numbers` cannot be cut, and why."""
        for number in thin(numbers)[0].unique().numpy().tolist():
            if number != FIXED:
                self._marks[number, reason] = None

    def marks(self) -> dict[int, set[str]]:
        """Return by root the reasons for which a set cannot be cut."""
        found: dict[int, set[str]] = {}
        for number, reason in self._marks:
            found.setdefault(self._root(number), set()).add(reason)
        return found

    def join_along(self, labels: Tensor, dims: tuple[int, ...], reason: str) -> Tensor:
        """Join what differs along `dims` alone; return the labels with these dimensions of length 1."""
        for dim in dims:
            if labels.shape[dim] > 1:
                first = labels.narrow(dim, 0, 1)
                self.join(labels, first, reason)
                labels = first
        return labels

    def varies(self, labels: Tensor, dim: int) -> bool:
        """Return whether there are two sets side by side along `dim`."""
        labels = thin(labels)[0]
        if labels.shape[dim] < 2:
            return False
        roots = self.roots(labels)
        return bool((roots != roots.narrow(dim, 0, 1)).any())

    def _root(self, number: int) -> int:
        """Return the smallest number of a set, and shorten the way to it."""
        root = number
        while (above := int(self._above[root])) != root:
            root = above
        self._above[number] = root
        return root


def thin(*labels: Tensor) -> tuple[Tensor, ...]:
    """Return tensors of one shape without the dimensions along which all of them merely repeat (length 1 instead)."""
    for dim in range(labels[0].ndim):
        if labels[0].shape[dim] > 1 and all(x.stride(dim) == 0 for x in labels):
            labels = tuple(x.narrow(dim, 0, 1) for x in labels)
    return labels


def folded(labels: Tensor) -> Tensor:
    """Return the same labels, repeated without memory along the dimensions in which they do not change."""
    shape = labels.shape
    for dim in range(labels.ndim):
        if shape[dim] > 1:
            first = labels.narrow(dim, 0, 1)
            if labels.stride(dim) == 0 or torch.equal(labels, first.expand_as(labels)):
                labels = first
    return labels.expand(shape)
