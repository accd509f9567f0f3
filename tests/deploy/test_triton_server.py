"""A real tritonserver: the package pulled by alias answers like the library, also while the alias moves."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from compress.store import LocalStore
from deploy.description import read_package
from deploy.promote import promote
from deploy.pull import load, pull
from deploy.tracking.connection import connected
from deploy.triton_control import TritonRefused, switch
from deploy.watch import Follower, Settings, models_of
from tests.deploy import tritonserver
from tests.deploy.stored_run import fresh_uri, put_run, router_of
from tests.deploy.triton_load import TOLERANCE, Tally, ask, client_loop
from tests.toys import toy_model, toy_task

pytestmark = [
    pytest.mark.slow,
    pytest.mark.own_target,
    pytest.mark.skipif(bool(tritonserver.missing()), reason=tritonserver.missing()),
]

REQUESTS = int(os.environ.get("SECATEUR_TRITON_REQUESTS", "600"))
CLIENTS, VERSIONS = 8, (1, 2, 3)
NAME = "models:/toy@champion"


def inputs() -> np.ndarray:
    """Return all pictures of the toy task's three splits but the test split."""
    pictures = [x for split in ("train", "validation") for x, _ in toy_task().batches(split, batch_size=48, limit=96)]
    return torch.cat(pictures).numpy()


@dataclass(frozen=True)
class Registry:
    """Three promoted versions, and what the library answers with each: logits, and what its cascade defers."""

    uri: str
    x_NCHW: np.ndarray
    student: dict[str, np.ndarray]
    cascade: dict[str, np.ndarray]
    deferred: dict[str, np.ndarray]

    def crown(self, version: int) -> None:
        """Make a version the champion."""
        with connected(self.uri) as client:
            client.set_registered_model_alias("toy", "champion", str(version))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    root = tmp_path_factory.mktemp("registry")
    made = Registry(fresh_uri(root), inputs(), {}, {}, {})
    store, x_BCHW = LocalStore(root / "store"), torch.from_numpy(made.x_NCHW)
    for version in VERSIONS:
        refs = put_run(store, root / "files", seed=version, has_onnx=True)
        assert promote(store, made.uri, "toy", refs["export"], refs["gate"], refs["cascade"])["promoted"]
        small, large = toy_model(version + 1), toy_model(version)
        routed = router_of(refs, version)(small, large, x_BCHW)
        made.student[str(version)] = small(x_BCHW).numpy()
        made.cascade[str(version)] = routed.logits_BC.numpy()
        made.deferred[str(version)] = routed.is_deferred_B.numpy()
    for answers in (made.student, made.cascade):
        for one, other in ((1, 2), (2, 3), (1, 3)):
            apart = np.abs(answers[str(one)] - answers[str(other)]).max(1).min()
            assert apart > 100 * TOLERANCE, "a wrong version must be seen"
        assert np.ptp(answers["1"], axis=0).min() > 100 * TOLERANCE, "a wrong row must be seen"
    return made


@pytest.fixture
def server(registry: Registry, tmp_path: Path) -> Iterator[tuple[tritonserver.Server, Path]]:
    """Version 1, pulled by alias and served."""
    registry.crown(1)
    link = pull(NAME, tmp_path / "served", uri=registry.uri, backend="python")
    with tritonserver.serving(link, tmp_path, *models_of(link)) as running:
        yield running, link


def protocols(server: tritonserver.Server) -> list[tuple[Any, str]]:
    import tritonclient.grpc
    import tritonclient.http

    return [(tritonclient.grpc, server.grpc), (tritonclient.http, server.http)]


def executed(server: tritonserver.Server, model: str) -> int:
    """Return how many inputs a model has answered."""
    import tritonclient.grpc

    client = tritonclient.grpc.InferenceServerClient(server.grpc)
    found = sum(one.inference_count for one in client.get_inference_statistics(model).model_stats)
    client.close()
    return found


def test_what_was_pulled_answers_like_the_library_over_both_protocols(
    registry: Registry, server: tuple[tritonserver.Server, Path]
) -> None:
    running, link = server
    assert np.abs(load(link)(torch.from_numpy(registry.x_NCHW)).numpy() - registry.student["1"]).max() == 0
    for protocol, address in protocols(running):
        client = protocol.InferenceServerClient(address)
        for model, expected in (("toy", registry.student["1"]), ("toy_cascade", registry.cascade["1"])):
            for start in range(0, len(registry.x_NCHW), 48):
                part = slice(start, start + 48)
                version, logits = ask(protocol, client, model, registry.x_NCHW[part])
                assert version == "1"
                assert np.abs(logits - expected[part]).max() <= 1e-4
        assert client.get_model_metadata("toy")
        client.close()


