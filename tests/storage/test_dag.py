"""The whole pipeline on MLflow over HTTP, PostgreSQL and S3: the numbers that it gives on a SQLite file.

`make test` runs every stage on as little as possible with one store. SECATEUR_STORAGE_PRESET=digits (`make
test-storage`) runs what `make demo` runs, with both stores and both ways that MLflow has to them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipelines import preset as presets
from tests.postgresql import PASSWORD, postgresql
from tests.storage import dag, servers

pytestmark = pytest.mark.slow
GIVEN = os.environ.get("SECATEUR_STORAGE_PRESET", "")
STORES = ("moto behind MLflow", "rclone beside MLflow") if GIVEN else ("moto behind MLflow",)


class Preset(NamedTuple):
    """What is run: the argument for the command, and the names of its budgets."""

    name: str
    labels: list[str]


class Ran(NamedTuple):
    """A run on the servers: where it worked, what it printed, and the servers, still up."""

    workspace: Path
    text: str
    server: servers.Mlflow


@pytest.fixture(scope="module")
def preset(tmp_path_factory: pytest.TempPathFactory) -> Preset:
    path = tmp_path_factory.mktemp("preset") / "small.json"
    path.write_text(json.dumps(dag.SMALL))
    name = str(presets.FOLDER / f"{GIVEN}.json") if GIVEN else str(path)
    return Preset(name, [budget["name"] for budget in presets.load(name)["budgets"]])


@pytest.fixture(scope="module")
def on_sqlite(preset: Preset, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """The same pipeline as a laptop runs it: its workspace, and a client of the database there."""
    from mlflow import MlflowClient

    workspace = tmp_path_factory.mktemp("sqlite") / "w"
    dag.run(preset.name, workspace)
    uri = f"sqlite:///{workspace / 'mlflow.db'}"
    return workspace, MlflowClient(uri, uri)


@pytest.fixture(scope="module", params=STORES)
def ran(request: pytest.FixtureRequest, preset: Preset, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """Run it in an empty workspace, so that every file of every stage goes to the store."""
    pytest.importorskip("psycopg2", reason="psycopg2 is not installed: pip install psycopg2-binary")
    folder, is_moto = tmp_path_factory.mktemp("servers"), request.param.startswith("moto")
    here = servers.moto() if is_moto else servers.rclone(folder / "rclone")
    with tempfile.TemporaryDirectory(prefix="pg-") as data, postgresql(Path(data)) as database, here as store:
        url = servers.database_url(database.url)
        with servers.mlflow(folder / "mlflow", url, store, is_proxied=is_moto) as server:
            keys = {} if is_moto else store.environment
            text = dag.run(preset.name, folder / "w", server.uri, keys)
            yield Ran(folder / "w", text, server)


def test_final_numbers_are_those_of_sqlite(
    ran: Ran, preset: Preset, on_sqlite: tuple[Path, Any], say: Callable[[str], None]
) -> None:
    there = dag.final_numbers(ran.server.client(), preset.labels)
    here = dag.final_numbers(on_sqlite[1], preset.labels)
    assert there == here
    prefixes = [""] if len(preset.labels) == 1 else [f"{label}/" for label in preset.labels]
    for prefix in prefixes:
        measured = dag.parent(ran.server.client()).data.metrics
        assert {f"{prefix}quality/test_top1", f"{prefix}size/macs_m", f"{prefix}size/onnx_mb"} <= set(there)
        assert measured[f"{prefix}latency/host_p50_ms/b32"] > 0
        assert measured[f"{prefix}ratio/speedup"] > 0
    say(f"{len(there)} final numbers equal on {ran.server.store.endpoint}")


def test_every_stage_has_its_run_with_the_same_numbers(
    ran: Ran, on_sqlite: tuple[Path, Any], say: Callable[[str], None]
) -> None:
    there, here = dag.children(ran.server.client()), dag.children(on_sqlite[1])
    assert set(there) == set(here), "names are hashes of what was asked for"
    assert {ref: dag.numbers(run) for ref, run in there.items()} == {ref: dag.numbers(run) for ref, run in here.items()}
    assert {ref: run.data.params for ref, run in there.items()} == {ref: run.data.params for ref, run in here.items()}
    assert {run.info.status for run in there.values()} == {"FINISHED"}
    assert dag.parent(ran.server.client()).info.status == "FINISHED"
    say(f"{len(there)} stages, {sum(len(dag.numbers(run)) for run in there.values())} numbers equal")


def test_structure_and_weights_are_the_same(ran: Ran, on_sqlite: tuple[Path, Any]) -> None:
    found = dag.weights(ran.workspace)
    assert found == dag.weights(on_sqlite[0])
    assert {"train", "prune", "distill", "export"} <= {ref.rsplit("-", 1)[0] for ref in found}
    assert not list((ran.workspace / "store" / "pending").iterdir()), "something was not pushed"


def test_artifacts_lie_in_the_bucket_and_nowhere_else(ran: Ran, say: Callable[[str], None]) -> None:
    sizes = ran.server.store.sizes()
    assert len(sizes) > dag.files(ran.workspace)
    assert all(key.startswith("mlflow/") for key in sizes)
    scheme = "mlflow-artifacts:/" if ran.server.is_proxied else f"s3://{servers.BUCKET}/mlflow/"
    assert dag.parent(ran.server.client()).info.artifact_uri.startswith(scheme)
    assert not [path for path in ran.server.folder.rglob("*") if path.is_file() and path != ran.server.log]
    say(f"{len(sizes)} objects, {sum(sizes.values())} bytes")


def test_another_machine_gets_everything_back(ran: Ran, preset: Preset, tmp_path: Path) -> None:
    keys = {} if ran.server.is_proxied else ran.server.store.environment
    text = dag.run(preset.name, tmp_path / "w", ran.server.uri, keys)
    lines = [line for line in text.splitlines() if any(f"  {ref}" in line for ref in dag.weights(ran.workspace))]
    stages = [line for line in lines if not line.strip().startswith("promote")]
    assert len(stages) >= len(dag.weights(ran.workspace))
    assert all(" reused " in line for line in stages), text
    assert "is the champion already" in text
    assert dag.weights(tmp_path / "w") == dag.weights(ran.workspace)


def test_the_champion_is_pulled_from_there(ran: Ran, preset: Preset, tmp_path: Path) -> None:
    name = presets.load(preset.name)["model_name"]
    command = [str(Path(sys.executable).with_name("secateur")), "pull", f"models:/{name}@champion"]
    environment = servers.bare_environment() | ran.server.client_environment()
    done = subprocess.run(
        [*command, "--to", str(tmp_path / "champion")], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.rsplit(" ", 1)[1]) <= 1e-5
    assert (tmp_path / "champion" / "package.json").is_file()


def test_no_key_or_password_is_written_anywhere(ran: Ran) -> None:
    needles = [PASSWORD.encode(), servers.KEYS["AWS_SECRET_ACCESS_KEY"].encode()]
    paths = [path for path in [*ran.workspace.rglob("*"), ran.server.log] if path.is_file()]
    assert [str(path) for path in paths if any(needle in path.read_bytes() for needle in needles)] == []
    bodies = {key: ran.server.store.client().get_object(Bucket=servers.BUCKET, Key=key)["Body"].read()
              for key in ran.server.store.sizes()}  # fmt: skip
    assert [key for key, body in bodies.items() if any(needle in body for needle in needles)] == []
    assert not [needle for needle in needles if needle.decode() in ran.text]


@pytest.mark.skipif(not GIVEN, reason="only with SECATEUR_STORAGE_PRESET: needs rclone, which checks signatures")
def test_a_wrong_secret_is_refused_and_named(ran: Ran, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from botocore.exceptions import ClientError

    from deploy.s3 import s3

    if ran.server.is_proxied:
        pytest.skip("moto believes every signature")
    key = next(iter(ran.server.store.sizes()))
    for name, value in ran.server.store.environment.items():
        monkeypatch.setenv(name, value)
    assert s3(f"s3://{servers.BUCKET}/{key}", tmp_path).is_file()
    wrong = servers.Store(ran.server.store.endpoint, servers.KEYS | {"AWS_SECRET_ACCESS_KEY": "wrong"})
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        wrong.client().list_objects_v2(Bucket=servers.BUCKET)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    monkeypatch.setattr("boto3.DEFAULT_SESSION", None)
    with pytest.raises(ValueError, match="access was refused"):
        s3(f"s3://{servers.BUCKET}/{key}", tmp_path / "other")
