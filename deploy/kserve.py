"""Manifests for KServe: a runtime with a pinned Triton, a storage container for `models:/`, and the service.

They are plain dicts with the fields of KServe 0.21. Its own Triton runtime is too old for the TensorRT engines of
today and no storage container of its own knows MLflow's registry, so both come with the service. The storage
container is one object of the whole cluster: it holds what is the same for all services, and is made on request alone.
What belongs to one service is said in its address: models://digits@champion?backend=python&load=digits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlencode

from deploy.pods import DOWNLOAD_SECRETS, Manifest, check_image, check_quantity, container_security, secret_env
from deploy.triton_config import check_backend, triton_name

STORAGE = "secateur-models"
MODELS = "/mnt/models"
HTTP_PORT, GRPC_PORT = 8080, 9000

_MODEL = re.compile(r"models:/([^/@?:]+(@[^/@?:]+|/[0-9]+)|m-[0-9a-f]+)")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,54}[a-z0-9])?")


@dataclass(frozen=True, kw_only=True)
class Serving:
    """What is to be served, and how.

    Attributes:
        name: Of the service: lower-case letters, digits and dashes.
        model: "models:/digits@champion".
        triton_image: Triton's image with a tag or digest; its TensorRT must be able to load the package's engines.
        namespace: Of the service and its runtime; empty for the current one.
        backend: Triton backend that runs ONNX files; empty to leave the package's choice.
        models: Triton models to load, each with the members that it calls; all of the package when empty.
        gpus: GPUs of a replica.
        replicas: Smallest and largest number of replicas.
        resources: Requests and limits of the server, without the GPUs.
        shared_memory: Size of /dev/shm, which the Python backend needs.
    """

    name: str
    model: str
    triton_image: str
    namespace: str = ""
    backend: str = ""
    models: Sequence[str] = ()
    gpus: int = 0
    replicas: tuple[int, int] = (1, 1)
    resources: Mapping[str, Mapping[str, str]] = field(
        default_factory=lambda: {
            "requests": {"cpu": "1", "memory": "1Gi"},
            "limits": {"cpu": "2", "memory": "4Gi"},
        }
    )
    shared_memory: str = "1Gi"

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError(f"name {self.name!r}: use lower-case letters, digits and dashes, at most 56.")
        if not _MODEL.fullmatch(self.model):
            raise ValueError(f"model {self.model!r}: write models:/NAME@ALIAS or models:/NAME/VERSION, without '?'.")
        if strange := [name for name in self.models if triton_name(name) != name]:
            raise ValueError(f"load={strange[0]!r} is no name of a Triton model: letters, digits, - and _ alone.")
        check_quantity("shared_memory", self.shared_memory)
        check_image("triton_image", self.triton_image)
        check_backend(self.backend)
        if self.gpus < 0 or not 0 <= self.replicas[0] <= max(1, self.replicas[1]):
            raise ValueError(f"gpus={self.gpus}, replicas={self.replicas}: 0 or more GPUs; 0 <= smallest <= largest.")


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How every service of the cluster downloads its package.

    Attributes:
        image: This project's image with a tag or digest; it downloads the packages.
        tracking_uri: MLflow as pods reach it.
        secret: Secret in the namespace of each service whose keys `DOWNLOAD_SECRETS`, where they are there, become
            the download's environment; or empty.
    """

    image: str
    tracking_uri: str
    secret: str = ""

    def __post_init__(self) -> None:
        check_image("image", self.image)
        if not self.tracking_uri:
            raise ValueError("tracking_uri is empty: give MLflow's address as pods reach it.")


def manifests(serving: Serving) -> list[Manifest]:
    """Return runtime and service, in the order in which they are applied."""
    return [serving_runtime(serving), inference_service(serving)]


def address_of(serving: Serving) -> str:
    """Return the address of a service's model for KServe, which wants "://" in it.

    >>> address_of(Serving(name="a", model="models:/a@champion", triton_image="t:1", backend="python", models=["a"]))
    'models://a@champion?backend=python&load=a'
    """
    facts = [("backend", serving.backend)] * bool(serving.backend) + [("load", name) for name in serving.models]
    query = f"?{urlencode(facts)}" if facts else ""
    return f"models://{serving.model.removeprefix('models:/').lstrip('/')}{query}"


