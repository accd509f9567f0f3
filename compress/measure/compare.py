"""How much faster one stored model is than another, in every runtime that is installed."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np

from compress.core.stage import Entry
from compress.measure.runtimes import RUNTIMES, is_installed, paired_sessions

#: Shown for every run of the command line; others are measured by `evaluate`.
COMPARED = (("onnxruntime", 1), ("onnxruntime", 64), ("torch", 1))


def compare_entries(
    before: Entry, after: Entry, *, rounds: int = 40, pause_s: float = 0.0
) -> dict[str, dict[str, float]]:
    """Return the paired speed-up of `after` over `before`: above 1 means that it is faster.

    Args:
        before: Holds the model to compare with.
        after: Holds the model that should be faster.
        rounds: Interleaved samples of each.
        pause_s: Seconds of rest between two parts of a measurement.

    Returns:
        By "<runtime>, batch <n>": value, low and high of the ratio of latencies, one thread.
    """
    ratios = {}
    for runtime, batch in COMPARED:
        if not is_installed(runtime):
            continue
        x_BCHW = before.model.input.example(batch).numpy().astype(np.float32)
        with ExitStack() as stack:
            piece = RUNTIMES.bind(runtime)
            sessions = {
                name: stack.enter_context(piece(entry)) for name, entry in (("before", before), ("after", after))
            }
            times = paired_sessions(sessions, x_BCHW, rounds=rounds, pause_s=pause_s)
        ratios[f"{runtime}, batch {batch}"] = times.ratio("before", "after").as_json()
    return ratios
