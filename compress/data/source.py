"""Where data lies: local folders, and addresses of every scheme that somebody registered.

A location is a path or an address (`s3://bucket/prefix`). `fetch` turns it into a local path. `locate`
looks for the files of a data set in the usual places.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from compress.core.registry import Family
from compress.data.cache import cache_folder

#: (uri, cache folder of the scheme) -> local path of a file or a folder. Raises MissingData when there is nothing.
FETCHERS: Family[Callable[..., Path]] = Family("fetcher", data=("uri", "cache"))

#: Searched in this order when no root is given, behind the environment's SECATEUR_DATA.
USUAL_ROOTS = ("data", "../shared/data")


class MissingData(ValueError):
    """Nothing lies at a location. The message says where was looked."""


@FETCHERS.register("file")
def file(uri: str, cache: Path) -> Path:
    """Take a file or folder of this machine by its `file://` address.

    Args:
        uri: `file:///absolute/path`.
        cache: Not used; nothing is copied.

    Returns:
        The path.

    >>> file("file:///", Path()).is_dir()
    True
    """
    address = urlsplit(uri)
    if address.netloc not in ("", "localhost"):
        raise ValueError(f"{uri}: a file address names no other machine; write file:///path with three slashes.")
    return _existing(Path(unquote(address.path)))


def fetch(location: str) -> Path:
    """Return the local path of `location`, fetched first when it is an address.

    Raises:
        MissingData: Nothing is there.
        UnknownName: No fetcher knows the scheme.
    """
    scheme, has_scheme, _ = location.partition("://")
    if not has_scheme:
        return _existing(Path(location).expanduser())
    if scheme not in FETCHERS and scheme == "s3":
        raise ValueError(f"{location}: this address needs the plugin of `deploy`; install secateur[s3].")
    path = FETCHERS.bind(scheme)(location, cache_folder() / scheme)
    assert isinstance(path, Path)
    return path


def _existing(path: Path) -> Path:
    if not path.exists():
        raise MissingData(
            f"{path.absolute()} does not exist: put the data there, or name another place (a folder, a file, s3://…)."
        )
    return path


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way in which the files of a data set lie under a root.

    Attributes:
        folder: Relative folder, "" for the root itself.
        files: Paths relative to `folder` by role; all are needed.
        kind: Tells the reader of the files how to read them.
    """

    folder: str
    files: Mapping[str, str]
    kind: str = ""


@dataclass(frozen=True, kw_only=True)
class Found:
    """Files of a data set: local paths by role, and the layout that they follow."""

    layout: Layout
    files: Mapping[str, Path]


def locate(what: str, root: str, layouts: Sequence[Layout], *, how_to_get: str) -> Found:
    """Return the first layout that is complete, root by root.

    Args:
        what: Name of the data set, for the message.
        root: Folder or address; "" searches SECATEUR_DATA, then ./data, then ../shared/data. A root that
            is given may also be the layout's folder itself.
        layouts: In order of preference.
        how_to_get: Sentence for the message.

    Raises:
        MissingData: Names every place that was looked at.
    """
    looked_at: list[str] = []
    for place in _roots(root):
        for layout in layouts:
            for folder in dict.fromkeys([layout.folder, ""] if root else [layout.folder]):
                files = _complete(place, folder, layout, looked_at)
                if files is not None:
                    return Found(layout=layout, files=files)
    places = "\n  ".join(dict.fromkeys(looked_at))
    raise MissingData(f"{what} was not found. Looked at:\n  {places}\n{how_to_get}")


def _complete(place: str, folder: str, layout: Layout, looked_at: list[str]) -> dict[str, Path] | None:
    """Return the layout's files under one folder; at the first that is missing, note it and return None."""
    files: dict[str, Path] = {}
    for role, name in layout.files.items():
        location = _joined(place, folder, name)
        try:
            files[role] = fetch(location)
        except MissingData:
            looked_at.append(location if "://" in location else str(Path(location).expanduser().absolute()))
            return None
    return files


def required_root(what: str, root: str, example: str) -> Path:
    """Return the local path of a root that has no usual place.

    Raises:
        ValueError: No root was given.
    """
    if not root:
        raise ValueError(
            f'{what} needs root=: where the data lies, for example {{"name": "{what}", "root": "{example}"}}.'
        )
    return fetch(root)


def _roots(root: str) -> Iterator[str]:
    if root:
        yield root
        return
    if from_environment := os.environ.get("SECATEUR_DATA"):
        yield from_environment
    yield from USUAL_ROOTS


def _joined(root: str, *parts: str) -> str:
    return "/".join([root.rstrip("/") or "/", *filter(None, parts)])
