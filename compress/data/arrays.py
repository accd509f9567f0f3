"""A user's own pictures in one .npz file."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from compress.core.task import TASKS, InputSpec, Task
from compress.data.augment import augmentation
from compress.data.digest import files_digest
from compress.data.pictures import Pictures, SplitRule, picture_task
from compress.data.source import required_root

PARTS = ("train", "test")
NEEDED = tuple(f"{part}_{what}" for part in PARTS for what in ("images", "labels"))


@TASKS.register("arrays")
def arrays(
    *,
    root: str = "",
    validation: int = 0,
    split_seed: int = 0,
    limit: int = 0,
    mean: float = 0.5,
    std: float = 0.25,
    padding: int = 2,
    flip: bool = False,
) -> Task:
    """Pictures from one .npz file with train_images, train_labels, test_images and test_labels.

    Args:
        root: The file or its address. Images are uint8 (N, H, W) or (N, H, W, C), labels are integers from 0.
            An array of strings `class_names` is optional; without it the classes are called by their numbers.
        validation: Number of pictures held out of training; 0 for a tenth.
        split_seed: Chooses them.
        limit: Train on at most so many pictures; 0 for all.
        mean: Of pictures scaled to 0..1, the same for every channel.
        std: Likewise.
        padding: Training pictures are shifted by at most so many pixels.
        flip: Whether training pictures are mirrored left and right.

    Returns:
        Task of C x H x W inputs.
    """
    path = required_root("arrays", root, "pictures.npz")
    shape, class_names = _described(path)
    spec = InputSpec(shape=shape, mean=(mean,) * shape[0], std=(std,) * shape[0], class_names=class_names)
    options = {"root": root, "validation": validation, "split_seed": split_seed, "limit": limit}
    return picture_task(
        TASKS.bind("arrays", **options, mean=mean, std=std, padding=padding, flip=flip),
        spec=spec,
        rule=SplitRule(validation=validation, split_seed=split_seed, limit=limit),
        source_digest=files_digest({"arrays": path}),
        load=lambda: _load(path),
        augment=augmentation(padding=padding, has_flip=flip),
    )


def _described(path: Path) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    """Return (channels, height, width) and the class names; reads headers and labels, no picture."""
    headers = _headers(path)
    if missing := [name for name in NEEDED if name not in headers]:
        raise ValueError(f"{path} lacks {', '.join(missing)}; it holds {', '.join(sorted(headers)) or 'nothing'}.")
    for part in PARTS:
        shape, dtype = headers[f"{part}_images"]
        if dtype != np.uint8 or len(shape) not in (3, 4):
            raise ValueError(f"{path}: {part}_images is {dtype} {shape}; store uint8 as (N, H, W) or (N, H, W, C).")
        if headers[f"{part}_labels"][1].kind not in "iu":
            raise ValueError(f"{path}: {part}_labels is {headers[f'{part}_labels'][1]}; store integers from 0.")
    if "class_names" in headers and headers["class_names"][1].kind != "U":
        raise ValueError(f"{path}: class_names is {headers['class_names'][1]}; store an array of strings.")
    height, width, *channels = headers["train_images"][0][1:]
    if headers["test_images"][0][1:] != (height, width, *channels):
        raise ValueError(f"{path}: test pictures have another shape than those for training; store one shape.")
    with np.load(path, allow_pickle=False) as archive:
        if "class_names" in headers:
            names = tuple(str(name) for name in archive["class_names"])
        else:
            names = tuple(str(label) for label in range(int(archive["train_labels"].max(initial=0)) + 1))
    return (channels[0] if channels else 1, height, width), names


def _headers(path: Path) -> dict[str, tuple[tuple[int, ...], np.dtype[np.generic]]]:
    """Return shape and type of every array of an .npz file without reading the arrays."""
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as file:
                    is_old = np.lib.format.read_magic(file) == (1, 0)
                    read = np.lib.format.read_array_header_1_0 if is_old else np.lib.format.read_array_header_2_0
                    shape, _, dtype = read(file)
                found[name.removesuffix(".npy")] = (shape, dtype)
    except (OSError, zipfile.BadZipFile, ValueError) as error:
        raise ValueError(f"{path} is not an .npz file of arrays ({error}): write it with numpy.savez.") from error
    return found


def _load(path: Path) -> Mapping[str, Pictures]:
    with np.load(path, allow_pickle=False) as archive:
        return {part: Pictures(_channels_first(archive[f"{part}_images"]), archive[f"{part}_labels"]) for part in PARTS}


def _channels_first(images: np.ndarray) -> np.ndarray:
    """Return (N, C, H, W) from (N, H, W) or (N, H, W, C)."""
    return images[:, None] if images.ndim == 3 else np.ascontiguousarray(images.transpose(0, 3, 1, 2))
