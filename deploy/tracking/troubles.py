"""What goes wrong on the way to MLflow and its artifact store: whose fault it is, and what repairs it."""

from __future__ import annotations

import errno
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

#: HTTP status codes that another attempt will not change.
FINAL_STATUS = (400, 401, 403, 404, 405)
#: What an S3 store answers to keys that it does not accept.
REFUSED = frozenset({"401", "403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken"})
#: What only the disk or the folders here can be blamed for.
LOCAL_ERRORS = frozenset(
    (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.ENOENT, errno.EISDIR, errno.ENOTDIR)
)
#: Modules of the S3 client and their base classes; not imported: without the modules nothing raises these.
S3_ERRORS = (
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
    ("boto3.exceptions", "Boto3Error"),
)
#: A download that failed beside less room than this failed for it.
ROOM_BYTES = 1 << 20
#: How MLflow reports files that did not arrive: it keeps the text of their errors, not the errors.
_FAILED_FILE = re.compile(r"^##### File .*\n\[Errno (?P<number>\d+)\]", re.MULTILINE)


class Unreachable(ConnectionError):
    """MLflow did not answer, or refused. Says the URI and the reason."""


class Incomplete(ConnectionError):
    """The artifact store took a file and holds something else."""


def is_trouble(error: Exception) -> bool:
    """Return whether an error is one of MLflow, its database, its artifact store or the way to them."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return isinstance(error, MlflowException | SQLAlchemyError | OSError) or is_of_s3(error)


def is_of_s3(error: BaseException) -> bool:
    """Return whether the S3 client in this process raised an error."""
    known = (getattr(sys.modules.get(module), name, None) for module, name in S3_ERRORS)
    return isinstance(error, tuple(kind for kind in known if kind is not None))


def is_local(error: Exception) -> bool:
    """Return whether an error came from this machine's disk, not from MLflow.

    >>> is_local(OSError(28, "No space left on device")), is_local(ConnectionResetError(104, "reset"))
    (True, False)
    """
    return isinstance(error, OSError) and error.errno in LOCAL_ERRORS


def local_error(error: Exception, folder: Path) -> OSError | None:
    r"""Return the error of this machine's disk that a failed download into `folder` reports, or None.

    >>> local_error(ValueError("failures:\n##### File a/b\n[Errno 28] No space left on device"), Path("w")).errno
    28
    """
    found = _FAILED_FILE.search(str(error))
    number = int(found["number"]) if found else 0
    if number not in LOCAL_ERRORS and not (number := _unwritable(folder)):
        return None
    repair = "free space, then try again" if number in (errno.ENOSPC, errno.EDQUOT) else "check that folder"
    return OSError(number, f"{os.strerror(number)} for a download to {folder}: {repair}")


def _unwritable(folder: Path) -> int:
    """Return why not even a small file can be written in `folder`; 0 if it can, or if there is no such folder.

    For downloads in parts, of which MLflow says only that they failed.
    """
    if not folder.is_dir():
        return 0
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            os.posix_fallocate(file.fileno(), 0, ROOM_BYTES)
    except OSError as error:
        return error.errno if error.errno in LOCAL_ERRORS else 0
    return 0


def is_final(error: Exception) -> bool:
    """Return whether another attempt cannot help."""
    return status_of(error) in FINAL_STATUS or _code(error) in REFUSED or _has_no_keys(error)


def status_of(error: Any) -> int:
    """Return the HTTP status that an error carries, or 0."""
    if (ask := getattr(error, "get_http_status_code", None)) is not None:
        return int(ask())
    return int(getattr(getattr(error, "response", None), "status_code", 0) or 0)


def explain(uri: str, error: Exception, attempts: int, seconds: float) -> str:
    """Return what happened at `uri`, how often it was tried, and what repairs it."""
    reason = " ".join(str(error).split())
    tries = "once" if attempts == 1 else f"{attempts} times in {seconds:.0f} s"
    return f"MLflow at {uri} cannot be used (tried {tries}): {_short(reason)}. To repair: {_repair(error, reason)}."


def _short(reason: str) -> str:
    """Return the beginning, which says what was asked, and the end, which says what came of it."""
    return reason if len(reason) <= 320 else f"{reason[:160].rstrip()} … {reason[-150:].lstrip()}"


def _repair(error: Exception, reason: str) -> str:
    if "Invalid Host header" in reason:
        return "the server refuses this host name: start it with --allowed-hosts (MLFLOW_SERVER_ALLOWED_HOSTS)"
    if re.search(r"NewConnectionError|Connection refused|ConnectTimeout", reason) and not is_of_s3(error):
        return "start it, or set MLFLOW_TRACKING_URI to one that runs"
    is_of_artifacts = "mlflow-artifacts" in reason or "downloading one or more artifacts" in reason
    if is_of_s3(error) or "botocore" in reason or "s3://" in reason:
        if _has_no_keys(error) or _code(error) in REFUSED or any(code in reason for code in REFUSED if len(code) > 3):
            return "its artifact store refused the keys: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY here"
        return "MLflow answers, its artifact store does not: check AWS_ENDPOINT_URL (or MLFLOW_S3_ENDPOINT_URL) here"
    if status_of(error) in (401, 403) or re.search(r"\b(401|403)\b", reason):
        return "check MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
    if "chunk(s)" in reason:
        return (
            "MLflow answers, its artifact store does not: MLflow sends clients there for files. Open the way to it, "
            "or set MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD=false here"
        )
    if isinstance(error, Incomplete) or is_of_artifacts:
        return "MLflow answers, its artifact store does not: look at the server's log, its S3 settings and the store"
    if re.search(r"OperationalError|psycopg|TEMPORARILY_UNAVAILABLE|\b503\b", reason):
        return "MLflow answers, its database does not: start the database; MLflow finds it again by itself"
    return "start it, or set MLFLOW_TRACKING_URI to one that runs"


def _code(error: Any) -> str:
    response = getattr(error, "response", None)
    return str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""


def _has_no_keys(error: Exception) -> bool:
    return type(error).__name__ in ("NoCredentialsError", "PartialCredentialsError")
