"""A store that fails as it is told: an HTTP proxy in front of a real one that speaks S3."""

from __future__ import annotations

import http.client
import threading
import time
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.storage.servers import BUCKET, Store

BUSY = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
#: Headers of one connection, or of hashes that would show a change on the way.
HIDDEN = ("connection", "transfer-encoding", "content-length", "x-amz-checksum")
PIECES, PIECE_S = 8, 0.25


@dataclass
class Exchange:
    """A request and what the real store answered."""

    handler: BaseHTTPRequestHandler
    method: str
    path: str
    body: bytes
    status: int
    headers: Mapping[str, str]
    answer: bytes
    store: Store

    def send(self, *, body: bytes | None = None, pause_s: float = 0.0) -> None:
        """Answer with `body`, which may be shorter than what is announced."""
        handler, body = self.handler, self.answer if body is None else body
        handler.send_response(self.status)
        for name, value in self.headers.items():
            if not name.lower().startswith(HIDDEN):
                handler.send_header(name, value)
        length = self.headers.get("Content-Length", "0") if self.method == "HEAD" else str(len(self.answer))
        handler.send_header("Content-Length", length)
        handler.end_headers()
        if self.method == "HEAD":
            return
        step = max(1, -(-len(body) // PIECES))
        for start in range(0, len(body), step):
            time.sleep(pause_s)
            handler.wfile.write(body[start : start + step])
            handler.wfile.flush()

    def is_file(self) -> bool:
        """Whether this is about the content of one object."""
        key = urllib.parse.urlsplit(self.path).path.removeprefix(f"/{BUCKET}").strip("/")
        return bool(key) and self.status in (200, 206) and bool(self.answer or self.body)

    def keep(self, body: bytes) -> None:
        """Let the real store hold something else than what it was given."""
        key = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path.removeprefix(f"/{BUCKET}/"))
        self.store.client().put_object(Bucket=BUCKET, Key=key, Body=body)


def changed(body: bytes) -> bytes:
    """Return as many bytes, one of them another one."""
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


def slow(exchange: Exchange) -> None:
    """Answer in pieces, with pauses."""
    exchange.send(pause_s=PIECE_S)


def cut_download(exchange: Exchange) -> None:
    """Announce a whole file, send half of it and hang up."""
    if exchange.method != "GET" or not exchange.is_file():
        exchange.send()
        return
    exchange.send(body=exchange.answer[: len(exchange.answer) // 2])
    exchange.handler.close_connection = True


def changed_download(exchange: Exchange) -> None:
    """Send a file of the right size with a wrong byte in it."""
    is_download = exchange.method == "GET" and exchange.is_file()
    exchange.send(body=changed(exchange.answer) if is_download else None)


def cut_upload(exchange: Exchange) -> None:
    """Say that a file is stored, and keep half of it."""
    if exchange.method == "PUT" and exchange.is_file():
        kept = exchange.store.read(exchange.path)
        exchange.keep(kept[: len(kept) // 2])
    exchange.send()


def changed_upload(exchange: Exchange) -> None:
    """Say that a file is stored, and keep one of the same size with a wrong byte in it."""
    if exchange.method == "PUT" and exchange.is_file():
        exchange.keep(changed(exchange.store.read(exchange.path)))
    exchange.send()


def hang_up(exchange: Exchange) -> None:
    """Do what was asked, and hang up without an answer."""
    exchange.handler.close_connection = True


@dataclass
class Faults:
    """What goes wrong at the moment.

    Attributes:
        fault: Answers in place of the store; None for no fault.
        num_busy: How many requests get a 503 before anything else is looked at.
        asked: How many requests came.
    """

    fault: Callable[[Exchange], None] | None = None
    num_busy: int = 0
    asked: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def having(self, fault: Callable[[Exchange], None] | None = None, *, num_busy: int = 0) -> Iterator[None]:
        """Let it fail inside the block."""
        self.fault, self.num_busy = fault, num_busy + 1 if num_busy else 0
        try:
            yield
        finally:
            self.fault, self.num_busy = None, 0

    def is_busy(self) -> bool:
        with self.lock:
            self.asked += 1
            self.num_busy -= self.num_busy > 0
            return self.num_busy > 0


@contextmanager
def proxy(store: Store) -> Iterator[tuple[Store, Faults]]:
    """Run a proxy in front of `store`; yield the store as its users see it, and what makes it fail."""
    faults, real = Faults(), urllib.parse.urlsplit(store.endpoint).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if faults.is_busy():
                self.send_response(503)
                self.send_header("Content-Length", str(len(BUSY)))
                self.end_headers()
                self.wfile.write(BUSY)
                return
            upstream = http.client.HTTPConnection(real, timeout=60)
            upstream.request(self.command, self.path, body=body, headers=dict(self.headers))
            found = upstream.getresponse()
            exchange = Exchange(
                self, self.command, self.path, body, found.status, dict(found.getheaders()), found.read(), store
            )
            upstream.close()
            with suppress(BrokenPipeError, ConnectionResetError):
                (faults.fault or Exchange.send)(exchange)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield replace(store, endpoint=f"http://127.0.0.1:{server.server_port}"), faults
    finally:
        server.shutdown()
        server.server_close()
