"""What all Kubernetes manifests of this project say alike: pinned images, few rights, variables that may be missing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

Manifest = dict[str, Any]

#: The user of this project's image and of NVIDIA's.
USER = 1000
#: Variables that tasks read from a ConfigMap, if it has them.
CONFIG_KEYS = (
    "MLFLOW_TRACKING_URI",
    "AWS_ENDPOINT_URL",
    "AWS_DEFAULT_REGION",
    "SECATEUR_CACHE",
    "SECATEUR_DATA",
    "SECATEUR_IMAGE_DIGEST",
    "SECATEUR_TRITON_TAG",
    "SECATEUR_CLAIM_S",
    "SECATEUR_MLFLOW_TIMEOUT_S",
    "SECATEUR_MLFLOW_ATTEMPTS",
    "SECATEUR_MLFLOW_TOTAL_S",
    "SECATEUR_MLFLOW_FIRST_DELAY_S",
    "SECATEUR_SEARCH_HEARTBEAT_S",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
)
#: Variables that downloads read from a Secret, if it has them.
DOWNLOAD_SECRETS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)
#: Variables that tasks read from a Secret, if it has them.
SECRET_KEYS = (*DOWNLOAD_SECRETS, "SECATEUR_SEARCH_STORAGE")


def check_quantity(label: str, amount: str) -> None:
    """Raise ValueError for what Kubernetes does not read as an amount of memory.

    >>> check_quantity("shared_memory", "2Gi")
    >>> check_quantity("shared_memory", "8x")
    Traceback (most recent call last):
    ValueError: shared_memory '8x' is no amount: write a number and a unit, for example 2Gi or 512Mi.
    """
    if not re.fullmatch(r"[0-9]+(\.[0-9]+)?(k|Ki|M|Mi|G|Gi|T|Ti)?", amount):
        raise ValueError(f"{label} {amount!r} is no amount: write a number and a unit, for example 2Gi or 512Mi.")


def check_image(label: str, image: str) -> None:
    """Raise ValueError for an image that may be another one tomorrow.

    >>> check_image("image", "registry.example:5000/net:1.2")
    >>> check_image("image", "registry.example:5000/net")
    Traceback (most recent call last):
    ValueError: image 'registry.example:5000/net' can be another one tomorrow: give a tag or a digest.
    """
    if not image:
        raise ValueError(f"{label} is missing: name an image with a tag or a digest.")
    tag = image.rpartition("/")[2].partition(":")[2]
    if "@sha256:" not in image and tag in ("", "latest"):
        raise ValueError(f"{label} {image!r} can be another one tomorrow: give a tag or a digest.")


def container_security(*, is_root_read_only: bool) -> Manifest:
    """Return the security context of a container that needs no rights."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": is_root_read_only,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def secret_env(secret: str, keys: Iterable[str]) -> list[Manifest]:
    """Return variables from a Secret of the pod's namespace; neither it nor its keys need to be there."""
    return _references("secretKeyRef", secret, keys)


def config_env(config_map: str, keys: Iterable[str]) -> list[Manifest]:
    """Return variables from a ConfigMap of the pod's namespace; neither it nor its keys need to be there."""
    return _references("configMapKeyRef", config_map, keys)


def as_yaml(documents: Sequence[Manifest]) -> str:
    """Return manifests as one YAML text for `kubectl apply -f -`."""
    import yaml

    return yaml.safe_dump_all(documents, sort_keys=False)


def _references(kind: str, name: str, keys: Iterable[str]) -> list[Manifest]:
    found = [{"name": key, "valueFrom": {kind: {"name": name, "key": key, "optional": True}}} for key in keys]
    return found if name else []
