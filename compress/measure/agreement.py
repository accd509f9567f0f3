"""Agreement: how far the answers of one way to run a model are from those of another."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Agreement:
    """Two sets of answers to the same inputs, compared.

    Attributes:
        max_abs: Largest difference of two logits; infinite when one of them is not a number.
        top1_agree: Share of the inputs with the same answer, 0..1.
    """

    max_abs: float
    top1_agree: float

    def as_json(self) -> dict[str, float]:
        """JSON for a report."""
        return asdict(self)


def agreement(expected_BC: NDArray[Any], found_BC: NDArray[Any]) -> Agreement:
    """Compare answers with those that were expected.

    Args:
        expected_BC: Logits of the reference (B, C).
        found_BC: Logits of the same model in another runtime, same inputs (B, C).

    >>> agreement(np.array([[0.0, 1.0], [2.0, 0.0]]), np.array([[0.5, 1.0], [0.0, 0.25]]))
    Agreement(max_abs=2.0, top1_agree=0.5)
    """
    assert expected_BC.shape == found_BC.shape, (expected_BC.shape, found_BC.shape)
    gap = float(np.abs(found_BC - expected_BC).max())
    agree = float((found_BC.argmax(1) == expected_BC.argmax(1)).mean())
    return Agreement(gap if np.isfinite(gap) else float("inf"), agree)
