"""Decoded arrays and digests: once, atomically, and never in the way."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from compress.data import cache, digest
from compress.data.cache import atomic_file, cache_folder, decoded
from compress.data.digest import files_digest

NAMES = ("a", "b")


def arrays() -> dict[str, np.ndarray]:
    return {"a": np.arange(6).reshape(2, 3), "b": np.zeros(1, np.uint8)}


def never() -> dict[str, np.ndarray]:
    raise AssertionError("decoded twice")


def test_cache_folder_follows_the_environment(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == own_cache
    monkeypatch.delenv("SECATEUR_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "secateur"


def test_arrays_are_decoded_once(own_cache: Path) -> None:
    first = decoded("set", "0" * 64, arrays, names=NAMES)
    second = decoded("set", "0" * 64, never, names=NAMES)
    assert second["a"].tolist() == first["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert isinstance(second["a"], np.memmap)
    assert not list(own_cache.rglob(".partial-*"))


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_cache_is_made_again(own_cache: Path, damage: str) -> None:
    decoded("set", "0" * 64, arrays, names=NAMES)
    (file,) = own_cache.rglob("a.npy")
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-8])
    else:
        file.unlink()
    assert decoded("set", "0" * 64, arrays, names=NAMES)["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert decoded("set", "0" * 64, never, names=NAMES)["a"].shape == (2, 3)


def test_an_interrupted_write_leaves_nothing(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.np, "save", full)
    with pytest.warns(UserWarning, match="SECATEUR_CACHE"):
        found = decoded("set", "0" * 64, arrays, names=NAMES)
    assert found["a"].shape == (2, 3)
    assert not [path for path in own_cache.rglob("*") if path.is_file()]


def test_a_second_writer_gives_way(own_cache: Path) -> None:
    def slow() -> dict[str, np.ndarray]:
        decoded("set", "0" * 64, arrays, names=NAMES)
        return arrays()

    assert decoded("set", "0" * 64, slow, names=NAMES)["a"].shape == (2, 3)
    assert not list(own_cache.rglob(".partial-*"))


def test_atomic_file_keeps_the_old_one_on_error(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file"
    with atomic_file(target) as partial:
        partial.write_text("old")
    with pytest.raises(FileNotFoundError), atomic_file(target) as partial:
        partial.with_name("elsewhere").read_text()
    assert target.read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


@pytest.fixture
def settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file whose time of change lies back."""
    monkeypatch.setattr(digest, "SMALL_BYTES", 0)
    monkeypatch.setattr(digest, "_memory", {})
    file = tmp_path / "data.bin"
    file.write_bytes(b"abc")
    os.utime(file, (1_000_000, 1_000_000))
    return file


def test_digest_is_read_from_memory_and_from_disk(settled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = files_digest({"data": settled})
    monkeypatch.setattr(digest, "sha256_of", None)
    assert files_digest({"data": settled}) == first
    monkeypatch.setattr(digest, "_memory", {})
    assert files_digest({"data": settled}) == first


def test_digest_follows_the_content_and_not_the_folder(settled: Path, tmp_path: Path) -> None:
    first = files_digest({"data": settled})
    elsewhere = tmp_path / "elsewhere.bin"
    elsewhere.write_bytes(b"abc")
    assert files_digest({"data": elsewhere}) == first
    assert files_digest({"other": elsewhere}) != first
    settled.write_bytes(b"abd")
    os.utime(settled, (1_000_001, 1_000_001))
    assert files_digest({"data": settled}) != first


def test_a_fresh_file_is_not_trusted(settled: Path, own_cache: Path) -> None:
    settled.write_bytes(b"xyz")
    files_digest({"data": settled})
    assert not (own_cache / "digests.json").exists()


def test_small_files_are_hashed_each_time(settled: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "SMALL_BYTES", 100)
    files_digest({"data": settled})
    assert not own_cache.exists()


@pytest.mark.parametrize("content", ["", "[1]", '{"a": 3}', json.dumps({"a": ["b"]})])
def test_a_damaged_digest_file_is_replaced(settled: Path, own_cache: Path, content: str) -> None:
    own_cache.mkdir(parents=True)
    (own_cache / "digests.json").write_text(content)
    found = files_digest({"data": settled})
    stored = json.loads((own_cache / "digests.json").read_text())
    assert [entry[1] for entry in stored.values()] == [found]


def test_digests_without_a_cache_folder_still_work(settled: Path, own_cache: Path) -> None:
    own_cache.write_text("a file where the folder should be")
    assert len(files_digest({"data": settled})) == 64
