"""Try many networks, one process each, and write the table; what was tried before is not tried again."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from compress.core.registry import UnknownName
from deploy.coverage.networks import SETS, networks
from deploy.coverage.steps import FACTS, STEPS
from deploy.coverage.table import is_passed, table

PACKAGES = ("torch", "torchvision", "timm", "onnxruntime")
#: Packages of ours on which a result depends.
TRIED_CODE = ("compress.graph", "deploy.coverage")


def tried(builder: str, pixels: int, limit_s: float) -> dict[str, Any]:
    """Return the facts about one network; a process of its own for what decides, another for what replays.

    Args:
        builder: Name of a builder, "torchvision:resnet18".
        pixels: Side of an input.
        limit_s: Seconds after which it is given up.
    """
    started = time.monotonic()
    facts: dict[str, Any] = {"passed": []}
    with tempfile.TemporaryDirectory(prefix="secateur-") as name:
        for part in (["cut", name, builder, str(pixels)], ["check", name]):
            left = limit_s - (time.monotonic() - started)
            if left <= 0:
                facts["reason"] = f"not done after {limit_s:.0f} s"
                break
            ended = _run(part, left)
            path = Path(name) / FACTS
            facts = json.loads(path.read_text()) if path.is_file() else facts
            if ended != 0:
                facts.setdefault(
                    "reason", f"not done after {limit_s:.0f} s" if ended is None else f"ended with {ended}"
                )
                break
    seconds = round(time.monotonic() - started)
    return {"builder": builder, "pixels": pixels, **facts, "seconds": seconds, "made_with": made_with()}


@cache
def made_with() -> dict[str, str]:
    """Return the versions of the packages, and as "code" 12 digits of what is tried here."""
    code = hashlib.sha256()
    for package in TRIED_CODE:
        for path in sorted(Path(str(import_module(package).__file__)).parent.glob("*.py")):
            code.update(path.read_bytes())
    return {**{name: metadata.version(name) for name in PACKAGES}, "code": code.hexdigest()[:12]}


def _run(args: Sequence[str], limit_s: float) -> int | None:
    """Return the exit status of one part, None when it took too long."""
    threads = {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "deploy.coverage.steps", *args]
    try:
        done = subprocess.run(command, timeout=limit_s, env={**os.environ, **threads}, capture_output=True, check=False)
    except subprocess.TimeoutExpired:
        return None
    return done.returncode


def main(argv: Sequence[str] | None = None) -> int:
    """Try the networks of the sets that are named and write the table."""
    parser = argparse.ArgumentParser(prog="python -m deploy.coverage", description=__doc__)
    parser.add_argument("--set", action="append", choices=SETS, help="networks to try; all sets when not given")
    parser.add_argument("--only", action="append", default=[], help="names of networks to try, of those")
    parser.add_argument("--out", type=Path, default=Path("docs/coverage.md"), help="the table; facts go beside it")
    parser.add_argument("--limit-s", type=float, default=1800.0, help="seconds for one network")
    parser.add_argument("--again", action="store_true", help="try those again that failed before")
    parser.add_argument("--stale", action="store_true", help="try those again that were made with other versions")
    options = parser.parse_args(argv)
    facts_path = options.out.with_suffix(".jsonl")
    known = _known(facts_path)
    wanted = [pair for name in options.set or SETS for pair in networks(name)]
    for name in options.only:
        if name not in (names := {builder.partition(":")[2] for builder, _ in wanted}):
            parser.error(str(UnknownName.among("network", name, names)))
    wanted = [pair for pair in wanted if not options.only or pair[0].partition(":")[2] in options.only]
    waiting = [pair for pair in wanted if _is_due(known.get(pair[0]), again=options.again, stale=options.stale)]
    started = time.monotonic()
    for position, (builder, pixels) in enumerate(waiting):
        row = known[builder] = tried(builder, pixels, options.limit_s)
        _write(facts_path, options.out, known)
        spent = time.monotonic() - started
        left = spent / (position + 1) * (len(waiting) - position - 1)
        state = f"part {row['part']}" if is_passed(row) else f"{len(row['passed'])}/{len(STEPS)}: {row.get('reason')}"
        print(
            f"[{position + 1}/{len(waiting)}] {builder}: {state}, {row['seconds']} s; ~{left / 60:.0f} min left",
            flush=True,
        )
    _write(facts_path, options.out, known)
    failed = [builder for builder, _ in wanted if not is_passed(known[builder])]
    print(f"{len(wanted) - len(failed)} of {len(wanted)} pass every step. {options.out}")
    return 0


def _is_due(row: dict[str, Any] | None, *, again: bool, stale: bool) -> bool:
    if row is None:
        return True
    return (again and not is_passed(row)) or (stale and row["made_with"] != made_with())


def _known(path: Path) -> dict[str, dict[str, Any]]:
    lines = path.read_text().splitlines() if path.is_file() else []
    return {row["builder"]: row for row in map(json.loads, lines)}


def _write(facts_path: Path, out: Path, known: dict[str, dict[str, Any]]) -> None:
    """Write facts and table, each by one rename, in the order of the sets."""
    order = [builder for name in SETS for builder, _ in networks(name) if builder in known]
    rows = [known[builder] for builder in order]
    out.parent.mkdir(parents=True, exist_ok=True)
    for path, text in (
        (facts_path, "".join(f"{json.dumps(row, sort_keys=True)}\n" for row in rows)),
        (out, table(rows, made_with())),
    ):
        new = path.with_suffix(f"{path.suffix}.new")
        new.write_text(text)
        new.replace(path)


if __name__ == "__main__":
    sys.exit(main())
