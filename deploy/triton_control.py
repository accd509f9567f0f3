"""Telling a Triton server what to load; it answers with the old version until the new one is ready."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

#: Longest that loading one model may take.
LOAD_S = 300.0
#: Longest that a version may take to answer its last requests.
DRAIN_S = 60.0


class TritonRefused(RuntimeError):
    """A server did not load a model, or does not answer; says which and why."""


def switch(address: str, *, load: Sequence[str], old: Sequence[str] = ()) -> None:
    """Load models, wait until the versions that they replace have answered their last request, then unload the rest.

    Args:
        address: "HOST:PORT" of the server's gRPC; it runs with `--model-control-mode explicit`.
        load: Models in the order in which they are loaded: members before the cascade that calls them.
        old: Models that the version before consisted of; those that are not in `load` are unloaded.

    Raises:
        TritonRefused: A model could not be loaded; says which of the new ones serve already. Nothing was unloaded.
    """
    from tritonclient.grpc import InferenceServerClient
    from tritonclient.utils import InferenceServerException

    client, loaded = InferenceServerClient(url=address), list[str]()
    try:
        for name in load:
            client.load_model(name, client_timeout=LOAD_S)
            loaded.append(name)
        gone = [name for name in old if name not in load]
        if gone:
            _drained(client)
        for name in gone:
            client.unload_model(name, client_timeout=LOAD_S)
    except InferenceServerException as error:
        raise TritonRefused(
            f"Triton at {address} refused: {error.message()}. {_said(loaded)} Check that it runs with "
            f"--model-control-mode explicit and that its --model-repository is the pulled folder."
        ) from error
    finally:
        client.close()


def _said(loaded: Sequence[str]) -> str:
    if not loaded:
        return "What it served before, it still serves."
    return f"New already: {', '.join(loaded)}; of the others it still serves what it did before."


def _drained(client: Any) -> None:
    """Wait until no version of a model is being unloaded any more."""
    end = time.monotonic() + DRAIN_S
    while time.monotonic() < end:
        if not any(model.state == "UNLOADING" for model in client.get_model_repository_index().models):
            return
        time.sleep(0.1)
