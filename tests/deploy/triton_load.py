"""Clients that ask a Triton server all the time while the champion changes, and check every answer.

Run it for long: `SECATEUR_TRITON_REQUESTS=5000 pytest tests/deploy/test_triton_server.py -k switches -s`.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 1e-4
#: What the answers to all inputs must be, by the version that says it answered.
Expected = Mapping[str, NDArray[np.float32]]


@dataclass
class Tally:
    """What came back.

    Attributes:
        answered: Requests that were answered rightly, by (model, version, protocol).
        failed: Requests without an answer, with their errors.
        wrong: Requests whose answer is not the library's.
        worst: Largest difference of an answer from the library's.
    """

    answered: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    failed: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    worst: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def num_requests(self) -> int:
        """Requests that were sent."""
        return sum(self.answered.values()) + self.num_troubles

    @property
    def num_troubles(self) -> int:
        """Requests that failed or were answered wrongly."""
        return len(self.failed) + len(self.wrong)


def ask(protocol: Any, client: Any, model: str, x_BCHW: NDArray[np.float32]) -> tuple[str, NDArray[np.float32]]:
    """Send one request and return the version that answered and its logits."""
    tensor = protocol.InferInput("input", list(x_BCHW.shape), "FP32")
    tensor.set_data_from_numpy(x_BCHW)
    answer = client.infer(model, [tensor])
    response = answer.get_response()
    version = response["model_version"] if isinstance(response, dict) else response.model_version
    return str(version), answer.as_numpy("logits")


def client_loop(
    protocol: Any,
    address: str,
    seed: int,
    x_NCHW: NDArray[np.float32],
    expected: Mapping[str, Expected],
    tally: Tally,
    is_over: Callable[[], bool],
) -> None:
    """Ask one request after the other, models in turns, one to four inputs each, until `is_over`."""
    draw, models, turn = np.random.default_rng(seed), sorted(expected), seed
    client = protocol.InferenceServerClient(address)
    kind = protocol.__name__.rpartition(".")[2]
    while not is_over():
        turn += 1
        model = models[turn % len(models)]
        index = draw.choice(len(x_NCHW), size=int(draw.integers(1, 5)), replace=False)
        try:
            version, logits = ask(protocol, client, model, x_NCHW[index])
            found = float(np.abs(logits - expected[model][version][index]).max())
        except Exception as error:
            with tally.lock:
                tally.failed.append(f"{model} by {kind}: {type(error).__name__}: {error}")
            continue
        with tally.lock:
            tally.worst = max(tally.worst, found)
            if found <= TOLERANCE:
                tally.answered[model, version, kind] += 1
            else:
                tally.wrong.append(f"{model} version {version} by {kind}: differs by {found:.3g}")
    client.close()
