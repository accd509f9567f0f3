"""`secateur pull`: one link, versions beside it, switched in one step, whole whatever happens."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from compress import cli
from compress.core.model import CorruptModel
from compress.store import LocalStore
from deploy.description import read_package
from deploy.package import build_package
from deploy.promote import promote
from deploy.pull import Found, Versions, check_package, find, output_difference, pull
from deploy.tracking.connection import connected
from deploy.watch import Follower, Settings, follow
from tests.deploy.stored_run import fresh_uri, put_run

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A registry in which `toy` has three versions; the last one is the champion."""
    root = tmp_path_factory.mktemp("registry")
    uri, store = fresh_uri(root), LocalStore(root / "store")
    for seed in range(3):
        refs = put_run(store, root / "files", seed=seed)
        assert promote(store, uri, "toy", refs["export"], refs["gate"], refs["cascade"])["promoted"]
    return uri


def crown(uri: str, version: int) -> None:
    """Make a version the champion."""
    with connected(uri) as client:
        client.set_registered_model_alias("toy", "champion", str(version))


def shown(folder: Path) -> int:
    """Return the number of the version that a link shows."""
    return int(folder.resolve().name.split("-")[0])


def kept(folder: Path) -> set[int]:
    """Return the numbers of the versions on disk."""
    root = Versions(folder).root
    return {int(path.name.split("-")[0]) for path in root.iterdir() if path.is_dir() and path.name[0].isdigit()}


@pytest.fixture
def packages(tmp_path: Path) -> list[Path]:
    """Three packages as `fetch` leaves them, without a registry."""
    store, made = LocalStore(tmp_path / "store"), []
    for seed in range(3):
        refs = put_run(store, tmp_path / "files", seed=seed)
        parts = {"export": refs["export"], "gate": refs["gate"], "evaluation": refs["evaluate"], "cascade": ""}
        made.append(tmp_path / f"package{seed}")
        build_package(store, made[-1], parts, name="toy")
    return made


def add(versions: Versions, package: Path, name: str) -> None:
    partial = versions.partial()
    shutil.copytree(package, partial)
    versions.add(partial, name)


def test_the_link_is_switched_and_the_version_before_is_kept(tmp_path: Path, packages: list[Path]) -> None:
    versions = Versions(tmp_path / "link")
    versions.check_free()
    for number, package in enumerate(packages, start=1):
        with versions.locked():
            assert not versions.has(f"{number}-m")
            add(versions, package, f"{number}-m")
            versions.show(f"{number}-m")
        check_package(versions.link)
    assert (versions.current(), versions.previous()) == ("3-m", "2-m")
    assert kept(versions.link) == {2, 3}
    with versions.locked():
        assert versions.has("2-m")
        versions.show("2-m")
    assert (versions.current(), versions.previous()) == ("2-m", "3-m")
    versions.check_free()


def test_what_a_killed_writer_left_is_swept_and_what_was_changed_is_not_believed(
    tmp_path: Path, packages: list[Path]
) -> None:
    versions = Versions(tmp_path / "link")
    with versions.locked():
        add(versions, packages[0], "1-m")
        add(versions, packages[1], "2-m")
        versions.show("1-m")
        add(versions, packages[1], "2-m")
        (versions.partial() / "toy").mkdir(parents=True)
        (versions.root / ".link-0").symlink_to("nowhere")
    (versions.root / "2-m" / "README.md").write_text("changed")
    with versions.locked():
        assert [path.name for path in versions.root.iterdir() if path.name.startswith(".")] == []
        assert not versions.has("2-m")
        assert not (versions.root / "2-m").exists()
    (versions.root / "1-m" / "README.md").write_text("changed")
    with versions.locked(), pytest.raises(CorruptModel, match="To repair: delete"):
        versions.has("1-m")


def test_a_stranger_in_the_place_of_the_link_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "other").symlink_to(tmp_path)
    for name in ("file", "other", ""):
        with pytest.raises(FileExistsError, match="choose another folder"):
            pull("models:/toy@champion", tmp_path / name, uri="http://127.0.0.1:9")
    assert (tmp_path / "other").readlink() == tmp_path


def test_words_that_cannot_be_right_are_refused_before_anything_is_asked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="onnxruntime, python"):
        pull("models:/toy@champion", tmp_path / "link", uri="http://127.0.0.1:9", backend="caffe")
    with pytest.raises(ValueError, match="more than 0"):
        Settings(name="models:/toy@champion", folder=tmp_path, interval_s=0)


