"""scikit-learn's handwritten digits, embedded in the package: works offline, trains in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from compress.core.random import generator
from compress.core.task import TASKS, InputSpec, Task
from compress.data.augment import augmentation
from compress.data.digest import files_digest
from compress.data.pictures import Pictures, SplitRule, picture_task, stratified_order

#: See `digits.md` beside it for where this comes from.
FILE = Path(__file__).with_name("digits.npz")

NUM_TEST = 360
SMALLEST_SIZE = 8


@TASKS.register("digits")
def digits(*, size: int = 16, validation: int = 360, split_seed: int = 0, limit: int = 0) -> Task:
    """Handwritten digits 0 to 9, grey, 1,797 pictures that come with the package.

    Args:
        size: Height and width in pixels. The originals are 8 x 8 and are enlarged bilinearly.
        validation: Number of pictures held out of training.
        split_seed: Chooses them.
        limit: Train on at most so many pictures; 0 for all.

    Returns:
        Task of 1 x size x size inputs in splits of 1077, 360 and 360.
    """
    if size < SMALLEST_SIZE:
        raise ValueError(f"digits size={size}: the originals are 8 x 8; ask for 8 or more.")
    spec = InputSpec(shape=(1, size, size), mean=(0.305,), std=(0.319,), class_names=tuple("0123456789"))
    return picture_task(
        TASKS.bind("digits", size=size, validation=validation, split_seed=split_seed, limit=limit),
        spec=spec,
        rule=SplitRule(validation=validation, split_seed=split_seed, limit=limit),
        source_digest=files_digest({FILE.name: FILE}),
        load=lambda: _load(size),
        augment=augmentation(padding=max(1, size // 16), has_flip=False),
    )


def _load(size: int) -> Mapping[str, Pictures]:
    with np.load(FILE) as archive:
        small, labels = archive["images"], archive["labels"]
    images = enlarged(small, size)
    order = stratified_order(torch.from_numpy(labels.astype(np.int64)), generator(0, "digits", "test")).numpy()
    test, rest = np.sort(order[:NUM_TEST]), np.sort(order[NUM_TEST:])
    return {"train": Pictures(images[rest], labels[rest]), "test": Pictures(images[test], labels[test])}


def enlarged(images: np.ndarray, size: int) -> np.ndarray:
    """Return values 0..16 of shape (N, 8, 8) as uint8 pictures 0..255 of shape (N, 1, size, size).

    >>> enlarged(np.full((1, 8, 8), 16, np.uint8), 16).min()
    np.uint8(255)
    """
    x_BCHW = torch.from_numpy(images)[:, None].float()
    x_BCHW = functional.interpolate(x_BCHW, size=(size, size), mode="bilinear", align_corners=False)
    return (x_BCHW * 255 / 16).round().to(torch.uint8).numpy()
