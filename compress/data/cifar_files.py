"""Readers of the files in which CIFAR-10 and CIFAR-100 are handed around."""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

SIDE = 32
PICTURE_BYTES = 3 * SIDE * SIDE

#: Opcode -> number of argument bytes. The third column of the table in Python's `pickletools`, protocols 2 and 3.
_FIXED = {
    **dict.fromkeys(b"}])(\x85\x86\x87tRbN\x88\x89easu.", 0),
    **dict.fromkeys(b"\x80qhK", 1),
    **dict.fromkeys(b"M", 2),
    **dict.fromkeys(b"rjJ", 4),
}
_INTEGERS = frozenset(b"KMJ")
#: Opcode -> width of the length that stands before a string.
_STRINGS = {**dict.fromkeys(b"UC", 1), **dict.fromkeys(b"TXB", 4)}
_GLOBAL = ord("c")


def strips(archive: np.lib.npyio.NpzFile, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures (N, 3, 32, 32) and labels (N,) of one part of an archive of picture strips.

    Args:
        archive: Holds `{part}_webp` or `{part}_jpeg` (files laid end to end, each one a strip of pictures
            stacked downwards), `{part}_offsets` and `{part}_labels`.
        part: "train" or "test".
    """
    from PIL import Image

    labels, offsets = archive[f"{part}_labels"], archive[f"{part}_offsets"]
    blob = archive[f"{part}_webp" if f"{part}_webp" in archive else f"{part}_jpeg"]
    images = np.empty((len(labels), 3, SIDE, SIDE), np.uint8)
    filled = 0
    for start, end in pairwise(offsets):
        with Image.open(io.BytesIO(blob[start:end].tobytes())) as picture:
            strip = np.asarray(picture.convert("RGB")).reshape(-1, SIDE, SIDE, 3)
        images[filled : filled + len(strip)] = strip.transpose(0, 3, 1, 2)
        filled += len(strip)
    if filled != len(labels):
        raise ValueError(f"the archive has {len(labels)} {part} labels but {filled} pictures: fetch it again.")
    return images, labels


def records(path: Path, *, num_labels: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures (N, 3, 32, 32) and labels (N,) of a file of the binary version.

    Args:
        path: Records of `num_labels` bytes and 3072 pixels.
        num_labels: 1 for CIFAR-10, 2 (coarse, fine) for CIFAR-100; the last one counts.
    """
    content = np.frombuffer(path.read_bytes(), np.uint8)
    size = num_labels + PICTURE_BYTES
    if len(content) == 0 or len(content) % size:
        raise ValueError(f"{path} holds {len(content)} bytes, no multiple of {size}: fetch it again.")
    rows = content.reshape(-1, size)
    return rows[:, num_labels:].reshape(-1, 3, SIDE, SIDE), rows[:, num_labels - 1]


def python_batch(path: Path, *, label_key: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures (N, 3, 32, 32) and labels (N,) of a batch of the "python version" without unpickling it.

    The file is only cut into tokens: no object is made, no name in it is looked up and nothing in it can run.
    The labels are the integers behind `label_key`, the pictures are the one string of the right length.

    Args:
        path: `data_batch_1` … `test_batch` of CIFAR-10, `train` or `test` of CIFAR-100.
        label_key: b"labels" or b"fine_labels".
    """
    labels: list[int] = []
    strings: list[bytes] = []
    try:
        key = b""
        for token in _tokens(path.read_bytes()):
            if isinstance(token, int):
                labels += [token] * (key == label_key)
            else:
                key = token
                strings += [token] * (len(token) >= PICTURE_BYTES)
    except (IndexError, ValueError) as error:
        raise ValueError(f"{path} is no batch of CIFAR ({error}): fetch it again.") from error
    pixels = [string for string in strings if len(string) == len(labels) * PICTURE_BYTES]
    if len(pixels) != 1 or not labels:
        raise ValueError(
            f"{path} is no batch of CIFAR as it was published: fetch it again, or take the binary version from "
            f"the data set's page."
        )
    images = np.frombuffer(pixels[0], np.uint8).reshape(-1, 3, SIDE, SIDE)
    return images, np.asarray(labels, np.int64)


def _tokens(content: bytes) -> Iterator[int | bytes]:
    """Yield the integers and strings of a pickle stream in file order; every other opcode is stepped over."""
    place = 0
    while place < len(content):
        code = content[place]
        place += 1
        if code in _FIXED:
            width = _FIXED[code]
            if code in _INTEGERS:
                yield int.from_bytes(content[place : place + width], "little", signed=code == ord("J"))
            place += width
        elif code in _STRINGS:
            start = place + _STRINGS[code]
            end = start + int.from_bytes(content[place:start], "little")
            if end > len(content):
                raise ValueError("the file ends too early")
            yield content[start:end]
            place = end
        elif code == _GLOBAL:
            place = content.index(b"\n", content.index(b"\n", place) + 1) + 1
        else:
            raise ValueError(f"unexpected byte {code:#04x} at {place - 1}")
