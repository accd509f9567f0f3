"""ONNX from a cascade's router, so that a server decides with the library's own formula, whichever piece it is."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.export.onnx_from_model import OPSET, ParityError

if TYPE_CHECKING:
    import torch

    from compress.cascade.inference import Router

LOGITS, SCALED, IS_DEFERRED = "logits", "scaled", "is_deferred"
#: Inputs on which the file is compared with the library before it is believed.
PROBES = 512


def router_onnx(router: Router, num_classes: int, path: Path) -> None:
    """Write what a router makes of the small network's logits to `path`, and compare it with the library.

    The file has one input "logits" (batch, classes) and two outputs: "scaled" (batch, classes), the logits divided by
    the small network's temperature, and "is_deferred" (batch, 1), true where the large network is to answer.

    Args:
        router: Confidence, threshold and temperatures.
        num_classes: Number of logits.
        path: Where the file goes.

    Raises:
        ParityError: ONNX Runtime decides otherwise than the library.
    """
    import torch
    from torch import Tensor, nn

    class Decision(nn.Module):
        """The first half of `cascade_logits`."""

        def forward(self, logits_BC: Tensor) -> tuple[Tensor, Tensor]:
            scaled_BC = logits_BC / router.temperature[0]
            return scaled_BC, (router.confidence(scaled_BC) > router.threshold).unsqueeze(1)

    decision = Decision().eval()
    probe_BC = _probes(num_classes)
    names = [LOGITS, SCALED, IS_DEFERRED]
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            decision,
            (probe_BC[:2],),
            str(path),
            dynamo=False,
            opset_version=OPSET,
            input_names=names[:1],
            output_names=names[1:],
            dynamic_axes={name: {0: "batch"} for name in names},
        )
        _compare(path, probe_BC, decision(probe_BC))


def _probes(num_classes: int) -> torch.Tensor:
    """Return logits from hardly to very sure."""
    import torch

    from compress.core.random import generator

    draw = generator(0, "router probes")
    logits_BC = torch.randn(PROBES, num_classes, generator=draw)
    return logits_BC * torch.logspace(-2, 1.5, PROBES)[:, None]


def _compare(path: Path, probe_BC: torch.Tensor, expected: tuple[torch.Tensor, torch.Tensor]) -> None:
    import numpy as np

    from deploy.runtime.onnxruntime import session_from_bytes

    scaled_BC, is_deferred_B1 = session_from_bytes(path.read_bytes()).run(None, {LOGITS: probe_BC.numpy()})
    differing = int((is_deferred_B1 != expected[1].numpy()).sum())
    worst = float(np.abs(scaled_BC - expected[0].numpy()).max())
    if differing or worst > 1e-4:
        raise ParityError(
            f"{path} decides otherwise than the library on {differing} of {len(probe_BC)} inputs (logits differ by "
            f"{worst:.3g}): write the confidence with plain operations, or choose another one."
        )
