"""`python -m pipelines.compile [--check]`: write the pipeline's intermediate representation, or compare it."""

from __future__ import annotations

import argparse
import difflib
import re
import sys
import tempfile
from pathlib import Path

OUTPUT = Path(__file__).with_name("compress.yaml")


def representation() -> str:
    """Return the intermediate representation of the pipeline for a cluster, as YAML."""
    from kfp import compiler

    from pipelines.compress import pipeline

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "compress.yaml"
        compiler.Compiler().compile(pipeline, str(path))
        return path.read_text()


def normalized(text: str) -> str:
    """Return a representation without what does not change what it does: the SDK's version.

    >>> normalized("sdkVersion: kfp-2.17.0")
    'sdkVersion: kfp'
    """
    return re.sub(r"(sdkVersion: kfp)-\S+", r"\1", text)


def drift(path: Path) -> str:
    """Return how the committed representation differs from the pipeline's, as a unified diff; empty when equal."""
    committed = path.read_text() if path.is_file() else ""
    before, now = (normalized(text).splitlines(keepends=True) for text in (committed, representation()))
    return "".join(difflib.unified_diff(before, now, fromfile=str(path), tofile="compiled now", n=2))


def main(arguments: list[str] | None = None) -> int:
    """Write or compare; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m pipelines.compile", description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="file to write or to compare with")
    parser.add_argument("--check", action="store_true", help="compare, and fail when they differ")
    options = parser.parse_args(arguments)
    if not options.check:
        options.output.write_text(representation())
        return 0
    if difference := drift(options.output):
        print(difference, file=sys.stderr)
        print(f"{options.output} is not what the pipeline compiles to: run `make ir` and commit it.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
