"""Following an alias: what it names comes to the disk, and then into the server, while the old version answers."""

from __future__ import annotations

import logging
import secrets
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import FrameType

from deploy.description import read_package
from deploy.pull import Versions, bring, find
from deploy.tracking.connection import default_uri, retrying
from deploy.triton_config import check_backend, check_kinds

_log = logging.getLogger(__name__)
#: Longest pause between two attempts, in intervals.
PATIENCE = 10


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is followed and where to.

    Attributes:
        name: "models:/digits@champion".
        folder: Link that shows the package.
        uri: Tracking URI; empty for the environment's.
        backend: Triton backend for ONNX files; empty to leave the package's choice.
        interval_s: Seconds between two looks.
        triton: "HOST:PORT" of the gRPC of a server that loads what was pulled, or empty.
        also: Kinds of models that the server is to find too: "tensorrt", "aotinductor".
    """

    name: str
    folder: Path
    uri: str = ""
    backend: str = ""
    interval_s: float = 30.0
    triton: str = ""
    also: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_backend(self.backend)
        check_kinds(self.also)
        if not self.interval_s > 0:
            raise ValueError(f"interval {self.interval_s:g}: give the seconds between two looks, more than 0.")
        if self.triton and find_spec("tritonclient") is None:
            raise ValueError("tritonclient, which talks to Triton, is not installed: pip install 'secateur[serve]'.")


class Follower:
    """Brings a folder, and a server, to what an alias names."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._versions = Versions(settings.folder)
        self._uri = settings.uri or default_uri(".secateur")
        self._served = ""
        self._loaded: list[str] = []

    def step(self) -> None:
        """Pull what the alias names now and let the server load it; does nothing when nothing moved.

        Raises:
            ValueError: The name does not exist, or the download is not what was promoted.
            OSError: MLflow, the disk or the server does not do what it should.
            RuntimeError: The server refused a model.
        """
        chosen, before = self._settings, self._versions.current()
        try:
            found = retrying(self._uri, lambda client: find(client, chosen.name))
            if found.folder_name(chosen.backend, chosen.also) != before:
                bring(self._versions, found, uri=self._uri, backend=chosen.backend, also=chosen.also)
                _log.info("%s shows %s now (before: %s)", chosen.folder, self._versions.current(), before or "nothing")
        finally:
            now = self._versions.current()
            if now and chosen.triton and now != self._served:
                self._serve(now)

    def _serve(self, now: str) -> None:
        """Let the server load what is shown, and unload what only earlier versions had, refused ones too."""
        from deploy.triton_control import switch

        previous = self._versions.root / self._versions.previous() if self._versions.previous() else None
        old = [*(models_of(previous) if previous else []), *self._loaded]
        wanted = models_of(self._settings.folder)
        self._loaded = [*self._loaded, *wanted]
        switch(self._settings.triton, load=wanted, old=list(dict.fromkeys(old)))
        self._served, self._loaded = now, wanted
        _log.info("Triton at %s serves %s", self._settings.triton, now)


def models_of(package: Path) -> list[str]:
    """Return the names of a package's Triton models in the order in which they are to be loaded."""
    return list(read_package(package).get("triton", {}).get("models", []))


def follow(settings: Settings, *, is_once: bool = False) -> None:
    """Follow an alias until SIGTERM or SIGINT; or bring folder and server to it once.

    Trouble is logged and tried again, after pauses that double up to ten intervals; the folder shows what it showed.

    Raises:
        ValueError, OSError, RuntimeError: With `is_once`; or the settings cannot be right.
    """
    Versions(settings.folder).check_free()
    follower, pause_s = Follower(settings), settings.interval_s
    if is_once:
        follower.step()
        return
    with _stopping() as stop:
        while not stop.is_set():
            try:
                follower.step()
                pause_s = settings.interval_s
            except (ValueError, OSError, RuntimeError) as error:
                pause_s = min(2 * pause_s, PATIENCE * settings.interval_s)
                _log.warning("%s; next attempt in about %.0f s", error, pause_s)
            stop.wait(pause_s * (0.9 + secrets.randbelow(201) / 1000))


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Yield an event that SIGTERM and SIGINT set, where signals can be caught (the main thread)."""
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
