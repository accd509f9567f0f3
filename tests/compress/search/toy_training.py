"""A toy network that has learnt its task, made in half a second and the same every time."""

from functools import cache

import torch

from compress.core.model import Model
from compress.core.random import generator
from tests.toys import toy_model, toy_task


@cache
def trained_toy(num_epochs: int = 6, seed: int = 0) -> Model:
    """Return the toy network after a few epochs. Do not change it."""
    task, model = toy_task(), toy_model(seed)
    optimizer = torch.optim.AdamW(model.module.parameters(), 1e-2)
    model.module.train()
    for epoch in range(num_epochs):
        for x_BCHW, y_B in task.batches("train", batch_size=32, shuffle=generator(seed, "toy training", epoch)):
            optimizer.zero_grad()
            task.loss(model.module(x_BCHW), y_B).backward()
            optimizer.step()
    model.module.eval()
    return model
