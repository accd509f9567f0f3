"""Manifest of a Kubeflow TrainJob that trains the large network on several GPUs or machines.

The fields are those of Kubeflow Trainer 2.2 and later (`runtimePatches`; before, that was `podTemplateOverrides`). The
runtime hands rank and address to torchrun by its PET_ variables. The entry appears in the store on the shared volume
under the name that the pipeline's task `train` computes as well: run after the job, that task finds it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from deploy.pods import (
    CONFIG_KEYS,
    USER,
    Manifest,
    check_image,
    check_quantity,
    config_env,
    container_security,
    secret_env,
)

#: Container and job of the torch runtimes that Trainer brings.
NODE = "node"
MANAGER = "secateur"
SHARED_MEMORY = "shm"
WORKSPACE = "workspace"
#: Keys of the secret that reading data may need.
SECRET_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
#: What the ConfigMap says of the pipelines' image, not of this job's.
OF_THE_PIPELINES = ("SECATEUR_IMAGE_DIGEST",)

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"SECRET|PASSWORD|TOKEN", re.IGNORECASE)
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is to be trained, and on what.

    Attributes:
        name: Of the job: lower-case letters, digits and dashes, a letter first, at most 63.
        image: This project's image, with a tag or digest.
        task: Name or JSON of the task.
        config: Options of the stage train.
        namespace: Of the job; empty for the current one.
        runtime: ClusterTrainingRuntime with torch's policy.
        num_nodes: Machines.
        processes_per_node: Processes a machine, one a GPU where there are GPUs.
        gpus_per_node: GPUs a machine; 0 trains on CPUs.
        resources: Requests and limits of a machine, without the GPUs.
        claim: Volume claim (read-write-many) with the pipeline's workspace.
        mount: Where the workspace appears.
        config_map: ConfigMap with the variables that the pipelines' tasks read (S3's address, the data's folder); it
            and its keys may be missing. Empty: none.
        secret: Secret with `SECRET_KEYS`, or empty.
        env: Further environment variables, which win over the ConfigMap's; no secrets, the manifest shows them.
        shared_memory: Size of /dev/shm, through which NCCL's processes talk.
    """

    name: str
    image: str
    task: str
    config: Mapping[str, Any] = field(default_factory=dict)
    namespace: str = ""
    runtime: str = "torch-distributed"
    num_nodes: int = 1
    processes_per_node: int = 1
    gpus_per_node: int = 0
    resources: Mapping[str, Mapping[str, str]] = field(
        default_factory=lambda: {
            "requests": {"cpu": "4", "memory": "8Gi"},
            "limits": {"cpu": "8", "memory": "16Gi"},
        }
    )
    claim: str = "secateur-workspace"
    mount: str = "/workspace"
    config_map: str = "secateur"
    secret: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    shared_memory: str = "2Gi"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name {self.name!r}: lower-case letters, digits and dashes, a letter first, at most 63.")
        check_image("image", self.image)
        check_quantity("shared_memory", self.shared_memory)
        if self.num_nodes < 1 or self.processes_per_node < 1 or self.gpus_per_node < 0:
            raise ValueError(
                f"num_nodes={self.num_nodes}, processes_per_node={self.processes_per_node}, "
                f"gpus_per_node={self.gpus_per_node}: at least 1 machine and process, 0 or more GPUs."
            )
        if self.gpus_per_node and self.processes_per_node != self.gpus_per_node:
            raise ValueError(
                f"{self.processes_per_node} processes for {self.gpus_per_node} GPUs of a machine: NCCL wants one "
                f"process a GPU, set both to the same number."
            )
        size, count = int(self.config.get("batch_size", 64)), self.num_nodes * self.processes_per_node
        if size % count:
            raise ValueError(
                f"batch_size={size} cannot be shared by {count} processes: choose a multiple of {count} (it counts "
                f"the inputs of all processes together)."
            )


def manifest(training: Training) -> Manifest:
    """Return the TrainJob."""
    metadata = {"name": training.name, **({"namespace": training.namespace} if training.namespace else {})}
    return {
        "apiVersion": "trainer.kubeflow.org/v1alpha1",
        "kind": "TrainJob",
        "metadata": metadata,
        "spec": {
            "runtimeRef": {
                "apiGroup": "trainer.kubeflow.org",
                "kind": "ClusterTrainingRuntime",
                "name": training.runtime,
            },
            "trainer": _trainer(training),
            "runtimePatches": [{"manager": MANAGER, "trainingRuntimeSpec": {"template": _template(training)}}],
        },
    }


def variables(words: Iterable[str]) -> dict[str, str]:
    """Return the variables of NAME=VALUE words.

    >>> variables(["AWS_ENDPOINT_URL=http://s3:9000/?a=b"])
    {'AWS_ENDPOINT_URL': 'http://s3:9000/?a=b'}

    Raises:
        ValueError: A word without a name or an equals sign, or one that names a secret.
    """
    pairs = [word.partition("=") for word in words]
    for name, equals, value in pairs:
        if not equals or not _VARIABLE.fullmatch(name):
            raise ValueError(f"env {name + equals + value!r}: write NAME=VALUE.")
        if name in SECRET_KEYS or _SECRET.search(name):
            raise ValueError(
                f"env {name} names a secret, which a manifest would show: put it into a Secret (--secret)."
            )
    return {name: value for name, _, value in pairs}


def command(training: Training) -> list[str]:
    """Return what every machine runs; torchrun reads how many processes and machines there are from PET_ variables."""
    options = {
        "--task": training.task,
        "--config": json.dumps(dict(training.config), sort_keys=True),
        "--store": f"{training.mount}/store",
    }
    return ["torchrun", "-m", "compress.cli", "run", "train", *(part for pair in options.items() for part in pair)]


def _trainer(training: Training) -> Manifest:
    amounts = {kind: dict(found) for kind, found in training.resources.items()}
    if training.gpus_per_node:
        for found in amounts.values():
            found["nvidia.com/gpu"] = str(training.gpus_per_node)
    plain = {"HOME": "/tmp", **training.env}
    env: list[Manifest] = [{"name": name, "value": value} for name, value in plain.items()]
    env += config_env(
        training.config_map, (key for key in CONFIG_KEYS if key not in plain and key not in OF_THE_PIPELINES)
    )
    env += secret_env(training.secret, SECRET_KEYS)
    return {
        "image": training.image,
        "command": command(training),
        "numNodes": training.num_nodes,
        "numProcPerNode": training.processes_per_node,
        "resourcesPerNode": amounts,
        "env": env,
    }


def _template(training: Training) -> Manifest:
    """Return the patch of the runtime's pods: volumes, and no more rights than training needs."""
    mounts = {WORKSPACE: training.mount, SHARED_MEMORY: "/dev/shm", "tmp": "/tmp"}
    container = {
        "name": NODE,
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in mounts.items()],
        "securityContext": container_security(is_root_read_only=True),
    }
    pod = {
        "securityContext": {"fsGroup": USER},
        "containers": [container],
        "volumes": [
            {"name": WORKSPACE, "persistentVolumeClaim": {"claimName": training.claim}},
            {"name": SHARED_MEMORY, "emptyDir": {"medium": "Memory", "sizeLimit": training.shared_memory}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    return {"spec": {"replicatedJobs": [{"name": NODE, "template": {"spec": {"template": {"spec": pod}}}}]}}