def test_class_names_come_with_the_answer(registry: Registry, server: tuple[tritonserver.Server, Path]) -> None:
    import tritonclient.grpc as protocol

    client = protocol.InferenceServerClient(server[0].grpc)
    tensor = protocol.InferInput("input", [1, 1, 8, 8], "FP32")
    tensor.set_data_from_numpy(registry.x_NCHW[:1])
    top = client.infer("toy", [tensor], outputs=[protocol.InferRequestedOutput("logits", class_count=1)])
    best = int(registry.student["1"][0].argmax())
    assert top.as_numpy("logits")[0][0].decode().split(":")[1:] == [str(best), ("left", "right", "none")[best]]
    client.close()


def test_the_cascade_asks_the_large_model_as_often_as_the_library(
    registry: Registry, server: tuple[tritonserver.Server, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    import tritonclient.grpc as protocol

    running, link = server
    large = next(name for name in models_of(link) if "_large_" in name)
    client, x_NCHW, expected = protocol.InferenceServerClient(running.grpc), registry.x_NCHW, registry.deferred["1"]
    before, cascade_before, seen = executed(running, large), executed(running, "toy_cascade"), []
    for index in range(len(x_NCHW)):
        tensor = protocol.InferInput("input", [1, 1, 8, 8], "FP32")
        tensor.set_data_from_numpy(x_NCHW[index : index + 1])
        seen.append(bool(client.infer("toy_cascade", [tensor]).as_numpy("is_deferred")[0, 0]))
    calls, asked = executed(running, large) - before, executed(running, "toy_cascade") - cascade_before
    assert asked == len(x_NCHW)
    assert calls == sum(seen)
    share, library = calls / asked, float(expected.mean())
    with capsys.disabled():
        print(f"\nlarge model called for {calls} of {asked} inputs: {share:.4f}; library {library:.4f}")
    assert 0.2 < library < 0.8, "the test must have both kinds of inputs"
    assert abs(share - library) <= 0.01
    sure = x_NCHW[~expected]
    before = executed(running, large)
    ask(protocol, client, "toy_cascade", sure[:48])
    assert executed(running, large) == before
    client.close()


def test_no_request_fails_or_is_wrong_while_the_alias_switches_twice(
    registry: Registry, server: tuple[tritonserver.Server, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    running, link = server
    tally, expected = Tally(), {"toy": registry.student, "toy_cascade": registry.cascade}
    switched = threading.Event()

    def is_over() -> bool:
        return (switched.is_set() and tally.num_requests >= REQUESTS) or tally.num_troubles > 50

    kinds, threads = protocols(running), []
    for seed in range(CLIENTS):
        protocol, address = kinds[seed % 2]
        words = (protocol, address, seed, registry.x_NCHW, expected, tally, is_over)
        threads.append(threading.Thread(target=client_loop, args=words))
        threads[-1].start()
    follower = Follower(
        Settings(name=NAME, folder=link, uri=registry.uri, backend="python", triton=running.grpc, interval_s=1)
    )
    started, first = time.monotonic(), models_of(link)
    try:
        for turn, version in enumerate((2, 3), start=1):
            while tally.num_requests < turn * REQUESTS // 3 and tally.num_troubles <= 50:
                time.sleep(0.05)
            registry.crown(version)
            follower.step()
    finally:
        switched.set()
        for thread in threads:
            thread.join()
    seconds = time.monotonic() - started
    counts = {f"{model}/{version}/{kind}": count for (model, version, kind), count in sorted(tally.answered.items())}
    with capsys.disabled():
        print(
            f"\n{tally.num_requests} requests from {CLIENTS} clients in {seconds:.1f} s across two alias switches: "
            f"{len(tally.failed)} failed, {len(tally.wrong)} wrong, largest difference {tally.worst:.2g}; {counts}"
        )
    assert (tally.failed, tally.wrong) == ([], [])
    assert tally.num_requests >= REQUESTS
    assert {version for _, version, _ in tally.answered} == {"1", "2", "3"}
    assert {(model, kind) for model, _, kind in tally.answered} == {
        (model, kind) for model in ("toy", "toy_cascade") for kind in ("grpc", "http")
    }
    assert ready(running) == set(models_of(link))
    assert not set(models_of(link)) & {name for name in first if "cascade_" in name}


def ready(server: tritonserver.Server) -> set[str]:
    import tritonclient.grpc

    client = tritonclient.grpc.InferenceServerClient(server.grpc)
    found = {model.name for model in client.get_model_repository_index().models if model.state == "READY"}
    client.close()
    return found


def test_a_model_that_the_server_cannot_load_leaves_the_old_one_serving(
    registry: Registry, server: tuple[tritonserver.Server, Path], tmp_path: Path
) -> None:
    import tritonclient.grpc as protocol

    running, link = server
    names = models_of(link)
    with pytest.raises(TritonRefused, match=r"what|still serves"):
        switch(running.grpc, load=[*names, "nobody"], old=["toy"])
    client = protocol.InferenceServerClient(running.grpc)
    assert ask(protocol, client, "toy", registry.x_NCHW[:2])[0] == "1"
    client.close()
    with pytest.raises(TritonRefused, match=r"127\.0\.0\.1:9"):
        switch("127.0.0.1:9", load=names)
    broken = link.resolve() / "toy" / "1" / "model.onnx"
    good = broken.read_bytes()
    broken.write_bytes(b"no network")
    try:
        with pytest.raises(TritonRefused, match="toy"):
            switch(running.grpc, load=["toy"])
    finally:
        broken.write_bytes(good)
    client = protocol.InferenceServerClient(running.grpc)
    assert ask(protocol, client, "toy", registry.x_NCHW[:2])[0] == "1"
    client.close()


def test_a_refused_version_leaves_nothing_behind_when_the_next_one_comes(
    registry: Registry, server: tuple[tritonserver.Server, Path]
) -> None:
    running, link = server
    settings = Settings(name=NAME, folder=link, uri=registry.uri, backend="python", triton=running.grpc)
    follower = Follower(settings)
    follower.step()
    broken = Settings(name=NAME, folder=link, uri=registry.uri, backend="python")
    registry.crown(2)
    Follower(broken).step()
    victim = link.resolve() / "toy_cascade" / "2" / "model.py"
    victim.write_text("no python")
    with pytest.raises(TritonRefused, match="toy_cascade"):
        follower.step()
    registry.crown(3)
    follower.step()
    assert ready(running) == set(models_of(link))
    follower.step()
    assert ready(running) == set(models_of(link))


def test_the_artifact_location_is_a_repository_that_loads_as_a_whole(registry: Registry, tmp_path: Path) -> None:
    """What MLflow keeps is served from where it lies; the server looks at every folder of it."""
    from deploy.package import build_package

    store = LocalStore(tmp_path / "store")
    refs = put_run(store, tmp_path / "files", seed=1, has_onnx=True)
    parts = {"export": refs["export"], "gate": refs["gate"], "evaluation": refs["evaluate"], "cascade": refs["cascade"]}
    from mlflow import MlflowClient

    from deploy.tracking.destination import Destination, experiment_id

    folder = tmp_path / "package"
    build_package(store, folder, parts, name="toy", backend="python")
    (folder / "MLmodel").write_text("flavors: {}")
    with connected(registry.uri) as client:
        where = experiment_id(client, Destination(uri=registry.uri, experiment="whole"))
        model = MlflowClient(registry.uri, registry.uri).create_logged_model(where, name="toy")
        client.log_model_artifacts(model.model_id, str(folder))
        place = Path(client.get_logged_model(model.model_id).artifact_location.removeprefix("file://"))
    with tritonserver.serving(place, tmp_path, "*") as running:
        assert ready(running) == set(read_package(place)["triton"]["models"])


def test_the_command_brings_a_version_to_the_server(
    registry: Registry, server: tuple[tritonserver.Server, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    import tritonclient.grpc as protocol

    from compress import cli

    running, link = server
    registry.crown(2)
    words = ["secateur", "pull", NAME, "--to", str(link), "--uri", registry.uri, "--backend", "python"]
    monkeypatch.setattr(sys, "argv", [*words, "--triton", running.grpc])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code in (0, None)
    client = protocol.InferenceServerClient(running.grpc)
    for model, expected in (("toy", registry.student["2"]), ("toy_cascade", registry.cascade["2"])):
        version, logits = ask(protocol, client, model, registry.x_NCHW[:8])
        assert version == "2"
        assert np.abs(logits - expected[:8]).max() <= 1e-4
    client.close()
