"""MNIST and Fashion-MNIST from their idx files, packed with gzip or not."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from compress.core.registry import Piece
from compress.core.task import TASKS, InputSpec, Task
from compress.data.augment import augmentation
from compress.data.cache import decoded
from compress.data.digest import files_digest
from compress.data.pictures import Pictures, SplitRule, picture_task
from compress.data.source import Found, Layout, locate

PARTS = {"train": "train", "test": "t10k"}
SIDE = 28
UBYTE = 8

FASHION_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)


@TASKS.register("mnist", paper="LeCun 1998")
def mnist(*, root: str = "", validation: int = 5000, split_seed: int = 0, limit: int = 0) -> Task:
    """Handwritten digits 0 to 9, grey 28 x 28, 70,000 pictures.

    Args:
        root: Folder or address that holds `mnist/`, `MNIST/raw/` (torchvision's) or the four idx files
            themselves; "" searches SECATEUR_DATA, ./data, ../shared/data.
        validation: Number of pictures held out of the 60,000 for training.
        split_seed: Chooses them.
        limit: Train on at most so many pictures; 0 for all.

    Returns:
        Task of 1 x 28 x 28 inputs in splits of 55,000, 5,000 and 10,000. Training pictures are shifted
        by at most 2 pixels.
    """
    spec = InputSpec(shape=(1, SIDE, SIDE), mean=(0.1307,), std=(0.3081,), class_names=tuple("0123456789"))
    piece = TASKS.bind("mnist", root=root, validation=validation, split_seed=split_seed, limit=limit)
    rule = SplitRule(validation=validation, split_seed=split_seed, limit=limit)
    found = _locate("mnist", root, ("mnist", "MNIST/raw"))
    return _task(piece, spec, rule, found, has_flip=False)


@TASKS.register("fashion_mnist", paper="Xiao 2017")
def fashion_mnist(*, root: str = "", validation: int = 5000, split_seed: int = 0, limit: int = 0) -> Task:
    """Articles of clothing in 10 classes, grey 28 x 28, 70,000 pictures.

    Args:
        root: Folder or address that holds `fashion-mnist/`, `FashionMNIST/raw/` (torchvision's) or the four
            idx files themselves; "" searches SECATEUR_DATA, ./data, ../shared/data.
        validation: Number of pictures held out of the 60,000 for training.
        split_seed: Chooses them.
        limit: Train on at most so many pictures; 0 for all.

    Returns:
        Task of 1 x 28 x 28 inputs in splits of 55,000, 5,000 and 10,000. Training pictures are mirrored and
        shifted by at most 2 pixels.
    """
    spec = InputSpec(shape=(1, SIDE, SIDE), mean=(0.2860,), std=(0.3530,), class_names=FASHION_NAMES)
    piece = TASKS.bind("fashion_mnist", root=root, validation=validation, split_seed=split_seed, limit=limit)
    rule = SplitRule(validation=validation, split_seed=split_seed, limit=limit)
    found = _locate("fashion_mnist", root, ("fashion-mnist", "FashionMNIST/raw"))
    return _task(piece, spec, rule, found, has_flip=True)


def idx_array(path: Path) -> np.ndarray:
    """Return the uint8 array of an idx file.

    Raises:
        ValueError: The file is damaged or is something else.
    """
    packed = path.read_bytes()
    try:
        content = gzip.decompress(packed) if packed[:2] == b"\x1f\x8b" else packed
    except (EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}): fetch it again.") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != UBYTE:
        raise ValueError(f"{path} is not an idx file of bytes: fetch it again.")
    num_axes = content[3]
    start = 4 + 4 * num_axes
    shape = tuple(int.from_bytes(content[4 + 4 * axis : 8 + 4 * axis], "big") for axis in range(num_axes))
    if len(content) != start + int(np.prod(shape)):
        raise ValueError(f"{path} announces {shape} but holds {len(content) - start} bytes: fetch it again.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _locate(name: str, root: str, folders: tuple[str, str]) -> Found:
    names = {
        f"{part}_{what}": f"{prefix}-{what}-idx{axes}-ubyte"
        for part, prefix in PARTS.items()
        for what, axes in (("images", 3), ("labels", 1))
    }
    packed = {role: f"{file}.gz" for role, file in names.items()}
    layouts = [Layout(folder=folder, files=packed) for folder in folders]
    layouts.append(Layout(folder=folders[1], files=names))
    example = f"{folders[0]}/{packed['train_images']}"
    return locate(
        name,
        root,
        layouts,
        how_to_get=f"Put the four idx files there ({example} and its three companions; torchvision's download of the "
        f"same data will do), or point SECATEUR_DATA or root= at the folder that holds them.",
    )


def _task(piece: Piece[Any], spec: InputSpec, rule: SplitRule, found: Found, *, has_flip: bool) -> Task:
    digest = files_digest({path.name: path for path in found.files.values()})

    def arrays() -> Mapping[str, np.ndarray]:
        return {role: idx_array(path) for role, path in found.files.items()}

    def load() -> Mapping[str, Pictures]:
        read = decoded(piece.name, digest, arrays, names=tuple(found.files))
        for part in PARTS:
            if read[f"{part}_images"].shape[1:] != (SIDE, SIDE):
                raise ValueError(f"{found.files[f'{part}_images']}: pictures are not 28 x 28; fetch the file again.")
        return {part: Pictures(read[f"{part}_images"][:, None], read[f"{part}_labels"]) for part in PARTS}

    augment = augmentation(padding=2, has_flip=has_flip)
    return picture_task(piece, spec=spec, rule=rule, source_digest=digest, load=load, augment=augment)
