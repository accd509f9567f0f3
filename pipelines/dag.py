"""`python -m pipelines.dag FOLDER [NAME]`: run a pipeline through `kfp.local` on FOLDER/arguments.json.

The process that `pipelines.local` starts and listens to. Kubeflow's own cache stays off: it would
answer for entries that were deleted since, while the store finds finished work by itself.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path


def run(folder: Path, name: str = "compress") -> None:
    """Run a pipeline; Kubeflow's files go under `folder`.

    Raises:
        RuntimeError: A task failed; its output has been printed.
    """
    from kfp import local

    from pipelines.compile import pipeline_of
    from pipelines.placement import LOCAL

    warnings.filterwarnings("ignore", message=".*have no effect in the current local runner.*")
    local.init(
        local.SubprocessRunner(use_venv=False),
        pipeline_root=str(folder / "outputs"),
        workspace_root=str(folder / "volume"),
        enable_caching=False,
    )
    pipeline_of(name, LOCAL)(**json.loads((folder / "arguments.json").read_text()))


def main() -> int:
    """Run; return the exit status."""
    try:
        run(Path(sys.argv[1]), *sys.argv[2:3])
    except RuntimeError as error:
        print(error, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
