"""kill -9 at every request that changes something: during the upload of a stage's result, and during promotion."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from compress.core.stage import Ref
from compress.store import LocalStore
from deploy.mlflow_store import MlflowStore, flush, pending_refs
from deploy.promote import Under, promote
from deploy.pull import check_package, pull
from deploy.tracking import open_parent
from tests.deploy.stored_run import fresh_uri, put, put_run
from tests.storage import servers
from tests.toys import toy_model

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
#: Of the uploads, which are alike, every so many-th is killed.
STRIDE = 5
#: Without `make test-storage` every so many-th of all cases is run.
SAMPLE = 1 if servers.IS_WHOLE else 6


class Victim(NamedTuple):
    """The server, and the process whose children are killed."""

    server: servers.Mlflow
    process: subprocess.Popen[str]

    def ask(self, **order: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"uri": self.server.uri, **order}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the victim itself is gone"
        return dict(json.loads(line))


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    folder = tmp_path_factory.mktemp("server")
    with servers.moto() as store, servers.mlflow(folder, fresh_uri(folder), store) as server:
        command = [sys.executable, "-m", "tests.storage.victim", server.uri]
        environment = servers.bare_environment() | {"SECATEUR_MLFLOW_TOTAL_S": "60"}
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield Victim(server, process)
        finally:
            process.kill()
            process.wait()


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SECATEUR_MLFLOW_TOTAL_S", "60")


def deaths(requests: list[str]) -> list[tuple[int, str]]:
    """Return when to kill: after each request, and in the middle of some of the uploads."""
    uploads = [number for number, request in enumerate(requests, 1) if request.startswith("PUT ")]
    others = [number for number in range(1, len(requests) + 1) if number not in uploads]
    chosen = uploads[::STRIDE]
    found = sorted([(number, "after") for number in others] + [(number, "half") for number in chosen])
    return found[::-SAMPLE]


def interrupted(store: MlflowStore, experiment: str, number: int) -> Ref:
    """Store an entry that waits to be pushed, as a process leaves it that was killed before it pushed."""
    away = MlflowStore(store.local, store.uri, experiment=experiment)
    away._push = lambda *_: None  # type: ignore[method-assign]
    return put(away, "train", {}, {"validation_accuracy": 0.5}, model=toy_model(), config={"number": number})


def test_an_upload_that_is_killed_anywhere_is_finished_by_the_next(
    victim: Victim, tmp_path: Path, say: Callable[[str], None]
) -> None:
    uri, experiment = victim.server.uri, "uploads"

    def attempt(number: int, when: str) -> tuple[dict[str, Any], MlflowStore, Ref]:
        store = MlflowStore(LocalStore(tmp_path / f"store{number}"), uri, experiment=experiment)
        ref = interrupted(store, experiment, number)
        order = {"do": "push", "store": str(store.local.root), "experiment": experiment}
        return victim.ask(**order, number=number, when=when), store, ref

    whole, _, _ = attempt(0, "never")
    assert whole["code"] == 0
    cases, num_visible = deaths(whole["requests"][1:]), 0
    for number, when in cases:
        answer, store, ref = attempt(number, when)
        assert answer["code"] == -signal.SIGKILL
        assert pending_refs(store) == [ref], "it still waits"
        early = MlflowStore(LocalStore(tmp_path / f"early{number}"), uri)
        if early.has(ref):
            num_visible += 1
            assert early.get(ref).report == store.get(ref).report
        assert flush(store) == [ref]
        late = MlflowStore(LocalStore(tmp_path / f"late{number}"), uri)
        assert late.record(ref)["files"] == store.record(ref)["files"]
        check_once(victim.server.client(), experiment, ref)
    assert 1 <= num_visible < len(cases)
    say(f"killed {len(cases)} uploads at {len(whole['requests'])} requests, {num_visible} were complete already")


def check_once(client: Any, experiment: str, ref: Ref) -> None:
    """An entry has one finished run, and one LoggedModel, which is ready."""
    where = [client.get_experiment_by_name(experiment).experiment_id]
    (run,) = client.search_runs(where, f"tags.`secateur.ref` = '{ref}'")
    assert run.info.status == "FINISHED"
    (model,) = client.search_logged_models(where, f"tags.`secateur.ref` = '{ref}'")
    assert str(model.status).endswith("READY")


def test_a_promotion_that_is_killed_anywhere_shows_whole_packages_and_is_finished(
    victim: Victim, tmp_path: Path, say: Callable[[str], None]
) -> None:
    uri, client = victim.server.uri, victim.server.client()
    store = LocalStore(tmp_path / "store")
    old, new = (put_run(store, tmp_path / "files", seed=seed) for seed in (0, 1))

    def attempt(number: int, when: str) -> tuple[dict[str, Any], dict[str, str]]:
        place = {"name": f"net-{number}", "parent": open_parent(uri, f"night-{number}", "night")}
        under = Under(experiment=f"night-{number}")
        first = promote(store, uri, place["name"], old["export"], old["gate"], None, under=under)
        assert first["promoted"], first
        return victim.ask(do="promote", store=str(store.root), refs=new, number=number, when=when, **place), place

    whole, _ = attempt(0, "never")
    assert (whole["code"], whole["promoted"], whole["version"]) == (0, True, "2")
    cases, seen = deaths(whole["requests"]), []
    for number, when in cases:
        answer, place = attempt(number, when)
        assert answer["code"] == -signal.SIGKILL
        name = place["name"]
        for alias in client.get_registered_model(name).aliases:
            folder = pull(f"models:/{name}@{alias}", tmp_path / f"{name}-{alias}", uri=uri)
            check_package(folder)
        seen.append(str(client.get_model_version_by_alias(name, "champion").version))
        under = Under(parent_run=place["parent"])
        again = promote(store, uri, name, new["export"], new["gate"], new["cascade"], under=under)
        assert again["promoted"], again
        champion = client.get_model_version_by_alias(name, "champion")
        assert champion.tags["secateur.claim"] == "won"
        assert champion.tags["secateur.ref"] == new["export"]
        check_package(pull(f"models:/{name}@champion", tmp_path / f"{name}-late", uri=uri))
    assert "1" in seen
    assert "2" in seen
    say(f"killed {len(cases)} promotions at {len(whole['requests'])} requests; champion afterwards: {seen}")
