"""The local server: KServe's model server answers for a pulled package as the library does."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from compress.core.model import CorruptModel
from compress.store import LocalStore
from deploy.promote import promote
from deploy.pull import pull
from deploy.serve import KServeMissing, _listening, serve
from deploy.served_models import BadRequest, Served, served_models
from deploy.triton_config import MAX_BATCH
from tests.deploy.stored_run import fresh_uri, put_run, router_of
from tests.deploy.test_kserve import KSERVE
from tests.deploy.triton_load import Tally, ask, client_loop
from tests.toys import toy_model, toy_task

SECATEUR = KSERVE / "bin" / "secateur"
MISSING = "" if SECATEUR.exists() else f"no local server: run `make {KSERVE.name}/.done`"
CLIENTS, REQUESTS = 8, 400


@dataclass(frozen=True)
class Pulled:
    """A pulled package, and what the library answers to all inputs."""

    folder: Path
    x_NCHW: np.ndarray
    expected: dict[str, np.ndarray]
    deferred: np.ndarray


@pytest.fixture(scope="module")
def pulled(tmp_path_factory: pytest.TempPathFactory) -> Pulled:
    root = tmp_path_factory.mktemp("served")
    uri, store = fresh_uri(root), LocalStore(root / "store")
    refs = put_run(store, root / "files", seed=1, has_onnx=True)
    assert promote(store, uri, "toy", refs["export"], refs["gate"], refs["cascade"])["promoted"]
    folder = pull("models:/toy@champion", root / "toy", uri=uri)
    x_NCHW = next(iter(toy_task().batches("validation", batch_size=48, limit=48)))[0]
    small, large = toy_model(2), toy_model(1)
    routed = router_of(refs, 1)(small, large, x_NCHW)
    expected = {"toy": small(x_NCHW).numpy(), "toy_cascade": routed.logits_BC.numpy()}
    return Pulled(folder, x_NCHW.numpy(), expected, routed.is_deferred_B.numpy())


def by_name(models: list[Served]) -> dict[str, Served]:
    return {model.name: model for model in models}


@pytest.mark.slow
def test_the_network_and_the_cascade_answer_like_the_library(pulled: Pulled) -> None:
    models = by_name(served_models(pulled.folder))
    assert set(models) == {"toy", "toy_cascade"}, "members of a cascade are no models of their own"
    for name, expected in pulled.expected.items():
        found = models[name].answer({"input": pulled.x_NCHW})
        assert np.abs(found["logits"] - expected).max() <= 1e-5
        assert models[name].version == "1"
    routed = models["toy_cascade"].answer({"input": pulled.x_NCHW})
    assert (routed["is_deferred"][:, 0] == pulled.deferred).all()
    assert 0 < pulled.deferred.mean() < 1
    sure = pulled.x_NCHW[~pulled.deferred]
    assert not models["toy_cascade"].answer({"input": sure})["is_deferred"].any()
    assert [one.as_json() for one in models["toy_cascade"].outputs] == [
        {"name": "logits", "datatype": "FP32", "shape": [-1, 3]},
        {"name": "is_deferred", "datatype": "BOOL", "shape": [-1, 1]},
    ]


def test_the_large_network_runs_on_the_deferred_inputs_alone(pulled: Pulled, monkeypatch: pytest.MonkeyPatch) -> None:
    from deploy import served_models as module

    seen: dict[str, int] = {}
    original = module._opened

    def counting(folder: Path, name: str, version: str, num_threads: int) -> Served:
        served = original(folder, name, version, num_threads)

        def run(given: Any) -> Any:
            seen[name.split("_")[-2] if "_" in name else name] = len(next(iter(given.values())))
            return served.run(given)

        return Served(served.name, served.version, served.inputs, served.outputs, run)

    monkeypatch.setattr(module, "_opened", counting)
    cascade = by_name(served_models(pulled.folder))["toy_cascade"]
    cascade.answer({"input": pulled.x_NCHW})
    assert seen == {"small": len(pulled.x_NCHW), "router": len(pulled.x_NCHW), "large": int(pulled.deferred.sum())}
    seen.clear()
    cascade.answer({"input": pulled.x_NCHW[~pulled.deferred]})
    assert "large" not in seen


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "takes the inputs input; got none"),
        ({"input": np.zeros((1, 1, 8, 8), np.float32), "more": np.zeros(1, np.float32)}, "got input, more"),
        ({"input": np.zeros((1, 1, 8, 8))}, "got float64"),
        ({"input": np.zeros((1, 1, 8, 9), np.float32)}, r"got float32 of shape \[1, 1, 8, 9\]"),
        ({"input": np.zeros((1, 8, 8), np.float32)}, r"shape \[-1, 1, 8, 8\]"),
        ({"input": np.zeros((0, 1, 8, 8), np.float32)}, "0 inputs in one request"),
        ({"input": np.zeros((MAX_BATCH + 1, 1, 8, 8), np.float32)}, f"send 1 to {MAX_BATCH}"),
    ],
)
def test_wrong_inputs_are_named(pulled: Pulled, given: dict[str, np.ndarray], said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        by_name(served_models(pulled.folder))["toy"].answer(given)


def test_what_is_no_whole_package_is_not_served(pulled: Pulled, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="secateur pull"):
        served_models(tmp_path / "nothing")
    with pytest.raises(CorruptModel, match="no secateur model"):
        served_models(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(pulled.folder, copy)
    (copy / "toy" / "1" / "model.onnx").write_bytes(b"another network")
    with pytest.raises(CorruptModel, match="changed after it was saved"):
        served_models(copy)
    (copy / "stranger.py").write_text("import os")
    with pytest.raises(CorruptModel, match="nobody recorded"):
        served_models(copy)


def test_a_port_that_is_taken_is_named() -> None:
    with closing(_listening("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"cannot listen on 127\.0\.0\.1, port {port} .*choose another --port"):
            _listening("127.0.0.1", port)


@pytest.mark.skipif(find_spec("kserve") is not None, reason="kserve is installed here")
def test_an_environment_without_kserve_says_how_to_get_one(pulled: Pulled) -> None:
    with pytest.raises(KServeMissing, match=r"make \.venv-kserve/\.done"):
        serve(pulled.folder, port=0)


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[str]
    address: str

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        """Send JSON without any client library, and return status and answer."""
        data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://{self.address}{path}", data=data, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


@pytest.fixture(scope="module")
def server(pulled: Pulled, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    if MISSING:
        pytest.skip(MISSING)
    log = tmp_path_factory.mktemp("server") / "log"
    command = [str(SECATEUR), "serve", str(pulled.folder), "--port", "0"]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with log.open("wb") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment)
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://([0-9.:]+)/v2/models/toy\b", line)
    assert found, log.read_text()
    try:
        yield Running(process, found[1])
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) in (0, -signal.SIGTERM, 128 + signal.SIGTERM), log.read_text()


@pytest.mark.slow
def test_tritons_client_gets_what_the_library_computes(
    pulled: Pulled, server: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    import tritonclient.http as protocol

    client = protocol.InferenceServerClient(server.address)
    assert client.is_server_ready()
    assert client.is_model_ready("toy_cascade")
    facts = client.get_model_metadata("toy")
    assert facts["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]
    worst = 0.0
    for name, expected in pulled.expected.items():
        for start, stop in ((0, 1), (1, 4), (4, 48)):
            version, logits = ask(protocol, client, name, pulled.x_NCHW[start:stop])
            assert version == "1"
            worst = max(worst, float(np.abs(logits - expected[start:stop]).max()))
    client.close()
    with capsys.disabled():
        print(f"\nKServe's model server over HTTP: largest difference to the library {worst:.1e}")
    assert worst <= 1e-5


@pytest.mark.slow
def test_plain_json_is_answered_too(pulled: Pulled, server: Running) -> None:
    data = pulled.x_NCHW[:2].ravel().tolist()
    given = {"name": "input", "shape": [2, 1, 8, 8], "datatype": "FP32", "data": data}
    wanted = {"id": "seven", "inputs": [given], "outputs": [{"name": "is_deferred"}, {"name": "logits"}]}
    status, answer = server.post("/v2/models/toy_cascade/infer", wanted)
    assert (status, answer["id"], answer["model_version"]) == (200, "seven", "1")
    deferred, logits = answer["outputs"]
    assert deferred["data"] == pulled.deferred[:2].tolist()
    assert logits["shape"] == [2, 3]
    assert np.allclose(logits["data"], pulled.expected["toy_cascade"][:2].ravel(), atol=1e-5)
    status, unnamed = server.post("/v2/models/toy/infer", {"inputs": [given]})
    assert status == 200
    assert unnamed["id"], "a request needs no id"
    assert np.allclose(unnamed["outputs"][0]["data"], pulled.expected["toy"][:2].ravel(), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "body", "status", "said"),
    [
        ("toy/infer", {"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [0]}]}, 400, "got x"),
        (
            "toy/infer",
            {"inputs": [{"name": "input", "shape": [9], "datatype": "FP32", "data": [0]}]},
            400,
            "do not fit",
        ),
        ("nobody/infer", {"inputs": []}, 404, "nobody"),
    ],
)
def test_what_is_wrong_is_said_to_the_client(server: Running, path: str, body: Any, status: int, said: str) -> None:
    found, answer = server.post(f"/v2/models/{path}", body)
    assert (found, said in answer["error"]) == (status, True), answer


@pytest.mark.slow
def test_clients_can_change_nothing_and_only_this_machine_can_ask(server: Running) -> None:
    import psutil

    for verb in ("load", "unload"):
        assert server.post(f"/v2/repository/models/toy/{verb}", {})[0] == 501
    assert server.post("/v1/models/toy:predict", {"instances": [[0.0]]})[0] == 400
    listening = {one.laddr.ip for one in psutil.Process(server.process.pid).net_connections() if one.status == "LISTEN"}
    assert listening == {"127.0.0.1"}
    host, _, port = server.address.partition(":")
    with closing(socket.create_connection((host, int(port)), timeout=5)):
        pass


@pytest.mark.slow
def test_many_clients_at_once_get_right_answers(
    pulled: Pulled, server: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    import tritonclient.http as protocol

    tally, threads = Tally(), []
    expected = {name: {"1": answers} for name, answers in pulled.expected.items()}

    def is_over() -> bool:
        return tally.num_requests >= REQUESTS

    for seed in range(CLIENTS):
        words = (protocol, server.address, seed, pulled.x_NCHW, expected, tally, is_over)
        threads.append(threading.Thread(target=client_loop, args=words))
        threads[-1].start()
    for thread in threads:
        thread.join()
    with capsys.disabled():
        print(
            f"\n{tally.num_requests} requests from {CLIENTS} clients to the local server: {len(tally.failed)} failed, "
            f"{len(tally.wrong)} wrong, largest difference {tally.worst:.2g}"
        )
    assert (tally.failed, tally.wrong) == ([], [])
