"""Paired, interleaved timing of two artifacts: `python -m deploy.latency A.onnx B.onnx`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from compress.core.random import derived_seed
from compress.measure.paired import PairedLatency
from compress.measure.runtimes import Session, paired_sessions


class FileSession(Session, Protocol):
    """A session that knows the shape of its input."""

    input_shape: tuple[int, ...]


def open_artifact(path: Path, *, num_threads: int = 1) -> FileSession:
    """Return a session over a file: ONNX Runtime for .onnx, TensorRT for .plan and .engine, AOTInductor for .pt2."""
    known: dict[str, Callable[[], FileSession]] = {
        ".onnx": lambda: _onnx(path, num_threads),
        ".plan": lambda: _engine(path),
        ".engine": lambda: _engine(path),
        ".pt2": lambda: _compiled(path),
    }
    if path.suffix not in known:
        raise ValueError(
            f"{path.name}: no runtime for {path.suffix or 'a file without ending'}; use {', '.join(known)}."
        )
    return known[path.suffix]()


def compare(
    a: Path, b: Path, *, batch: int = 1, num_threads: int = 1, rounds: int = 60, warmup: int = 10, seed: int = 0
) -> PairedLatency:
    """Time two files in turns on the same random input.

    Args:
        a: First file, named "a" in the result.
        b: Second file, named "b"; `.ratio("a", "b")` above 1 says that it is the faster one.
        batch: Inputs in one call.
        num_threads: Threads inside one operator.
        rounds: Samples of each.
        warmup: Calls of each that are not timed.
        seed: Seeds the input, the order and the bootstrap.
    """
    sessions = {"a": open_artifact(a, num_threads=num_threads), "b": open_artifact(b, num_threads=num_threads)}
    shapes = {name: session.input_shape for name, session in sessions.items()}
    if shapes["a"] != shapes["b"]:
        raise ValueError(f"{a.name} takes {shapes['a']} inputs and {b.name} {shapes['b']}: compare files of one task.")
    draw = np.random.default_rng(derived_seed(seed, "latency", batch))
    x_BCHW = draw.standard_normal((batch, *shapes["a"])).astype(np.float32)
    return paired_sessions(sessions, x_BCHW, rounds=rounds, warmup=warmup, seed=seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table of two files' latencies; return the exit code."""
    from rich.console import Console
    from rich.table import Table

    options = _parser().parse_args(arguments)
    table = Table("batch", f"A {options.a.name}\nms", f"B {options.b.name}\nms", "A / B", "95 % interval", "verdict")
    try:
        for batch in options.batch or [1, 32]:
            found = compare(options.a, options.b, batch=batch, num_threads=options.threads, rounds=options.rounds)
            ratio, median = found.ratio("a", "b"), found.median_ms
            verdict = "B is faster" if ratio.low > 1 else "A is faster" if ratio.high < 1 else "no difference shown"
            interval = f"{ratio.low:.3f} to {ratio.high:.3f}"
            table.add_row(
                str(batch), f"{median['a']:.3f}", f"{median['b']:.3f}", f"{ratio.value:.3f}", interval, verdict
            )
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    Console().print(table)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m deploy.latency", description=__doc__)
    parser.add_argument("a", type=Path, help="first artifact (.onnx, .plan, .pt2)")
    parser.add_argument("b", type=Path, help="second artifact")
    parser.add_argument("--batch", type=int, action="append", help="inputs in one call; may be repeated (1 and 32)")
    parser.add_argument("--threads", type=int, default=1, help="threads inside one operator")
    parser.add_argument("--rounds", type=int, default=60, help="samples of each")
    return parser


def _onnx(path: Path, num_threads: int) -> FileSession:
    from deploy.runtime.onnxruntime import OnnxSession

    return OnnxSession(path, num_threads=num_threads)


def _engine(path: Path) -> FileSession:
    from deploy.runtime.tensorrt import EngineSession

    return EngineSession(path)


def _compiled(path: Path) -> FileSession:
    """Open machine code, which must lie in a pulled package or a stored entry whose files are all as recorded."""
    from compress.core.layout import RECORD
    from deploy.description import PACKAGE
    from deploy.pull import check_package
    from deploy.runtime.aotinductor import AotSession

    path = path.resolve()
    homes = [folder for folder in path.parents if (folder / PACKAGE).is_file() or (folder / RECORD).is_file()]
    if not homes:
        raise ValueError(f"{path} is machine code of unknown origin: name one in a pulled package or a stored entry.")
    check_package(homes[0])
    return AotSession(path)


if __name__ == "__main__":
    sys.exit(main())
