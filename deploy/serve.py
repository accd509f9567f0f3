"""A local server for people without Triton: the Open Inference Protocol v2 over HTTP, spoken by KServe's model server.

Nothing here speaks the protocol itself. KServe lives in an environment of its own (`requirements/kserve.lock`), because
it wants older packages than MLflow and Kubeflow do; that environment needs no torch.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deploy.served_models import BadRequest, Served, served_models

if TYPE_CHECKING:
    from numpy.typing import NDArray

LOOPBACK, PORT = "127.0.0.1", 8080


class KServeMissing(RuntimeError):
    """This environment has no KServe; says how to get one."""


def serve(folder: Path, *, host: str = LOOPBACK, port: int = PORT, num_threads: int = 1) -> None:
    """Serve a pulled package over HTTP until SIGTERM or SIGINT.

    Args:
        folder: What `secateur pull` made; all hashes are checked first.
        host: Address to listen on. There is no authentication: another one than the loopback is for trusted networks.
        port: Port to listen on; 0 for any that is free.
        num_threads: Threads inside one operator.

    Raises:
        KServeMissing: The environment has no KServe.
        CorruptModel: A file is not what was promoted.
        ValueError: The folder is no package.
        OSError: The port is taken.
    """
    require_kserve()
    models = served_models(folder, num_threads=num_threads)
    with _listening(host, port) as listener:
        shown = f"[{host}]" if ":" in host else host
        base = f"http://{shown}:{listener.getsockname()[1]}/v2/models"
        print(f"serving {', '.join(f'{base}/{model.name}' for model in models)}", flush=True)
        _rest_server(models).run(sockets=[listener])


def require_kserve() -> None:
    """Import KServe, or raise KServeMissing.

    KServe reads the command line when it is imported; it must not see ours.
    """
    before, sys.argv = sys.argv, sys.argv[:1]
    try:
        import kserve.model_server  # noqa: F401
    except ImportError as error:
        raise KServeMissing(
            f"no KServe here ({error}): `make .venv-kserve/.done` makes an environment with it, whose bin/secateur "
            f"serves; or install requirements/kserve.lock and this package (--no-deps) into one."
        ) from error
    finally:
        sys.argv = before


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise OSError(f"cannot listen on {host}, port {port} ({error.strerror}): choose another --port.") from error


def _rest_server(models: Sequence[Served]) -> Any:
    from kserve.model_repository import ModelRepository
    from kserve.protocol.dataplane import DataPlane
    from kserve.protocol.model_repository_extension import ModelRepositoryExtension
    from kserve.protocol.rest.server import RESTServer

    class FixedRepository(ModelRepositoryExtension):
        """Clients may look, and neither load nor unload."""

        async def load(self, model_name: str) -> None:
            raise NotImplementedError("models are loaded when the server starts: pull, then start it again.")

        async def unload(self, model_name: str) -> None:
            raise NotImplementedError("models stay loaded until the server ends.")

    repository = ModelRepository()
    for served in models:
        repository.update(_kserve_model(served))
    plane = DataPlane(model_registry=repository)
    return RESTServer("kserve.model_server:app", plane, FixedRepository(model_registry=repository), http_port=PORT)


def _kserve_model(served: Served) -> Any:
    """Return a model as KServe knows models."""
    import kserve
    from kserve.errors import InvalidInput
    from kserve.protocol.infer_type import InferOutput, InferRequest, InferResponse

    class Adapter(kserve.Model):
        """Answers with ONNX Runtime, in a thread, so that requests are computed side by side."""

        def get_input_types(self) -> list[dict[str, Any]]:
            return [one.as_json() for one in served.inputs]

        def get_output_types(self) -> list[dict[str, Any]]:
            return [one.as_json() for one in served.outputs]

        async def predict(self, payload: Any, headers: Mapping[str, str] | None = None, *_: Any) -> Any:
            if not isinstance(payload, InferRequest):
                raise InvalidInput(f"ask by the Open Inference Protocol v2: POST /v2/models/{served.name}/infer.")
            try:
                found = await asyncio.to_thread(served.answer, _arrays(payload))
            except BadRequest as error:
                raise InvalidInput(str(error)) from error
            types = {one.name: one.datatype for one in served.outputs}
            return InferResponse(
                response_id=payload.id or uuid.uuid4().hex,
                model_name=served.name,
                model_version=served.version,
                infer_outputs=[InferOutput(name, list(one.shape), types[name], one) for name, one in found.items()],
                use_binary_outputs=payload.use_binary_outputs,
                requested_outputs=payload.request_outputs,
            )

    adapter = Adapter(served.name)
    adapter.load()
    return adapter


def _arrays(payload: Any) -> dict[str, NDArray[Any]]:
    try:
        return {one.name: one.as_numpy() for one in payload.inputs}
    except (ValueError, TypeError) as error:
        raise BadRequest(f"the data of an input do not fit its shape and type: {error}") from error
