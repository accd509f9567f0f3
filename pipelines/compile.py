"""`python -m pipelines.compile [--check]`: write the pipelines' intermediate representations, or compare them."""

from __future__ import annotations

import argparse
import difflib
import importlib
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipelines.placement import Placement

FOLDER = Path(__file__).parent
OUTPUT = FOLDER / "compress.yaml"
#: Modules of this package that build a pipeline; each has a committed representation beside it.
PIPELINES = ("compress", "nightly")


def _module(name: str) -> Any:
    if name not in PIPELINES:
        near = difflib.get_close_matches(name, PIPELINES, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"There are {', '.join(PIPELINES)}."
        raise ValueError(f"no pipeline {name!r}. {hint}")
    return importlib.import_module(f"pipelines.{name}")


def pipeline_of(name: str, placement: Placement | None = None) -> Any:
    """Return a pipeline, compiled for a placement; for a cluster when none is given.

    Args:
        name: One of `PIPELINES`.
        placement: Constants of the compiled pipeline.
    """
    module = _module(name)
    return module.pipeline if placement is None else module.build(placement)


def title(name: str) -> str:
    """Return what a pipeline is called in Kubeflow.

    >>> title("compress")
    'secateur-compress'
    """
    return str(_module(name).NAME)


def committed(name: str) -> Path:
    """Return the file of a pipeline's committed representation."""
    return FOLDER / f"{name}.yaml"


def representation(name: str = "compress", placement: Placement | None = None) -> str:
    """Return the intermediate representation of a pipeline, as YAML.

    Args:
        name: One of `PIPELINES`.
        placement: Constants of the compiled pipeline; None: those that are committed.
    """
    from kfp import compiler

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.yaml"
        compiler.Compiler().compile(pipeline_of(name, placement), str(path))
        return path.read_text()


def normalized(text: str) -> str:
    """Return a representation without what does not change what it does: the SDK's version.

    >>> normalized("sdkVersion: kfp-2.17.0")
    'sdkVersion: kfp'
    """
    return re.sub(r"(sdkVersion: kfp)-\S+", r"\1", text)


def drift(path: Path, name: str = "compress") -> str:
    """Return how the committed representation differs from the pipeline's, as a unified diff; empty when equal."""
    known = path.read_text() if path.is_file() else ""
    before, now = (normalized(text).splitlines(keepends=True) for text in (known, representation(name)))
    return "".join(difflib.unified_diff(before, now, fromfile=str(path), tofile="compiled now", n=2))


def main(arguments: list[str] | None = None) -> int:
    """Write or compare; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.compile", description=__doc__)
    parser.add_argument("--output", type=Path, help="file to write or to compare with; for a single pipeline")
    parser.add_argument("--pipeline", default="", help="one of them; default: all")
    parser.add_argument("--check", action="store_true", help="compare, and fail when they differ")
    options = parser.parse_args(arguments)
    chosen = [options.pipeline] if options.pipeline else list(PIPELINES[:1] if options.output else PIPELINES)
    status = 0
    for name in chosen:
        path = options.output or committed(name)
        if not options.check:
            path.write_text(representation(name))
        elif difference := drift(path, name):
            print(difference, file=sys.stderr)
            print(f"{path} is not what the pipeline compiles to: run `make ir` and commit it.", file=sys.stderr)
            status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
