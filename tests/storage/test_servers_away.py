"""MLflow and its database go away while the pipeline works, and come back: nothing is lost, nothing is done twice.

SECATEUR_AWAY_S=30 (`make test-storage`) keeps MLflow down for 30 s; otherwise it is down for as long as a step takes.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from compress.store import LocalStore
from deploy.mlflow_store import MlflowStore, flush, pending_refs
from deploy.promote import Under, promote
from tests.deploy.stored_run import put, put_run
from tests.postgresql import PASSWORD, Server, postgresql
from tests.storage import dag, servers
from tests.toys import toy_model

pytestmark = pytest.mark.slow
AWAY_S = float(os.environ.get("SECATEUR_AWAY_S", "3"))
REPORT = {"validation_accuracy": 0.5}
AWAY = Under(experiment="away")


class Both(NamedTuple):
    """An MLflow server and the PostgreSQL behind it."""

    server: servers.Mlflow
    database: Server


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed: pip install psycopg2-binary")
    folder = tmp_path_factory.mktemp("server")
    with tempfile.TemporaryDirectory(prefix="pg-") as data, postgresql(Path(data)) as database, servers.moto() as store:
        url = servers.database_url(database.url)
        with servers.mlflow(folder, url, store) as server:
            yield Both(server, database)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)


def test_a_database_that_restarts_under_load_costs_nothing(
    both: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, say: Callable[[str], None]
) -> None:
    """Ended hard three times while results are being pushed; what does not get through waits."""
    monkeypatch.setenv("SECATEUR_MLFLOW_TOTAL_S", "60")
    store = MlflowStore(LocalStore(tmp_path / "store"), both.server.uri, experiment="restarts")
    stop, restarts = threading.Event(), 0

    def disturb() -> None:
        nonlocal restarts
        while not stop.wait(1.0) and restarts < 3:
            both.database.restart()
            restarts += 1

    thread = threading.Thread(target=disturb)
    thread.start()
    refs = []
    while len(refs) < 4 or (restarts < 3 and len(refs) < 40):
        config = {"number": len(refs)}
        refs.append(put(store, "train", {}, REPORT, model=toy_model(), config=config))
    stop.set()
    thread.join()
    waited = pending_refs(store)
    flush(store)
    assert restarts >= 1
    assert pending_refs(store) == []
    other = MlflowStore(LocalStore(tmp_path / "other"), both.server.uri)
    assert [other.get(ref).report for ref in refs] == [REPORT] * len(refs)
    client = both.server.client()
    runs = client.search_runs([client.get_experiment_by_name("restarts").experiment_id])
    assert sorted(run.data.tags["secateur.ref"] for run in runs) == sorted(refs), "one run each"
    say(f"{restarts} restarts, {len(refs)} results, {len(waited)} had to wait")


def test_a_database_that_stays_away_is_named_and_nothing_is_promoted(
    both: Both, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("SECATEUR_MLFLOW_ATTEMPTS", "2")
    store = MlflowStore(LocalStore(tmp_path / "store"), both.server.uri, experiment="away")
    refs = put_run(store, tmp_path / "files")
    both.database.stop()
    try:
        with caplog.at_level(logging.WARNING):
            late = put(store, "train", {}, REPORT, model=toy_model())
            answer = promote(store, both.server.uri, "away", refs["export"], refs["gate"], under=AWAY)
    finally:
        both.database.start()
    assert pending_refs(store) == [late]
    assert "MLflow answers, its database does not: start the database" in caplog.text
    assert "push " in caplog.text
    assert not answer["promoted"]
    assert "The champion is unchanged; run the pipeline again to promote." in answer["reasons"][0]
    assert PASSWORD not in caplog.text + str(answer)
    print(answer["reasons"][0])
    monkeypatch.setenv("SECATEUR_MLFLOW_TOTAL_S", "60")
    assert flush(store) == [late]
    answer = promote(store, both.server.uri, "away", refs["export"], refs["gate"], under=AWAY)
    assert (answer["promoted"], answer["version"]) == (True, "1")


def watched(workspace: Path, environment: dict[str, str], uri: str, events: dict[str, Callable[[], None]]) -> None:
    """Run the small pipeline; when a stage begins to work, let its event happen."""
    preset = workspace.with_name("small.json")
    preset.write_text(json.dumps(dag.SMALL))
    process = subprocess.Popen(
        dag.command(str(preset), workspace, uri),
        cwd=dag.ROOT,
        env=servers.bare_environment() | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    left = dict(events)
    try:
        while process.poll() is None:
            for stage in [name for name in left if any((workspace / "store" / "scratch").glob(f"{name}-*"))]:
                left.pop(stage)()
            time.sleep(0.02)
        text = process.communicate()[0]
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, text + (workspace / "dag.log").read_text()[-4000:]
    assert left == {}, f"{list(left)} never began"


def test_mlflow_is_lost_and_its_database_restarts_while_the_pipeline_works(
    both: Both, tmp_path: Path, say: Callable[[str], None]
) -> None:
    """The run goes on without MLflow, and delivers to it what it made meanwhile, itself."""
    workspace, server = tmp_path / "w", both.server
    back: list[threading.Timer] = []

    def lose() -> None:
        server.kill()
        back.append(threading.Timer(AWAY_S, server.start))
        back[0].start()

    start = time.monotonic()
    watched(workspace, {}, server.uri, {"search": lose, "export": both.database.restart})
    seconds = time.monotonic() - start
    back[0].join()
    if waiting := list((workspace / "store" / "pending").glob("*.json")):
        store = MlflowStore(LocalStore(workspace / "store"), server.uri)
        say(f"{len(waiting)} still waited at the end, pushed: {flush(store)}")
    assert not list((workspace / "store" / "pending").glob("*.json"))
    children = dag.children(server.client())
    refs = {path.name for path in (workspace / "store" / "entries").iterdir()}
    assert set(children) == refs
    assert {run.info.status for run in children.values()} == {"FINISHED"}
    parent = dag.parent(server.client())
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["secateur.verdict"] == "pass"
    assert {"quality/test_top1", "ratio/macs"} <= set(parent.data.metrics)
    assert "When MLflow is back: python -m deploy.tracking push" in (workspace / "dag.log").read_text()
    before = {path: path.stat().st_mtime_ns for path in (workspace / "store" / "entries").glob("*/entry.json")}
    again = dag.run(str(tmp_path / "small.json"), workspace, server.uri)
    assert {path: path.stat().st_mtime_ns for path in before} == before, "nothing was made twice"
    assert "is the champion" in again
    assert dag.weights(workspace).keys() <= refs
    say(f"MLflow away for {AWAY_S:.0f} s and a start; the run took {seconds:.0f} s")
