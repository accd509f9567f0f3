"""The only maker of random generators.

Every generator comes from a seed and a path of names, so that two uses never share a stream
and a stage that was killed can make the generator of epoch 7 without replaying epochs 0 to 6.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def derived_seed(seed: int, *path: str | int) -> int:
    """Return a seed in [0, 2**63) for the place `path` under `seed`.

    >>> derived_seed(0, "epoch", 3) == derived_seed(0, "epoch", 3) != derived_seed(0, "epoch", 4)
    True
    """
    text = "/".join([str(seed), *map(str, path)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *path: str | int) -> torch.Generator:
    """Return a CPU generator for the place `path` under `seed`."""
    import torch

    return torch.Generator().manual_seed(derived_seed(seed, *path))


class seeded:
    """Context in which torch's global generator is seeded, and restored afterwards.

    Needed only for code that draws from the global stream: module constructors, dropout.
    """

    def __init__(self, seed: int, *path: str | int) -> None:
        self._seed = derived_seed(seed, *path)

    def __enter__(self) -> None:
        import torch

        self._state = torch.get_rng_state()
        torch.default_generator.manual_seed(self._seed)

    def __exit__(self, *_: object) -> None:
        import torch

        torch.set_rng_state(self._state)
