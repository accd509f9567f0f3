"""Paths, addresses and the places that are searched."""

from __future__ import annotations

from pathlib import Path

import pytest

from compress.core.registry import UnknownName
from compress.data.source import FETCHERS, Layout, MissingData, fetch, locate, required_root

LAYOUTS = (
    Layout(folder="first", files={"x": "x.bin", "y": "y.bin"}, kind="one"),
    Layout(folder="second", files={"x": "x.dat"}, kind="two"),
)


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def test_local_paths_and_file_addresses(tmp_path: Path) -> None:
    file = touch(tmp_path / "with space.bin")
    assert fetch(str(file)) == file
    assert fetch(file.as_uri()) == file
    for location in (f"{file}x", f"{file.as_uri()}x"):
        with pytest.raises(MissingData, match=r"does not exist"):
            fetch(location)
    with pytest.raises(ValueError, match="three slashes"):
        fetch("file://elsewhere/x")


def test_unknown_schemes_are_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownName, match="fetcher 'fil'"):
        fetch("fil:///x")
    monkeypatch.delitem(FETCHERS._cards, "s3", raising=False)
    with pytest.raises(ValueError, match=r"secateur\[s3\]"):
        fetch("s3://bucket/key")


def test_a_given_root_is_searched_for_every_layout_and_for_the_files_themselves(tmp_path: Path) -> None:
    wanted = touch(tmp_path / "second" / "x.dat")
    found = locate("it", str(tmp_path), LAYOUTS, how_to_get="Get it.")
    assert (found.layout.kind, found.files) == ("two", {"x": wanted})
    assert locate("it", str(tmp_path / "second"), LAYOUTS, how_to_get="Get it.").files == {"x": wanted}


def test_places_are_searched_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path.cwd()
    monkeypatch.setenv("SECATEUR_DATA", str(tmp_path / "env"))

    def root() -> Path:
        return locate("it", "", LAYOUTS, how_to_get="Get it.").files["x"].resolve()

    with pytest.raises(MissingData) as caught:
        root()
    lines = str(caught.value).splitlines()
    assert [line.strip() for line in lines[1:-1]] == [
        str(base / rest)
        for base in (tmp_path / "env", here / "data", here / ".." / "shared" / "data")
        for rest in ("first/x.bin", "second/x.dat")
    ]
    assert lines[-1] == "Get it."
    for folder in (here.parent / "shared" / "data", here / "data", tmp_path / "env"):
        wanted = touch(folder / "second" / "x.dat")
        assert root() == wanted


def test_a_half_layout_names_the_missing_file(tmp_path: Path) -> None:
    touch(tmp_path / "first" / "x.bin")
    with pytest.raises(MissingData, match=r"first/y\.bin"):
        locate("it", str(tmp_path), LAYOUTS, how_to_get="Get it.")


def test_required_root() -> None:
    with pytest.raises(ValueError, match=r'"root": "pictures/"'):
        required_root("image_folder", "", "pictures/")
    assert required_root("image_folder", ".", "pictures/") == Path()
