"""Old engines go; what is new, linked, half written by others or no engine stays."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from deploy import engine_sweep
from deploy.engine_sweep import UNITS, Swept, holds_engine, main, seconds_of, sweep
from deploy.pull import Versions

DAY = 86400


def version(root: Path, name: str, age_days: float, *, mark: str = "1/model.plan", size: int = 100) -> Path:
    """Make ROOT/MODEL/VERSION whose files were last used so many days ago."""
    folder = root / name
    file = folder / mark
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"x" * size)
    when = time.time() - age_days * DAY
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (when, when))
    return folder


def left(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.glob("*/*")}


def test_old_versions_go_and_the_newest_stay(tmp_path: Path) -> None:
    for name, age in (("a/v1", 90), ("a/v2", 80), ("a/v3", 70), ("a/v4", 1), ("b/v1", 400)):
        version(tmp_path, name, age)
    swept = sweep(tmp_path, older_than_s=30 * DAY, keep=2)
    assert sorted(swept.removed) == ["a/v1", "a/v2"]
    assert swept.freed_bytes == 200
    assert left(tmp_path) == {"a/v3", "a/v4", "b/v1"}
    assert swept.kept == {"a/v4": "one of the newest 2", "a/v3": "one of the newest 2", "b/v1": "one of the newest 2"}


def test_age_alone_counts_when_none_must_stay(tmp_path: Path) -> None:
    for name, age in (("a/v1", 31), ("a/v2", 29)):
        version(tmp_path, name, age)
    swept = sweep(tmp_path, older_than_s=30 * DAY, keep=0)
    assert swept.removed == ["a/v1"]
    assert swept.kept == {"a/v2": "used 29.0 days ago"}


def test_reading_keeps_a_version(tmp_path: Path) -> None:
    folder = version(tmp_path, "a/v1", 90)
    os.utime(folder / "1/model.plan", (time.time() - DAY, time.time() - 90 * DAY))
    assert sweep(tmp_path, older_than_s=30 * DAY, keep=0).removed == []


def test_what_a_link_leads_to_stays(tmp_path: Path) -> None:
    old, inner, free = (version(tmp_path, f"a/{name}", 90) for name in ("v1", "v2", "v3"))
    (tmp_path / "a" / "current").symlink_to(old.name)
    (tmp_path / "serving").symlink_to(inner / "1")
    swept = sweep(tmp_path, older_than_s=DAY, keep=0)
    assert swept.removed == ["a/v3"]
    assert swept.kept == {"a/v1": "a link leads to it", "a/v2": "a link leads to it"}
    assert not free.exists()
    assert (tmp_path / "a" / "current" / "1" / "model.plan").is_file()


def test_a_version_that_is_shown_while_the_sweep_runs_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = version(tmp_path, "a/v1", 90)
    real = engine_sweep.holds_engine

    def switched(path: Path) -> bool:
        (tmp_path / "a" / "current").symlink_to(old.name)
        return real(path)

    monkeypatch.setattr(engine_sweep, "holds_engine", switched)
    assert sweep(tmp_path, older_than_s=DAY, keep=0).kept == {"a/v1": "a link leads to it"}
    assert old.exists()


def test_links_out_of_the_folder_are_never_followed(tmp_path: Path) -> None:
    outside = version(tmp_path / "outside", "a/v1", 90)
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (root / "a" / "v0").symlink_to(outside)
    (root / "b").symlink_to(outside.parent)
    doomed = version(root, "a/v1", 90)
    (doomed / "inner").symlink_to(outside)
    os.utime(doomed, (time.time() - 90 * DAY,) * 2)
    assert sweep(root, older_than_s=DAY, keep=0).removed == ["a/v1"]
    assert (outside / "1" / "model.plan").is_file()


@pytest.mark.parametrize("mark", ["package.json", "net/config.pbtxt", "net/1/model.plan", "fp16.engine"])
def test_engines_and_packages_are_known_by_their_files(tmp_path: Path, mark: str) -> None:
    assert holds_engine(version(tmp_path, "a/v1", 90, mark=mark))
    assert sweep(tmp_path, older_than_s=DAY, keep=0).removed == ["a/v1"]


def test_a_single_file_may_be_an_engine(tmp_path: Path) -> None:
    file = version(tmp_path, "a", 90, mark="old.plan") / "old.plan"
    cache = version(tmp_path, "a", 90, mark="timing.cache") / "timing.cache"
    assert sweep(tmp_path, older_than_s=DAY, keep=0).removed == ["a/old.plan"]
    assert (file.exists(), cache.exists()) == (False, True)


def test_anything_else_is_left_alone(tmp_path: Path) -> None:
    folder = version(tmp_path, "data/cifar", 900, mark="train.npz")
    swept = sweep(tmp_path, older_than_s=DAY, keep=0)
    assert swept.removed == []
    assert swept.kept == {"data/cifar": "holds neither an engine nor a package"}
    assert folder.exists()


def test_what_a_killed_sweep_began_is_finished_and_other_hidden_folders_stay(tmp_path: Path) -> None:
    half, foreign = version(tmp_path, "a/.gone-v0", 0), version(tmp_path, "a/.partial-12ab", 900)
    assert sweep(tmp_path, older_than_s=DAY, keep=0, is_dry=True).removed == []
    assert half.exists()
    assert sweep(tmp_path, older_than_s=DAY, keep=0).removed == []
    assert [path.exists() for path in (half, foreign)] == [False, True]


@pytest.mark.parametrize("place", ["", "digits/"])
def test_the_folders_of_pull_are_understood(tmp_path: Path, place: str) -> None:
    """`secateur pull --to champion` shows .champion.versions/N by a link, and notes the one before it."""
    versions = tmp_path / f"{place}.champion.versions"
    for number in range(1, 5):
        version(tmp_path, f"{place}.champion.versions/{number}-m-0123abcd", 90, mark="package.json")
    (versions / "previous").symlink_to("3-m-0123abcd")
    (versions.parent / "champion").symlink_to(".champion.versions/1-m-0123abcd")
    swept = sweep(tmp_path, older_than_s=DAY, keep=0)
    assert sorted(path.name for path in versions.iterdir()) == ["1-m-0123abcd", "3-m-0123abcd", "previous"]
    assert len(swept.removed) == 2
    assert (versions.parent / "champion" / "package.json").is_file()


def test_a_sweep_waits_until_a_pull_has_shown_its_version(tmp_path: Path) -> None:
    folder = version(tmp_path, ".champion.versions/1-m-0123abcd", 90, mark="package.json")
    versions, swept = Versions(tmp_path / "champion"), list[Swept]()
    thread = threading.Thread(target=lambda: swept.append(sweep(tmp_path, older_than_s=DAY, keep=0)))
    with versions.locked():
        thread.start()
        thread.join(timeout=0.5)
        assert thread.is_alive()
        versions.show(folder.name)
    thread.join()
    assert swept[0].removed == []
    assert (tmp_path / "champion" / "package.json").is_file()


def test_a_version_that_goes_away_meanwhile_ends_no_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version(tmp_path, "a/v1", 90)
    monkeypatch.setattr(engine_sweep, "_files", lambda path: iter([path / "gone.plan"]))
    assert sweep(tmp_path, older_than_s=DAY, keep=0).kept == {"a/v1": "used 0.0 days ago"}


def test_a_dry_run_changes_nothing(tmp_path: Path) -> None:
    version(tmp_path, "a/v1", 90, size=1234)
    swept = sweep(tmp_path, older_than_s=DAY, keep=0, is_dry=True)
    assert (swept.removed, swept.freed_bytes) == (["a/v1"], 1234)
    assert left(tmp_path) == {"a/v1"}


def test_command_line_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    version(tmp_path, "a/v1", 90, size=2000)
    version(tmp_path, "a/v2", 1)
    arguments = [str(tmp_path), "--older-than", "4w", "--keep", "1"]
    assert main([*arguments, "--dry-run"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "would delete a/v1",
        "kept a/v2: one of the newest 1",
        "would delete 1 of 2, 2,000 bytes",
    ]
    assert main(arguments) == 0
    assert "deleted a/v1" in capsys.readouterr().out
    assert left(tmp_path) == {"a/v2"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{}/none"], "is no folder: mount the volume"),
        (["{}", "--older-than", "30"], "'30' is no duration: write a whole number with h, d or w"),
        (["{}", "--older-than", "0d"], "is no duration"),
        (["{}", "--keep", "-1"], "write 0 or more"),
    ],
)
def test_bad_arguments_are_explained(
    tmp_path: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([one.format(tmp_path) for one in arguments]) == 2
    assert says in capsys.readouterr().err


def test_units() -> None:
    assert [seconds_of(f"3{unit}") for unit in UNITS] == [10800, 259200, 1814400]


def test_the_module_starts_with_little(tmp_path: Path) -> None:
    """The CronJob has 256 MiB: neither torch nor mlflow may come along."""
    code = "import sys, deploy.engine_sweep; print({'torch', 'mlflow', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