def test_no_database_is_made_by_looking_into_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"no MLflow is at sqlite:.*name it with --uri, or set MLFLOW_TRACKING_URI"):
        pull("models:/toy@champion", tmp_path / "link")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_names_are_resolved_or_answered_with_what_there_is(registry: str) -> None:
    with connected(registry) as client:
        crown(registry, 3)
        champion = find(client, "models:/toy@champion")
        assert champion == find(client, "toy@champion") == find(client, "models:/toy/3")
        assert champion.version == 3
        assert find(client, f"models:/{champion.model_id}") == Found(champion.model_id)
        for name in ("models:/toy@nobody", "models:/toy/9", "models:/other@champion"):
            with pytest.raises(ValueError, match="its aliases are: toy@challenger, toy@champion"):
                find(client, name)
        for name in ("models:/toy", "models:/toy/latest"):
            with pytest.raises(ValueError, match="NAME@ALIAS"):
                find(client, name)
        made = client.create_registered_model("stranger")
        client.create_model_version(made.name, "/somewhere/else")
        with pytest.raises(ValueError, match="no secateur package"):
            find(client, "models:/stranger/1")


@pytest.mark.slow
def test_the_command_pulls_switches_and_goes_back(
    registry: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "champion"
    words = ["secateur", "pull", "models:/toy@champion", "--to", str(link), "--uri", registry]
    for number, expected in ((1, {1}), (2, {1, 2}), (3, {2, 3}), (2, {2, 3}), (2, {2, 3})):
        crown(registry, number)
        monkeypatch.setattr(sys, "argv", words)
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code in (0, None)
        assert shown(link) == number
        assert kept(link) == expected
        assert "largest difference to the packaged outputs" in capsys.readouterr().out
        assert output_difference(link) <= 1e-5
        package = read_package(link)
        assert package["triton"]["version"] == number
        assert (link / "toy" / str(number) / "model.onnx").is_file()
        check_package(link)


@pytest.mark.slow
def test_a_changed_artifact_is_refused_and_what_was_shown_stays(registry: str, tmp_path: Path) -> None:
    link = tmp_path / "link"
    crown(registry, 1)
    pull("models:/toy@champion", link, uri=registry)
    crown(registry, 2)
    with connected(registry) as client:
        place = Path(client.get_logged_model(find(client, "toy@champion").model_id).artifact_location[7:])
    victim = place / "toy" / "1" / "model.onnx"
    good = victim.read_bytes()
    victim.write_bytes(good + b"!")
    try:
        with pytest.raises(CorruptModel, match="changed after it was saved"):
            pull("models:/toy@champion", link, uri=registry)
        (place / "toy" / "1" / "stranger.py").write_text("import os")
        victim.write_bytes(good)
        with pytest.raises(CorruptModel, match="nobody recorded"):
            pull("models:/toy@champion", link, uri=registry)
    finally:
        victim.write_bytes(good)
        (place / "toy" / "1" / "stranger.py").unlink()
    assert shown(link) == 1
    assert kept(link) == {1}
    check_package(link)


KILLED = """
import os, pathlib, shutil, sys
import deploy.pull as pulling
import deploy.triton

package, link, when, number = sys.argv[1:]
left = int(number)

def deadly(owner, name):
    # The process ends as kill -9 would end it, before or after the n-th call that changes the disk.
    real = getattr(owner, name)
    def call(*args, **kwargs):
        global left
        left -= 1
        is_last = left == 0
        if is_last and when == "before":
            os.kill(os.getpid(), 9)
        result = real(*args, **kwargs)
        if is_last:
            os.kill(os.getpid(), 9)
        return result
    setattr(owner, name, call)

def download(uri, location, folder):
    for path in sorted(pathlib.Path(package).rglob("*")):
        target = folder / path.relative_to(package)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_file():
            target.write_bytes(path.read_bytes())
    return folder

pulling.retrying, pulling.download = (lambda uri, work: work(None)), download
pulling.digest_of = lambda client, model_id: ""
for owner, name in ((pathlib.Path, "rename"), (pathlib.Path, "replace"), (pathlib.Path, "symlink_to"),
                    (pathlib.Path, "write_text"), (pathlib.Path, "write_bytes"), (shutil, "rmtree")):
    deadly(owner, name)
pulling.bring(pulling.Versions(pathlib.Path(link)), pulling.Found("m-33333333", 3), uri="", backend="python")
"""


@pytest.mark.slow
def test_killed_at_every_change_of_the_disk_it_shows_a_whole_version_and_goes_on(
    tmp_path: Path, packages: list[Path]
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(link: Path, when: str, number: int) -> int:
        command = [sys.executable, "-c", KILLED, str(packages[2]), str(link), when, str(number)]
        return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode

    start = Versions(tmp_path / "start" / "link")
    with start.locked():
        for number, package in enumerate(packages[:2], start=1):
            add(start, package, f"{number}-m")
            start.show(f"{number}-m")
    seen, killed, status = set(), 0, 1
    for turn in range(200):
        folder = tmp_path / f"n{turn}"
        shutil.copytree(start.link.parent, folder, symlinks=True)
        link = folder / "link"
        status = run(link, ("before", "after")[turn % 2], 1 + turn // 2)
        check_package(link)
        seen.add(shown(link))
        if status == 0:
            break
        assert status == -signal.SIGKILL
        killed += 1
        assert run(link, "never", 0) == 0
        check_package(link)
        assert shown(link) == 3
        assert kept(link) == {2, 3}
        assert [path for path in Versions(link).root.iterdir() if path.name.startswith(".")] == []
        shutil.rmtree(folder)
    assert status == 0, "the loop must reach the end of the work"
    assert killed >= 30
    assert seen == {2, 3}
    print(f"killed {killed} times, always a whole version")


@pytest.mark.slow
def test_readers_never_see_half_a_version_while_it_is_switched(tmp_path: Path, packages: list[Path]) -> None:
    versions = Versions(tmp_path / "link")
    with versions.locked():
        for number, package in enumerate(packages[:2], start=1):
            add(versions, package, f"{number}-m")
            versions.show(f"{number}-m")
    stop, troubles, reads = threading.Event(), list[Exception](), 0

    def read() -> None:
        nonlocal reads
        while not stop.is_set():
            try:
                folder = Path(os.path.realpath(versions.link))
                check_package(folder)
                reads += 1
            except Exception as error:
                troubles.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    for turn in range(60):
        with versions.locked():
            versions.show(f"{1 + turn % 2}-m")
        time.sleep(0.002)
    stop.set()
    thread.join()
    assert troubles == []
    assert reads > 5


@pytest.mark.slow
def test_a_follower_takes_what_moved_and_keeps_what_it_has_when_mlflow_is_away(
    registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "link"
    crown(registry, 1)
    follower = Follower(Settings(name="models:/toy@champion", folder=link, uri=registry))
    follower.step()
    assert shown(link) == 1
    downloads: list[Any] = []
    monkeypatch.setattr("deploy.pull.fetch", lambda *args, **_: downloads.append(args))
    follower.step()
    assert downloads == []
    monkeypatch.undo()
    crown(registry, 2)
    monkeypatch.setenv("SECATEUR_MLFLOW_ATTEMPTS", "1")
    away = Follower(Settings(name="models:/toy@champion", folder=link, uri="http://127.0.0.1:9"))
    with pytest.raises(OSError, match=r"127\.0\.0\.1:9"):
        away.step()
    assert shown(link) == 1
    follower.step()
    assert shown(link) == 2


def test_pauses_grow_while_mlflow_is_away_and_shrink_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    troubles = [OSError("away")] * 6 + [None, OSError("away"), None]
    pauses: list[float] = []

    class Stop(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            pauses.append(float(timeout or 0))
            if len(pauses) == len(troubles):
                self.set()
            return True

    def step(_: Follower) -> None:
        if (error := troubles[len(pauses)]) is not None:
            raise error

    monkeypatch.setattr(threading, "Event", Stop)
    monkeypatch.setattr(Follower, "step", step)
    follow(Settings(name="models:/toy@champion", folder=tmp_path / "link", interval_s=2.0))
    for pause, expected in zip(pauses, (4, 8, 16, 20, 20, 20, 2, 4, 2), strict=True):
        assert 0.85 * expected <= pause <= 1.15 * expected


@pytest.mark.slow
def test_watching_ends_in_peace_when_it_is_told_to(registry: str, tmp_path: Path) -> None:
    link, log = tmp_path / "link", tmp_path / "log"
    crown(registry, 1)
    command = [str(Path(sys.executable).parent / "secateur"), "pull", "models:/toy@champion", "--to", str(link)]
    with log.open("w") as errors:
        process = subprocess.Popen([*command, "--uri", registry, "--watch", "--interval", "0.5"], stderr=errors)
    try:
        for number in (1, 2):
            crown(registry, number)
            end = time.monotonic() + 90
            while time.monotonic() < end and not (link.is_symlink() and shown(link) == number):
                time.sleep(0.2)
            assert shown(link) == number
        process.terminate()
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
    assert "shows 2-m-" in log.read_text()
    check_package(link)
