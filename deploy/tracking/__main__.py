"""Push results that had to wait for MLflow, or pull a promoted model: `python -m deploy.tracking push|pull …`."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.tracking", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    push = commands.add_parser("push", help="push everything that a local store keeps for MLflow")
    push.add_argument("store", help="folder of the local store")
    push.add_argument("--uri", default="", help="push there instead of where it was meant to go")
    pull = commands.add_parser("pull", help="download a model and check every file")
    pull.add_argument("name", help="models:/NAME@ALIAS, models:/NAME/VERSION or models:/m-…")
    pull.add_argument("--to", required=True, help="link to make")
    pull.add_argument("--uri", default="", help="tracking URI; default: MLFLOW_TRACKING_URI")
    options = parser.parse_args(arguments)
    try:
        return _push(options.store, options.uri) if options.command == "push" else _pull(options)
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def _push(root: str, uri: str) -> int:
    from compress.store import LocalStore
    from deploy.mlflow_store import MlflowStore, push_pending
    from deploy.tracking.connection import default_uri

    if not Path(root).is_dir():
        raise ValueError(f"{root} is no folder: name the local store, which is STORE or WORKSPACE/store.")
    pushed = push_pending(MlflowStore(LocalStore(root), uri or default_uri(root)), uri=uri)
    print(f"pushed {len(pushed)}: {', '.join(pushed)}" if pushed else "nothing was pending")
    return 0


def _pull(options: argparse.Namespace) -> int:
    from deploy.pull import EXAMPLE, output_difference, pull

    folder = pull(options.name, options.to, uri=options.uri)
    print(f"{options.name} -> {folder}")
    if (folder / EXAMPLE).is_file():
        print(f"largest difference to the packaged outputs: {output_difference(folder):.2g}")
    return 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.exit(main())