def read_address(address: str) -> tuple[str, str, list[str]]:
    """Return model, backend and Triton models that an address names, as `address_of` writes them.

    >>> read_address("models://a@champion?backend=python&load=a")
    ('models:/a@champion', 'python', ['a'])

    Raises:
        ValueError: It says something else after the question mark.
    """
    model, _, query = address.partition("?")
    try:
        facts = parse_qs(query, strict_parsing=True, keep_blank_values=True) if query else {}
    except ValueError as error:
        raise ValueError(f"{address!r}: write backend=… and load=… after the question mark.") from error
    if set(facts) - {"backend", "load"} or len(facts.get("backend", ())) > 1:
        raise ValueError(f"{address!r}: after the question mark stand one backend=… and any number of load=….")
    (backend,) = facts.get("backend", [""])
    return model.replace("models://", "models:/", 1), backend, facts.get("load", [])


def storage_container(storage: Storage) -> Manifest:
    """Return the ClusterStorageContainer that downloads `models:/` addresses.

    KServe finds the init container by its name, which therefore must be storage-initializer.
    """
    environment = {"MLFLOW_TRACKING_URI": storage.tracking_uri, "HOME": "/tmp"}
    container: Manifest = {
        "name": "storage-initializer",
        "image": storage.image,
        "command": ["python", "-m", "deploy.storage_initializer"],
        "env": [
            *({"name": key, "value": value} for key, value in environment.items()),
            *secret_env(storage.secret, DOWNLOAD_SECRETS),
        ],
        "resources": {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"cpu": "1", "memory": "2Gi"}},
        "securityContext": container_security(is_root_read_only=False),
    }
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ClusterStorageContainer",
        "metadata": {"name": STORAGE},
        "spec": {
            "container": container,
            "supportedUriFormats": [{"prefix": "models:/"}],
            "supportsMultiModelDownload": False,
            "workloadType": "initContainer",
        },
    }


def serving_runtime(serving: Serving) -> Manifest:
    """Return the ServingRuntime with the pinned Triton, which loads all that the download left in the folder."""
    arguments = [
        "tritonserver",
        f"--model-repository={MODELS}",
        f"--http-port={HTTP_PORT}",
        f"--grpc-port={GRPC_PORT}",
    ]
    mounts = {"shm": "/dev/shm", "tmp": "/tmp"}
    container = {
        "name": "kserve-container",
        "image": serving.triton_image,
        "args": arguments,
        "ports": [{"containerPort": HTTP_PORT, "protocol": "TCP"}],
        "resources": {kind: dict(amounts) for kind, amounts in serving.resources.items()},
        "securityContext": container_security(is_root_read_only=True),
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in mounts.items()],
    }
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ServingRuntime",
        "metadata": {"name": runtime_name(serving), **_namespaced(serving)},
        "spec": {
            "supportedModelFormats": [{"name": "triton", "version": "2", "autoSelect": False}],
            "protocolVersions": ["v2", "grpc-v2"],
            "multiModel": False,
            "containers": [container],
            "volumes": [
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": serving.shared_memory}},
                {"name": "tmp", "emptyDir": {}},
            ],
        },
    }


def inference_service(serving: Serving) -> Manifest:
    """Return the InferenceService."""
    model: Manifest = {
        "modelFormat": {"name": "triton", "version": "2"},
        "protocolVersion": "v2",
        "runtime": runtime_name(serving),
        "storageUri": address_of(serving),
    }
    if serving.gpus:
        amounts = {kind: {**found, "nvidia.com/gpu": str(serving.gpus)} for kind, found in serving.resources.items()}
        model["resources"] = amounts
    return {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": serving.name, **_namespaced(serving)},
        "spec": {
            "predictor": {"minReplicas": serving.replicas[0], "maxReplicas": serving.replicas[1], "model": model},
        },
    }


def runtime_name(serving: Serving) -> str:
    """Return the name of the service's runtime; services with other images do not share it."""
    return f"{serving.name}-triton"


def _namespaced(serving: Serving) -> dict[str, str]:
    return {"namespace": serving.namespace} if serving.namespace else {}
