"""One object from S3 to one file, in parts and several at once, and its size and hash compared with the store's.

boto3 carries it: ranges, retries with pauses that grow at random, and `If-Match`, so that all parts are of one object.
"""

from __future__ import annotations

import base64
import hashlib
import re
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from compress.core.progress import LOG_INTERVAL_S

ATTEMPTS = 2
CHUNK_BYTES = 1 << 20
#: Files from this size on tell how far they are.
LARGE_BYTES = 64 << 20
_MD5 = re.compile(r"[0-9a-f]{32}")
_MD5_OF_PARTS = re.compile(r"([0-9a-f]{32})-(\d+)")
#: Checksums that S3 keeps beside an object, as base64, and how to compute them.
CHECKSUMS: Mapping[str, Callable[[Path], bytes]] = {
    "ChecksumSHA256": lambda path: _hash(path, "sha256").digest(),
    "ChecksumSHA1": lambda path: _hash(path, "sha1").digest(),
    "ChecksumCRC32": lambda path: _crc32(path).to_bytes(4, "big"),
}


class Damaged(ConnectionError):
    """What arrived is not what the store says it holds."""


def transfer(client: Any, bucket: str, key: str, path: Path, *, size_bytes: int, etag: str) -> None:
    """Download an object into `path`; a copy that arrives damaged is fetched once more.

    Args:
        client: boto3's S3 client.
        bucket: Its bucket.
        key: Its key.
        path: Written, and overwritten.
        size_bytes: Size as the store gave it.
        etag: ETag as the store gave it.

    Raises:
        Damaged: Size or hash differ, twice.
    """
    callback = _Lines(f"s3://{bucket}/{key}", size_bytes) if size_bytes >= LARGE_BYTES else None
    for attempt in range(1, ATTEMPTS + 1):
        client.download_file(bucket, key, str(path), Callback=callback)
        try:
            check(client, bucket, key, path, size_bytes=size_bytes, etag=etag)
            return
        except Damaged:
            if attempt == ATTEMPTS:
                raise


def check(client: Any, bucket: str, key: str, path: Path, *, size_bytes: int, etag: str) -> None:
    """Compare a file with the object; the checksum that the store keeps decides, or the MD5 that most ETags are.

    Where a store keeps neither (objects encrypted with a key of one's own), only the size is known.

    Raises:
        Damaged: It is another file.
    """
    what = f"s3://{bucket}/{key}"
    if (found := path.stat().st_size) != size_bytes:
        raise Damaged(f"{what}: {found} of {size_bytes} bytes arrived; try again.")
    plain = etag.strip('"')
    if _MD5.fullmatch(plain) and _hash(path, "md5").hexdigest() == plain:
        return
    head = client.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED")
    if head["ETag"] != etag:
        raise Damaged(f"{what} was replaced while it was being fetched; try again.")
    parts = _MD5_OF_PARTS.fullmatch(plain)
    for name, compute in CHECKSUMS.items():
        kept = head.get(name, "")
        is_whole = "-" not in kept and (parts is None or head.get("ChecksumType") == "FULL_OBJECT")
        if kept and is_whole:
            if base64.b64decode(kept) != compute(path):
                raise Damaged(_other(what))
            return
    is_encrypted = head.get("SSECustomerAlgorithm") or "kms" in head.get("ServerSideEncryption", "")
    has_checksum = any(name.startswith("Checksum") for name in head)
    if parts is not None and not is_encrypted:
        _check_parts(client, bucket, key, path, parts)
    elif _MD5.fullmatch(plain) and not (is_encrypted or has_checksum):
        raise Damaged(_other(what))


def _check_parts(client: Any, bucket: str, key: str, path: Path, parts: re.Match[str]) -> None:
    """Compare with the ETag of an upload in parts: the MD5 of the parts' MD5s. Unequal parts cannot be compared."""
    first = client.head_object(Bucket=bucket, Key=key, PartNumber=1)["ContentLength"]
    number = int(parts[2])
    if not first or -(-path.stat().st_size // first) != number:
        return
    digests = b"".join(hashlib.md5(block, usedforsecurity=False).digest() for block in _blocks(path, first))
    if hashlib.md5(digests, usedforsecurity=False).hexdigest() != parts[1]:
        raise Damaged(_other(f"s3://{bucket}/{key}"))


def _other(what: str) -> str:
    return f"{what}: the bytes that arrived have another hash than the store's; try again, then upload the object anew."


def _blocks(path: Path, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(size):
            yield block


def _hash(path: Path, name: str) -> Any:
    found = hashlib.new(name, usedforsecurity=False)
    for block in _blocks(path, CHUNK_BYTES):
        found.update(block)
    return found


def _crc32(path: Path) -> int:
    found = 0
    for block in _blocks(path, CHUNK_BYTES):
        found = zlib.crc32(block, found)
    return found


class _Lines:
    """Called by boto3 with the bytes that came; prints a line every now and then."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._last = time.monotonic()
        self._lock = threading.Lock()

    def __call__(self, count: int) -> None:
        with self._lock:
            self._done += count
            now = time.monotonic()
            if now - self._last < LOG_INTERVAL_S:
                return
            self._last = now
            done, total = self._done / 1e6, self._total / 1e6
        print(f"{self._what}: {done:.0f} of {total:.0f} MB", file=sys.stderr, flush=True)
