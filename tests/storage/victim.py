"""A process whose children push and promote, and die by kill -9 at the request that they are told.

Reads JSON lines, answers JSON lines. A child is forked for each order, because the imports take longest.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import urllib.parse
from pathlib import Path
from typing import Any

import requests

import tests.toys  # noqa: F401  (the builder of the models)
from compress import catalogue
from compress.store import LocalStore
from deploy.mlflow_store import MlflowStore, flush
from deploy.promote import Under, promote
from deploy.tracking.connection import connected


class Deadly:
    """Counts the requests that change something at the server, and ends the process at one of them.

    Args:
        number: Which one, from 1; 0 for none.
        when: "half" ends it when half of the request's body is sent, "after" when the answer has come.
    """

    def __init__(self, number: int, when: str) -> None:
        self.number, self.when = number, when
        self.seen: list[str] = []
        self.real = requests.Session.send

    def install(self) -> None:
        deadly = self

        def send(session: requests.Session, request: Any, **options: Any) -> Any:
            is_reading = request.method in ("GET", "HEAD") or urllib.parse.urlsplit(request.url).path.endswith(
                "/search"
            )
            if is_reading:
                return deadly.real(session, request, **options)
            deadly.seen.append(f"{request.method} {urllib.parse.urlsplit(request.url).path}")
            is_last = len(deadly.seen) == deadly.number
            if is_last and deadly.when == "half":
                send_half(request)
                die()
            answer = deadly.real(session, request, **options)
            if is_last:
                die()
            return answer

        requests.Session.send = send  # type: ignore[method-assign]


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def send_half(request: Any) -> None:
    """Announce the whole body, and send the first half of it."""
    body = request.body.read() if hasattr(request.body, "read") else request.body or b""
    body = body.encode() if isinstance(body, str) else body
    address = urllib.parse.urlsplit(request.url)
    lines = [f"{request.method} {address.path} HTTP/1.1", f"Host: {address.netloc}"]
    lines += [f"{name}: {value}" for name, value in request.headers.items() if name.lower() != "content-length"]
    lines += [f"Content-Length: {len(body)}", "", ""]
    assert address.hostname
    with socket.create_connection((address.hostname, address.port or 80)) as server:
        server.sendall("\r\n".join(lines).encode() + body[: len(body) // 2])


def work(order: dict[str, Any]) -> dict[str, Any]:
    deadly = Deadly(order["number"], order["when"])
    local = LocalStore(order["store"])
    with connected(order["uri"]):
        deadly.install()
        if order["do"] == "push":
            done: dict[str, Any] = {"pushed": flush(MlflowStore(local, order["uri"], experiment=order["experiment"]))}
        else:
            refs = order["refs"]
            under = Under(parent_run=order["parent"])
            done = promote(
                local, order["uri"], order["name"], refs["export"], refs["gate"], refs["cascade"], under=under
            )
    return done | {"requests": deadly.seen}


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr
    catalogue.load()
    with connected(sys.argv[1]):
        print("ready", file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        answer = Path(order["store"]) / f"answer-{order['number']}.json"
        child = os.fork()
        if child == 0:
            answer.write_text(json.dumps(work(order)))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        said = json.loads(answer.read_text()) if code == 0 else {}
        print(json.dumps({"code": code, **said}), file=answers, flush=True)


if __name__ == "__main__":
    main()
