"""`python -m tests.containers.dag FOLDER NAME`: run through `kfp.local`'s DockerRunner, on arguments.json.

The process that `runs.py` starts: DOCKER_HOST and SECATEUR_IMAGE are read when kfp and the components are imported.
Every task is a container with the locks that a cluster's pods have: no root, no capability, a root that cannot be
written. Kubeflow's files and the shared workspace are mounted; so is a /tmp in memory.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

from kfp import dsl, local

from components.image import IMAGE
from pipelines.placement import LOCAL, MOUNT

#: User and group of the image.
USER = 1000
LOCKS: dict[str, Any] = {
    "user": f"{USER}:{USER}",
    "read_only": True,
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "tmpfs": {"/tmp": "rw,nosuid,nodev,size=2g,mode=1777"},
}


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def attempt(is_broken: bool) -> str:
    """Say who runs and what can be written, or fail."""
    import os
    from pathlib import Path

    if is_broken:
        raise RuntimeError("broken on purpose")
    written = []
    for folder in ("/", "/etc", "/opt/secateur/bin", "/usr/local/bin", "/tmp", "/workspace"):
        try:
            (Path(folder) / "probe").write_text("")
            written.append(folder)
        except OSError:
            continue
    return f"uid {os.getuid()} writes {' '.join(written)}"


@dsl.component(base_image=IMAGE, install_kfp_package=False)
def follow(before: str) -> str:
    """Return what came before; runs only if something did."""
    return f"after: {before}"


@dsl.pipeline(name="control")
def control(is_broken: bool) -> None:
    """Two tasks, the first of which can be told to fail."""
    follow(before=attempt(is_broken=is_broken).output)


def run(folder: Path, name: str) -> None:
    """Run `control`, or a pipeline of the house, in containers."""
    from docker.types import Mount

    from pipelines.compile import PIPELINES, pipeline_of

    os.umask(0)
    outputs, workspace = folder / "outputs", folder / "workspace"
    given = json.loads((folder / "arguments.json").read_text())
    variables = json.loads((folder / "environment.json").read_text())
    runner = local.DockerRunner(
        network_mode="host", environment=variables, mounts=[Mount(MOUNT, str(workspace), type="bind")], **LOCKS
    )
    local.init(runner, pipeline_root=str(outputs), enable_caching=False)
    pipeline = pipeline_of(name, LOCAL) if name in PIPELINES else control
    pipeline(**given)


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2])
