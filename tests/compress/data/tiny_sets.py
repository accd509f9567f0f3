"""Writes tiny data sets in the layouts of the real ones; each picture carries its number in two pixels."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def numbered(count: int, height: int, channels: int, first: int = 0) -> np.ndarray:
    """Return uint8 (count, channels, height, height) whose first two pixels of channel 0 spell the number."""
    images = np.full((count, channels, height, height), 7, np.uint8)
    number = np.arange(first, first + count)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = number // 256, number % 256
    return images


def numbers(x_uint8: np.ndarray) -> list[int]:
    """Read what `numbered` wrote."""
    return (x_uint8[:, 0, 0, 0].astype(int) * 256 + x_uint8[:, 0, 0, 1]).tolist()


def labels_of(count: int, num_classes: int) -> np.ndarray:
    return (np.arange(count) % num_classes).astype(np.uint8)


def write_idx(folder: Path, *, is_packed: bool = True, train: int = 60, test: int = 20) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for prefix, count, first in (("train", train, 0), ("t10k", test, train)):
        images, labels = numbered(count, 28, 1, first)[:, 0], labels_of(count, 10)
        for what, array in (("images-idx3", images), ("labels-idx1", labels)):
            content = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()
            name = f"{prefix}-{what}-ubyte"
            if is_packed:
                (folder / f"{name}.gz").write_bytes(gzip.compress(content, mtime=0))
            else:
                (folder / name).write_bytes(content)


def write_binary_10(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(
        ["data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch"]
    ):
        rows = [labels_of(20, 10)[:, None], numbered(20, 32, 3, 20 * i).reshape(20, -1)]
        (folder / f"{name}.bin").write_bytes(np.hstack(rows).tobytes())


def write_binary_100(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, first in (("train", 300, 0), ("test", 100, 300)):
        fine = labels_of(count, 100)[:, None]
        (folder / f"{name}.bin").write_bytes(
            np.hstack([fine // 5, fine, numbered(count, 32, 3, first).reshape(count, -1)]).tobytes()
        )


def write_strips(path: Path, *, kind: str = "webp", num_classes: int = 10) -> None:
    arrays = {}
    for part, count, first in (("train", 100, 0), ("test", 20, 100)):
        strips, offsets = [], [0]
        for start in range(0, count, 10):
            strip = numbered(10, 32, 3, first + start).transpose(0, 2, 3, 1).reshape(320, 32, 3)
            file = path.with_suffix(f".{kind}")
            options = {"lossless": True} if kind == "webp" else {"quality": 92, "subsampling": 0}
            Image.fromarray(strip).save(file, **options)
            strips.append(np.frombuffer(file.read_bytes(), np.uint8))
            offsets.append(offsets[-1] + len(strips[-1]))
            file.unlink()
        arrays |= {f"{part}_{kind}": np.concatenate(strips), f"{part}_offsets": np.array(offsets)}
        arrays[f"{part}_labels"] = labels_of(count, num_classes)
    np.savez(path, **arrays)


def write_python_batch(
    path: Path, images: np.ndarray, labels: list[int], key: bytes = b"labels", names: list[bytes] | None = None
) -> None:
    """Write a batch as Python 2 and numpy once did: a dictionary in protocol 2, spelt out here byte by byte."""

    def short(text: bytes) -> bytes:
        return b"U" + bytes([len(text)]) + text

    def memo(place: int) -> bytes:
        return b"q" + bytes([place]) if place < 256 else b"r" + place.to_bytes(4, "little")

    def in_thousands(items: list[bytes]) -> bytes:
        return b"".join(b"(" + b"".join(items[i : i + 1000]) + b"e" for i in range(0, len(items), 1000))

    names = names or [b"tabby_s_%06d.png" % row for row in range(len(labels))]
    pixels, minus_one = images.tobytes(), b"J\xff\xff\xff\xff"
    parts = [
        b"\x80\x02}q\x01(" + short(b"batch_label") + memo(2) + short(b"training batch 1 of 5") + memo(3),
        short(key) + memo(4) + b"]" + memo(5) + in_thousands([b"K" + bytes([label]) for label in labels]),
        short(b"data") + memo(6),
        b"cnumpy.core.multiarray\n_reconstruct\n" + memo(7) + b"cnumpy\nndarray\n" + memo(8),
        b"K\x00\x85" + short(b"b") + b"\x87R" + memo(9),
        b"(K\x01M" + len(images).to_bytes(2, "little") + b"M\x00\x0c\x86",
        b"cnumpy\ndtype\n" + memo(10) + short(b"u1") + b"K\x00K\x01\x87R" + memo(11),
        b"(K\x03" + short(b"|") + b"NNN" + minus_one + minus_one + b"K\x00tb\x89",
        b"T" + len(pixels).to_bytes(4, "little") + pixels + b"tb",
        short(b"filenames") + memo(12) + b"]" + memo(13),
        in_thousands([short(name) + memo(14 + row) for row, name in enumerate(names)]) + b"u.",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(parts))


def write_folder(root: Path, parts: dict[str, int], *, classes: tuple[str, ...] = ("ant", "bee")) -> None:
    """Write `parts[name]` pictures a class into root/name/class; the part "" is the root itself."""
    row = 0
    for part, count in parts.items():
        for label, name in enumerate(classes):
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.fromarray(np.full((9, 12, 3), (row % 256, 40 * label, 9), np.uint8)).save(
                    folder / f"{number:02}.png"
                )
                row += 1


def write_arrays(path: Path, *, channels: int = 3, **more: np.ndarray) -> None:
    def layout(images: np.ndarray) -> np.ndarray:
        return images[:, 0] if channels == 1 else images.transpose(0, 2, 3, 1)

    arrays = {
        "train_images": layout(numbered(50, 8, channels)),
        "train_labels": labels_of(50, 4),
        "test_images": layout(numbered(12, 8, channels, 50)),
        "test_labels": labels_of(12, 4),
    }
    np.savez_compressed(path, **{**arrays, **more})


#: Writes the data of a task into a folder and returns the task's options.
MAKERS: dict[str, Callable[[Path], dict[str, object]]] = {}


def _maker(name: str) -> Callable[[Callable[[Path], dict[str, object]]], Callable[[Path], dict[str, object]]]:
    def add(function: Callable[[Path], dict[str, object]]) -> Callable[[Path], dict[str, object]]:
        MAKERS[name] = function
        return function

    return add


@_maker("digits")
def _digits(root: Path) -> dict[str, object]:
    return {}


@_maker("mnist")
def _mnist(root: Path) -> dict[str, object]:
    write_idx(root / "mnist")
    return {"root": str(root), "validation": 10}


@_maker("fashion_mnist")
def _fashion(root: Path) -> dict[str, object]:
    write_idx(root / "fashion-mnist")
    return {"root": str(root), "validation": 10}


@_maker("cifar10")
def _cifar10(root: Path) -> dict[str, object]:
    write_binary_10(root / "cifar-10-batches-bin")
    return {"root": str(root), "validation": 20}


@_maker("cifar100")
def _cifar100(root: Path) -> dict[str, object]:
    write_binary_100(root / "cifar-100-binary")
    return {"root": str(root), "validation": 100}


@_maker("arrays")
def _arrays(root: Path) -> dict[str, object]:
    root.mkdir(parents=True, exist_ok=True)
    write_arrays(root / "mine.npz")
    return {"root": str(root / "mine.npz")}


@_maker("image_folder")
def _image_folder(root: Path) -> dict[str, object]:
    write_folder(root, {"": 20})
    return {"root": str(root), "size": 8}
