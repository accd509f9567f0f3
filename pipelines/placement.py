"""Where tasks run: what Kubeflow wants to know when a pipeline is compiled, and how it is put on a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kfp import kubernetes

from deploy.pods import CONFIG_KEYS, SECRET_KEYS, USER, check_quantity

#: Where the shared volume appears in every task.
MOUNT = "/workspace"
#: Tells a task which pipeline run it belongs to. The environment is no part of Kubeflow's cache key.
RUN_VARIABLE = "SECATEUR_PIPELINE_RUN"
#: Where the data claim appears, if there is one, and the variable that says so.
DATA_MOUNT, CACHE_VARIABLE = "/cache/data", "SECATEUR_CACHE"
#: Label of every task's pod, by which the chart's NetworkPolicy finds it.
LABEL = ("secateur/role", "task")


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Facts that the compiled pipeline holds as constants.

    Attributes:
        is_cluster: Whether to write Kubernetes settings at all; `kfp.local` knows none of them.
        is_cached: Whether Kubeflow may skip a stage that it ran before with the same values.
        num_retries: How often a failed task is tried again.
        backoff_s: Seconds before the first new try; doubles each time, up to ten minutes.
        parallelism: Budgets at the same time; 0 for all. Latency wants an idle machine: 1 on a laptop.
        shared_memory: Size of /dev/shm, which PyTorch's loader processes need.
        workspace_claim: Volume claim (read-write-many) that is mounted at /workspace.
        data_claim: Volume claim (read-write-many) for fetched data, mounted at `DATA_MOUNT`; empty: what the
            ConfigMap says, a folder of the workspace.
        user: User and group of every task, never root; 0 leaves them to the image and the cluster (OpenShift).
    """

    is_cluster: bool = True
    is_cached: bool = True
    num_retries: int = 2
    backoff_s: int = 30
    parallelism: int = 0
    shared_memory: str = "2Gi"
    workspace_claim: str = "secateur-workspace"
    data_claim: str = ""
    user: int = USER

    def __post_init__(self) -> None:
        check_quantity("shared_memory", self.shared_memory)


CLUSTER = Placement()
LOCAL = Placement(is_cluster=False, is_cached=False, num_retries=0, parallelism=1)


def place(task: Any, placement: Placement, cluster: Mapping[str, Any], *, is_cached: bool = False) -> Any:
    """Give a task its image, its volume, its environment, its retries and its caching; return it.

    Args:
        task: Task of a pipeline.
        placement: Constants of the compiled pipeline.
        cluster: Pipeline parameters: image, config_map (optional, with `CONFIG_KEYS`), secret (optional, with
            `SECRET_KEYS`).
        is_cached: Whether an earlier result for the same values will do.
    """
    task.set_caching_options(is_cached and placement.is_cached)
    if placement.num_retries:
        task.set_retry(placement.num_retries, f"{placement.backoff_s}s", 2.0, "600s")
    if placement.is_cluster:
        task.set_container_image(cluster["image"])
        _secure(task, placement)
        _mount(task, placement)
        kubernetes.use_field_path_as_env(task, RUN_VARIABLE, "metadata.labels['pipeline/runid']")
        config_map, secret = cluster["config_map"], cluster["secret"]
        names = {key: key for key in CONFIG_KEYS if not (key == CACHE_VARIABLE and placement.data_claim)}
        kubernetes.use_config_map_as_env(task, config_map, names, optional=True)
        kubernetes.use_secret_as_env(task, secret, {key: key for key in SECRET_KEYS}, optional=True)
    return task


def _secure(task: Any, placement: Placement) -> None:
    """Say who the task runs as; Kubeflow itself drops capabilities and forbids more privileges."""
    kubernetes.add_pod_label(task, *LABEL)
    if placement.user:
        kubernetes.set_security_context(
            task, run_as_user=placement.user, run_as_group=placement.user, run_as_non_root=True
        )


def _mount(task: Any, placement: Placement) -> None:
    kubernetes.mount_pvc(task, placement.workspace_claim, MOUNT)
    if placement.data_claim:
        kubernetes.mount_pvc(task, placement.data_claim, DATA_MOUNT)
        task.set_env_variable(CACHE_VARIABLE, DATA_MOUNT)


def place_heavy(task: Any, placement: Placement, cluster: Mapping[str, Any]) -> Any:
    """Give a stage what `place` gives, the cache, and the hardware that the run asks for; return it.

    Args:
        task: Task of a pipeline.
        placement: Constants of the compiled pipeline.
        cluster: Pipeline parameters: what `place` wants, gpu_type, gpu_limit, node_selector, tolerations.
    """
    place(task, placement, cluster, is_cached=True)
    if placement.is_cluster:
        task.set_accelerator_type(cluster["gpu_type"]).set_accelerator_limit(cluster["gpu_limit"])
        kubernetes.add_node_selector_json(task, cluster["node_selector"])
        kubernetes.add_toleration_json(task, cluster["tolerations"])
        kubernetes.empty_dir_mount(task, "shm", "/dev/shm", "Memory", placement.shared_memory)
    return task
