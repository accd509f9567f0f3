"""Data in S3 and in stores that speak its protocol, kept on this machine and checked at each use.

The endpoint, the region and the credentials come from the environment and the files that every AWS tool
reads; MLFLOW_S3_ENDPOINT_URL names an endpoint too.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress.core.progress import track
from compress.data.cache import atomic_file
from compress.data.source import FETCHERS, MissingData
from deploy.s3_transfer import transfer

BUCKET = re.compile(r"[a-z0-9A-Z][a-z0-9A-Z._-]{1,61}[a-z0-9A-Z]")
MISSING = frozenset({"404", "NoSuchKey", "NotFound"})
REFUSED = frozenset({"401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"})


@FETCHERS.register("s3")
def s3(uri: str, cache: Path, *, num_connections: int = 8) -> Path:
    """Fetch an object, or all objects under a prefix, and keep them while their ETags stay the same.

    An object that is here already costs one HEAD request. A folder costs one LIST request for each 1,000
    objects; what has gone from the bucket goes from the folder too.

    Args:
        uri: `s3://bucket/key`, `s3://bucket/prefix` or `s3://bucket`.
        cache: Folder of what was fetched before.
        num_connections: Downloads at once under a prefix.

    Returns:
        Local path of the file, or of the folder for a prefix.

    Raises:
        MissingData: Neither an object nor a prefix of this name.
        ValueError: No such bucket, refused credentials, or a key that would leave the cache.
        ConnectionError: The endpoint does not answer, or what arrives is not what it holds.
        OSError: The disk is full.
    """
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    if not BUCKET.fullmatch(bucket):
        raise ValueError(f"{uri}: {bucket!r} is no name of a bucket; write s3://bucket/key.")
    place = Bucket(client=_client(), name=bucket, cache=cache / bucket)
    with _explained(uri, bucket, cache):
        if key and not key.endswith("/"):
            path = place.file(key)
            if path is not None:
                return path
        return place.folder(key.rstrip("/"), num_connections)


@dataclass(frozen=True)
class Bucket:
    """One bucket and the part of the cache that mirrors it.

    Attributes:
        client: boto3's S3 client.
        name: The bucket.
        cache: Holds `objects/KEY` and `etags/KEY.json`.
    """

    client: Any
    name: str
    cache: Path

    def file(self, key: str) -> Path | None:
        """Return the up-to-date copy of one object, or None when the bucket has no such key."""
        from botocore.exceptions import ClientError

        target = self._object(key)
        known = self._known(key)
        condition = {"IfNoneMatch": known} if known else {}
        try:
            head = self.client.head_object(Bucket=self.name, Key=key, **condition)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code in MISSING:
                return None
            if code in ("304", "NotModified"):
                return target
            raise
        return self._download(key, head["ETag"], head["ContentLength"])

    def folder(self, prefix: str, num_connections: int) -> Path:
        """Return a folder that holds exactly the objects under `prefix`, each up to date."""
        target = self._object(prefix) if prefix else self.cache / "objects"
        start = f"{prefix}/" if prefix else ""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=start)
        listed = {item["Key"]: item for page in pages for item in page.get("Contents", ())}
        listed = {key: item for key, item in listed.items() if not key.endswith("/")}
        if not listed:
            raise MissingData(f"s3://{self.name}/{prefix} holds no object: check the bucket and the spelling.")
        _remove_others(target, {self._object(key) for key in listed})
        changed = [
            (key, item["ETag"], item["Size"]) for key, item in listed.items() if self._known(key) != item["ETag"]
        ]
        with ThreadPoolExecutor(num_connections) as pool:
            arriving = pool.map(lambda facts: self._download(*facts), changed)
            for _ in track(arriving, total=len(changed), what=f"fetch s3://{self.name}/{prefix}"):
                pass
        return target

    def _object(self, key: str) -> Path:
        return _inside(self.cache / "objects", key)

    def _etag(self, key: str) -> Path:
        return _inside(self.cache / "etags", f"{key}.json")

    def _known(self, key: str) -> str | None:
        """Return the ETag of the copy that lies here, or None when there is no whole copy."""
        try:
            recorded = json.loads(self._etag(key).read_text())
            if self._object(key).stat().st_size == recorded["size_bytes"]:
                return str(recorded["etag"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return None

    def _download(self, key: str, etag: str, size_bytes: int) -> Path:
        """Replace the copy, then its ETag: a kill in between leads to one more download, never to a wrong copy."""
        target = self._object(key)
        try:
            with atomic_file(target) as partial:
                transfer(self.client, self.name, key, partial, size_bytes=size_bytes, etag=etag)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise ValueError(
                f"s3://{self.name}/{key} cannot lie in a folder beside its neighbours: one key is the folder of "
                f"another. Rename one of the two."
            ) from error
        with atomic_file(self._etag(key)) as partial:
            partial.write_text(json.dumps({"etag": etag, "size_bytes": size_bytes}))
        return target


def _remove_others(folder: Path, wanted: set[Path]) -> None:
    """Remove what is not wanted from `folder`, and a file that stands where it should be."""
    for path in [folder, *folder.rglob("*")]:
        if path.is_file() and path not in wanted and not path.name.startswith(".partial-"):
            path.unlink(missing_ok=True)


def _inside(folder: Path, key: str) -> Path:
    """Return `folder/key`, or raise ValueError for a key that is no plain path below the folder."""
    parts = key.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\\" in key or "\0" in key:
        raise ValueError(f"the key {key!r} is refused: parts that are empty, '.' or '..' could leave the cache.")
    path = folder.joinpath(*parts)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"the key {key!r} is refused: a link in {folder} leads out of the cache. Remove the link.")
    return path


def _client() -> Any:
    try:
        import boto3
    except ModuleNotFoundError as error:
        raise ValueError("an s3:// address needs boto3: install secateur[s3].") from error
    from botocore.config import Config

    by_aws = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    endpoint = by_aws or os.environ.get("MLFLOW_S3_ENDPOINT_URL") or None
    steady = {"AWS_RETRY_MODE": ("mode", "standard"), "AWS_MAX_ATTEMPTS": ("total_max_attempts", 4)}
    retries = dict(setting for name, setting in steady.items() if name not in os.environ)
    config = Config(connect_timeout=10, read_timeout=60, retries=retries or None)
    return boto3.client("s3", endpoint_url=endpoint, config=config)


@contextmanager
def _explained(uri: str, bucket: str, cache: Path = Path()) -> Iterator[None]:
    """Turn boto3's errors into what went wrong and how to repair it."""
    from boto3.exceptions import RetriesExceededError
    from botocore.exceptions import ClientError, EndpointConnectionError, HTTPClientError, NoCredentialsError

    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(
                error.errno, f"{uri}: no space left for the copy in {cache}: free space or set SECATEUR_CACHE"
            ) from error
        raise
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code == "NoSuchBucket":
            raise ValueError(f"{uri}: there is no bucket {bucket!r}; check the name and the endpoint.") from error
        if code in REFUSED:
            raise ValueError(
                f"{uri}: access was refused ({code}); check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and that "
                f"they may read and list {bucket!r}."
            ) from error
        if error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) >= 500:
            raise ConnectionError(
                f"{uri}: the store is busy or broken: {error}. Try again later; what was fetched is kept."
            ) from error
        raise ValueError(f"{uri}: the store answered {error}.") from error
    except NoCredentialsError as error:
        raise ValueError(
            f"{uri}: no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or log in with an AWS tool."
        ) from error
    except (EndpointConnectionError, HTTPClientError, RetriesExceededError) as error:
        raise ConnectionError(
            f"{uri}: {error} Check AWS_ENDPOINT_URL (or MLFLOW_S3_ENDPOINT_URL) and the network."
        ) from error
