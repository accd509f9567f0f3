"""A machine that cannot run containers is told why; what it can is shown by `make test-containers`."""

import os
import shutil

import pytest

from tests.containers import engine


def test_another_user_than_root_is_told_so(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(engine.Unavailable, match="need root"):
        engine.install_programs()


def test_missing_programs_are_named_where_there_is_no_apt(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(engine.Unavailable, match=r"debootstrap, docker.io is missing and there is no apt-get"):
        engine.install_programs()


def test_nothing_is_installed_where_both_are_there(monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/sbin/{name}")
    monkeypatch.setattr(engine.subprocess, "run", lambda *_, **__: pytest.fail("ran something"))
    engine.install_programs()


def test_an_engine_that_ends_at_once_is_reported_with_its_last_words(monkeypatch, tmp_path):
    program = tmp_path / "bin" / "dockerd"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho no overlay here\nexit 3\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr(engine, "CLIENT", "/bin/false")
    with pytest.raises(engine.Unavailable, match="no overlay here"), engine.engine(tmp_path / "engine"):
        pytest.fail("started")
