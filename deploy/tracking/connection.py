"""Reaching an MLflow server: one client a URI, short timeouts, few retries, a message that says what to do."""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

from deploy.tracking.troubles import Unreachable, explain, is_final, is_local, is_trouble

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

#: MLflow's own settings while we talk to it: no telemetry, no bars in a log.
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
#: Unless the user has set them: MLflow's own retries would take minutes, and boto3's have no jitter.
STEADY = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "AWS_RETRY_MODE": "standard",
    "AWS_MAX_ATTEMPTS": "4",
}


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to try.

    Attributes:
        total_s: No attempt starts later than this after the first one.
        attempts: At most this many.
        timeout_s: Of the one small request that asks whether the server is there.
        first_delay_s: Pause after the first failure; doubles each time, times a random 0.5 … 1.5.
    """

    total_s: float = 10.0
    attempts: int = 4
    timeout_s: float = 10.0
    first_delay_s: float = 0.5

    @classmethod
    def from_environment(cls) -> Patience:
        """Read SECATEUR_MLFLOW_{TOTAL_S,ATTEMPTS,TIMEOUT_S,FIRST_DELAY_S}."""

        def number(name: str, default: float) -> float:
            text = os.environ.get(f"SECATEUR_MLFLOW_{name}", "")
            try:
                return float(text or default)
            except ValueError as error:
                raise ValueError(f"SECATEUR_MLFLOW_{name}={text!r}: write a number, for example {default}.") from error

        return cls(
            total_s=number("TOTAL_S", cls.total_s),
            attempts=max(1, int(number("ATTEMPTS", cls.attempts))),
            timeout_s=max(1.0, number("TIMEOUT_S", cls.timeout_s)),
            first_delay_s=number("FIRST_DELAY_S", cls.first_delay_s),
        )


def default_uri(workspace: str | Path) -> str:
    """Return MLFLOW_TRACKING_URI, or a SQLite file in `workspace` that needs no server."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{Path(workspace).absolute() / 'mlflow.db'}"


def artifact_location(uri: str) -> str | None:
    """Return where a SQLite store keeps artifacts (`mlartifacts` next to it); a server decides itself."""
    database = database_file(uri)
    return (database.parent / "mlartifacts").as_uri() if database else None


def database_file(uri: str) -> Path | None:
    """Return the file of a SQLite URI, else None.

    >>> str(database_file("sqlite:////data/mlflow.db"))
    '/data/mlflow.db'
    """
    return Path(uri.removeprefix("sqlite:///")).absolute() if uri.startswith("sqlite:///") else None


def ui_command(uri: str, port: int = 5000) -> str:
    """Return what shows this store in a browser: a command for SQLite, the address of a server otherwise."""
    database = database_file(uri)
    return f"mlflow ui --backend-store-uri sqlite:///{database} --port {port}" if database else f"open {uri}"


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def connected(uri: str, patience: Patience | None = None) -> Iterator[MlflowClient]:
    """Yield a client that has answered once; inside, MLflow's own defaults point at `uri` too.

    Raises:
        Unreachable: The first request failed; nothing was retried here (see `retrying`).
    """
    patience = patience or Patience.from_environment()
    chosen = {name: value for name, value in STEADY.items() if name not in os.environ}
    here = {"MLFLOW_TRACKING_URI": uri, "MLFLOW_REGISTRY_URI": uri}
    with environment({**here, **QUIET, **chosen}), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow

        _hush()
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        try:
            yield _answering(uri, patience)
        finally:
            # Unset, both follow the environment again, where MLflow also notes what a caller has set.
            mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
            mlflow.set_registry_uri("")


def refuse_password(uri: str) -> None:
    """Refuse an address with a password in it: addresses are shown in logs, reports and commands.

    Raises:
        ValueError: It has one; says where it belongs.

    >>> refuse_password("https://mlflow.example.com")
    >>> refuse_password("https://ann:secret@mlflow.example.com")
    Traceback (most recent call last):
    ValueError: the address of MLflow at mlflow.example.com holds a password: put user and password into \
MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (a database: PGUSER, PGPASSWORD) and leave them out.
    """
    parts = urlsplit(uri)
    if parts.password is not None:
        raise ValueError(
            f"the address of MLflow at {parts.hostname} holds a password: put user and password into "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (a database: PGUSER, PGPASSWORD) and leave them out."
        )


def retrying(uri: str, work: Callable[[MlflowClient], T], patience: Patience | None = None) -> T:
    """Return `work(client)`, tried again with exponentially growing, jittered pauses.

    `work` must be safe to repeat.

    Raises:
        Unreachable: After the last attempt, or at once when another one cannot help.
        OSError: At once, when the disk here is full or a folder here cannot be used.
        ValueError: The address holds a password.
    """
    refuse_password(uri)
    patience = patience or Patience.from_environment()
    start, delay_s = time.monotonic(), patience.first_delay_s
    for attempt in range(1, patience.attempts + 1):
        try:
            with connected(uri, patience) as client:
                return work(client)
        except Exception as error:
            if is_local(error) or not is_trouble(error):
                raise
            pause_s = delay_s * (0.5 + secrets.randbelow(1001) / 1000)
            is_late = time.monotonic() - start + pause_s > patience.total_s
            if attempt == patience.attempts or is_late or is_final(error):
                raise Unreachable(explain(uri, error, attempt, time.monotonic() - start)) from error
            time.sleep(pause_s)
            delay_s *= 2
    raise AssertionError("unreachable: the loop returns or raises")


def _answering(uri: str, patience: Patience) -> MlflowClient:
    from mlflow import MlflowClient

    database = database_file(uri)
    if database is None:
        limits = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(int(patience.timeout_s))}
        with environment(limits):
            client = MlflowClient(tracking_uri=uri, registry_uri=uri)
            client.search_experiments(max_results=1)
        return client
    database.parent.mkdir(parents=True, exist_ok=True)
    with (database.parent / f".{database.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        client = MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)
    return client


def _hush() -> None:
    """Keep database migrations and lineage notes out of the log of a pipeline."""
    for name in ("alembic", "mlflow.store.db.utils", "mlflow.tracking", "mlflow.store.model_registry", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
