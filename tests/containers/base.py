"""A stand-in for the official slim Python image, made of Debian's packages: no image can be pulled where CI runs.

The official image is Debian with Python in /usr/local. The stand-in is the same Debian with Debian's own Python, under
the same name and reached by the same paths. What a machine needs to reach its package index (certificates, pip's
configuration) goes in here, so that the Dockerfile need not know of it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.containers.engine import Engine, Unavailable

NAME = "python:3.11-slim-bookworm"
LABEL = "org.secateur.stand-in"
PACKAGES = "ca-certificates,python3,python3-venv,python3-pip"
MIRROR = "http://deb.debian.org/debian"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
#: Variables by which programs find certificates and an index; those that are set here go into the image.
SETTINGS = ("SSL_CERT_FILE", "PIP_CERT", "PIP_INDEX_URL", "PIP_DEFAULT_TIMEOUT", "UV_INDEX_URL", "UV_DEFAULT_INDEX")
COMMANDS = ("python", "python3", "python3.11")


def stand_in(engine: Engine, folder: Path) -> None:
    """Import the stand-in under the official image's name, unless the engine holds an image of that name.

    Raises:
        Unavailable: debootstrap could not make it.
    """
    if engine.docker("image", "inspect", NAME, check=False).returncode == 0:
        return
    root = folder / "base"
    shutil.rmtree(root, ignore_errors=True)
    try:
        _bootstrap(root)
        _configure(root)
        _import(engine, root)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def _bootstrap(root: Path) -> None:
    command = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(root), MIRROR]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise Unavailable("debootstrap failed:\n" + "\n".join(done.stdout.splitlines()[-12:]))


def _configure(root: Path) -> None:
    """Give the root Python's usual paths, and this machine's certificates and pip configuration."""
    for name in COMMANDS:
        (root / "usr/local/bin" / name).symlink_to("/usr/bin/python3.11")
    shutil.copy(os.environ.get("SSL_CERT_FILE") or CERTIFICATES, root / CERTIFICATES.lstrip("/"))
    if Path("/etc/pip.conf").is_file():
        shutil.copy("/etc/pip.conf", root / "etc/pip.conf")
    for name in ("var/cache/apt/archives", "var/lib/apt/lists"):
        shutil.rmtree(root / name, ignore_errors=True)


def _import(engine: Engine, root: Path) -> None:
    settings = {name: os.environ[name] for name in SETTINGS if os.environ.get(name)} | {"SSL_CERT_FILE": CERTIFICATES}
    changes = [f"ENV {name}={value}" for name, value in settings.items()] + [f"LABEL {LABEL}=true", 'CMD ["python3"]']
    arguments = [part for change in changes for part in ("--change", change)]
    archive = subprocess.Popen(["tar", "--create", "--directory", str(root), "."], stdout=subprocess.PIPE)
    assert archive.stdout is not None
    engine.docker("import", *arguments, "-", NAME, stdin=archive.stdout.fileno())
    assert archive.wait() == 0, "tar failed"
