"""Answering with a cascade: the large network really runs only on what the small one defers."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from compress.cascade.confidences import CONFIDENCES
from compress.core.registry import Piece

#: x_BCHW -> logits_BC.
Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Routed:
    """Answers of a cascade.

    Attributes:
        logits_BC: Outputs divided by the temperature of the network that gave them.
        is_deferred_B: True where the large network answered.
    """

    logits_BC: Tensor
    is_deferred_B: Tensor


def cascade_logits(
    small: Network,
    large: Network,
    x_BCHW: Tensor,
    *,
    confidence: Piece[Any],
    threshold: float,
    temperature: tuple[float, float] = (1.0, 1.0),
) -> Routed:
    """Return the answers of a cascade; `large` sees only the deferred inputs, and is not called without any.

    Args:
        small: Answers every input.
        large: Answers the inputs whose score is above the threshold.
        x_BCHW: Inputs.
        confidence: Piece of CONFIDENCES; higher = defer.
        threshold: In [-1, 1].
        temperature: What the logits of (small, large) are divided by.
    """
    logits_BC = small(x_BCHW) / temperature[0]
    is_deferred_B = confidence(logits_BC) > threshold
    if bool(is_deferred_B.any()):
        logits_BC = logits_BC.clone()
        logits_BC[is_deferred_B] = (large(x_BCHW[is_deferred_B]) / temperature[1]).to(logits_BC.dtype)
    return Routed(logits_BC, is_deferred_B)


class RoutedSession:
    """A cascade behind the interface of a runtime's session, so that it can be timed like one network.

    Args:
        router: Decides which inputs the large network answers.
        small: Answers every input.
        large: Answers what is deferred.
        like: The small network's session; gives name, device and number of threads.
    """

    def __init__(self, router: Router, small: Network, large: Network, like: Any) -> None:
        self._router, self._small, self._large = router, small, large
        self.name, self.device, self.num_threads, self.size_bytes = like.name, like.device, like.num_threads, 0

    def infer(self, x_BCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return logits (B, num_classes), float32, for inputs (B, C, H, W); the large network runs when needed.

        The routing itself runs in torch, with as many threads as the networks have.
        """
        before = torch.get_num_threads()
        torch.set_num_threads(self.num_threads)
        try:
            with torch.inference_mode():
                return self._router(self._small, self._large, torch.from_numpy(x_BCHW)).logits_BC.float().numpy()
        finally:
            torch.set_num_threads(before)


@dataclass(frozen=True, kw_only=True)
class Router:
    """What `cascade.json` holds: everything but the networks.

    Attributes:
        small: Name of the small network's entry.
        large: Name of the large network's entry.
        digests: Of the weights of the small and of the large network that the threshold was chosen for.
        confidence: Piece of CONFIDENCES.
        threshold: A score above it is deferred.
        temperature: Of the small and of the large network.
    """

    small: str
    large: str
    digests: tuple[str, str]
    confidence: Piece[Any]
    threshold: float
    temperature: tuple[float, float] = field(default=(1.0, 1.0))

    def __call__(self, small: Network, large: Network, x_BCHW: Tensor) -> Routed:
        """Answer `x_BCHW` with these networks."""
        return cascade_logits(
            small,
            large,
            x_BCHW,
            confidence=self.confidence,
            threshold=self.threshold,
            temperature=self.temperature,
        )

    def check_members(self, small_digest: str, large_digest: str) -> None:
        """Raise ValueError unless these are the weights that the threshold and temperatures were chosen for."""
        members = (("small", "model", self.small), ("large", "teacher", self.large))
        for (member, role, ref), found, expected in zip(
            members, (small_digest, large_digest), self.digests, strict=True
        ):
            if found != expected:
                raise ValueError(
                    f"the cascade was calibrated with {ref} as its {member} network, but role {role!r} holds other "
                    f"weights ({found[:12]}…, calibrated {expected[:12]}…): run stage cascade again with this "
                    f"{role}, or evaluate with the one it was calibrated for."
                )

    def as_json(self) -> dict[str, Any]:
        """JSON with what `from_json` needs."""
        return {
            "small": self.small,
            "large": self.large,
            "digests": list(self.digests),
            "confidence": self.confidence.as_json(),
            "threshold": self.threshold,
            "temperature": list(self.temperature),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Router:
        """Read what `as_json` wrote.

        Raises:
            ValueError: It does not say which weights it was calibrated for.
        """
        if "digests" not in data:
            raise ValueError("cascade.json names no weights of its members: run stage cascade again.")
        small_digest, large_digest = data["digests"]
        small, large = data["temperature"]
        return cls(
            small=data["small"],
            large=data["large"],
            digests=(str(small_digest), str(large_digest)),
            confidence=CONFIDENCES.from_json(data["confidence"]),
            threshold=float(data["threshold"]),
            temperature=(float(small), float(large)),
        )

    def write(self, path: Path) -> None:
        """Write `cascade.json`."""
        path.write_text(json.dumps(self.as_json(), indent=1, sort_keys=True) + "\n")

    @classmethod
    def read(cls, path: Path) -> Router:
        """Read `cascade.json`."""
        return cls.from_json(json.loads(path.read_text()))
