"""A distillation loss with its teacher, in the shape that `fit` takes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from compress.core.model import Model
from compress.core.random import seeded
from compress.core.registry import Piece
from compress.distill.features import caught, last_of_each_size, shapes_at
from compress.distill.losses.family import Taps
from compress.train.scoring import device_of


class Distiller(nn.Module):
    """(student, x_BCHW, y_B) -> scalar, against a teacher that stays as it is.

    For a loss whose card needs "features" it also holds one 1x1 convolution a feature map, which
    brings the student's channels to the teacher's. They are trained with the student by `fit`,
    because this loss is an nn.Module, and are not part of the student.

    Args:
        loss: A piece of LOSSES.
        student: The model that will be trained; read for its shapes.
        teacher: The model that is learned from; copied, in evaluation mode, without gradients.
        seed: Of the first weights of the 1x1 convolutions.
    """

    def __init__(self, loss: Piece[Any], student: Model, teacher: Model, *, seed: int) -> None:
        super().__init__()
        if teacher.input.shape != student.input.shape or teacher.input.num_classes != student.input.num_classes:
            raise ValueError(
                f"the teacher takes {teacher.input.shape} and knows {teacher.input.num_classes} classes, the student "
                f"{student.input.shape} and {student.input.num_classes}: choose a teacher made for the same task."
            )
        self.loss = loss
        self._teacher = (teacher.copy().module.eval().requires_grad_(False),)
        self.regressors = nn.ModuleList()
        self.student_paths: tuple[str, ...] = ()
        self.teacher_paths: tuple[str, ...] = ()
        if "features" in loss.card.needs:
            with seeded(seed, "regressors"):
                self._match(student)

    @property
    def teacher(self) -> nn.Module:
        """The teacher; not a submodule, so that it is neither trained nor stored with the regressors."""
        return self._teacher[0]

    def _match(self, student: Model) -> None:
        x_BCHW = student.input.example()
        mine, theirs = (last_of_each_size(part, x_BCHW) for part in (student.module, self.teacher))
        sizes = [size for size in mine if size in theirs]
        if not sizes:
            raise ValueError(
                f"loss {self.loss.name!r} finds no feature maps of one size in both networks (student {list(mine)}, "
                f"teacher {list(theirs)}): use loss 'logits'."
            )
        self.student_paths = tuple(mine[size] for size in sizes)
        self.teacher_paths = tuple(theirs[size] for size in sizes)
        narrow = shapes_at(student.module, self.student_paths, x_BCHW)
        wide = shapes_at(self.teacher, self.teacher_paths, x_BCHW)
        for path, teacher_path in zip(self.student_paths, self.teacher_paths, strict=True):
            mine_D, theirs_D = narrow[path][1], wide[teacher_path][1]
            if not self.loss.card.extra.get("has_same_channels"):
                self.regressors.append(nn.Conv2d(mine_D, theirs_D, 1))
            elif mine_D == theirs_D:
                self.regressors.append(nn.Identity())
            else:
                raise ValueError(
                    f"loss {self.loss.name!r} compares channel by channel, but {path} has {mine_D} channels and the "
                    f"teacher's {teacher_path} {theirs_D}: use loss 'hint', or cut inner widths and blocks only."
                )

    def forward(self, module: nn.Module, x_BCHW: Tensor, y_B: Tensor) -> Tensor:
        """Return the loss of `module` on one batch."""
        if device_of(self.teacher) != x_BCHW.device:
            self.teacher.to(x_BCHW.device)
        with torch.no_grad(), caught(self.teacher, self.teacher_paths) as theirs:
            teacher_BC = self.teacher(x_BCHW).float()
        with caught(module, self.student_paths) as mine:
            student_BC = module(x_BCHW).float()
        pairs = zip(self.regressors, self.student_paths, strict=True)
        student = Taps(student_BC, tuple(regressor(mine[path]).float() for regressor, path in pairs))
        teacher = Taps(teacher_BC, tuple(theirs[path].float() for path in self.teacher_paths))
        value: Tensor = self.loss(student, teacher, y_B)
        return value
