"""What must hold for every object that the chart renders; each policy returns what breaks it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from tests.charts.rendering import NAMESPACE, Rendered, containers, pod_specs

Policy = Callable[[Rendered], Iterator[str]]
POLICIES: dict[str, Policy] = {}
SECRET = re.compile(r"SECRET|PASSWORD|TOKEN|ACCESS_KEY|API_KEY|CREDENTIAL|PRIVATE_KEY", re.IGNORECASE)
#: Names that hold a path of a token, not a token.
PATHS = {"KF_PIPELINES_SA_TOKEN_PATH"}
CLUSTER_WIDE = {"ClusterStorageContainer"}
#: Kinds, and endings of names, of what stands in the namespace of the runs.
OF_THE_RUNS = (("Role", "-pipelines"), ("RoleBinding", "-pipelines"), ("NetworkPolicy", "-tasks"))


def policy(function: Policy) -> Policy:
    POLICIES[function.__name__] = function
    return function


def each_container(rendered: Rendered) -> Iterator[tuple[str, dict[str, Any]]]:
    for one in rendered.ours:
        for container in containers(one):
            yield f"{one['kind']}/{one['metadata']['name']}/{container['name']}", container


def each_pod(rendered: Rendered) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    for one in rendered.ours:
        for metadata, spec in pod_specs(one):
            yield f"{one['kind']}/{one['metadata']['name']}", metadata, spec


@policy
def containers_are_not_root(rendered: Rendered) -> Iterator[str]:
    for place, container in each_container(rendered):
        security = container.get("securityContext", {})
        if security.get("runAsNonRoot") is not True or security.get("runAsUser", 1) < 1:
            yield place
    for place, _, spec in each_pod(rendered):
        if spec.get("securityContext", {}).get("runAsNonRoot") is not True:
            yield place


@policy
def root_file_systems_are_read_only(rendered: Rendered) -> Iterator[str]:
    for place, container in each_container(rendered):
        if container.get("securityContext", {}).get("readOnlyRootFilesystem") is not True:
            yield place


@policy
def nothing_is_privileged(rendered: Rendered) -> Iterator[str]:
    for place, container in each_container(rendered):
        security = container.get("securityContext", {})
        if security.get("allowPrivilegeEscalation") is not False or security.get("privileged") is True:
            yield place


@policy
def capabilities_are_dropped(rendered: Rendered) -> Iterator[str]:
    for place, container in each_container(rendered):
        capabilities = container.get("securityContext", {}).get("capabilities", {})
        if capabilities.get("drop") != ["ALL"] or capabilities.get("add"):
            yield place


@policy
def the_runtimes_seccomp_profile_is_used(rendered: Rendered) -> Iterator[str]:
    for place, container in each_container(rendered):
        if container.get("securityContext", {}).get("seccompProfile") != {"type": "RuntimeDefault"}:
            yield place


@policy
def resources_have_requests_and_limits(rendered: Rendered) -> Iterator[str]:
    for place, container in each_container(rendered):
        resources = container.get("resources", {})
        for side in ("requests", "limits"):
            if not {"cpu", "memory"} <= set(resources.get(side, {})):
                yield f"{place} {side}"


@policy
def images_are_pinned(rendered: Rendered) -> Iterator[str]:
    for place, container in each_container(rendered):
        name, _, digest = container["image"].partition("@")
        tag = name.rpartition("/")[2].partition(":")[2]
        if not digest and not re.fullmatch(r"v?[0-9][\w.-]*", tag):
            yield f"{place} {container['image']}"


@policy
def no_secret_stands_in_plain_text(rendered: Rendered) -> Iterator[str]:
    for one in rendered.ours:
        place = f"{one['kind']}/{one['metadata']['name']}"
        if one["kind"] == "Secret":
            yield place
        if one["kind"] == "ConfigMap":
            for key, value in one["data"].items():
                if SECRET.search(key) or re.search(r"://[^/\s]*:[^/\s]*@", value):
                    yield f"{place} {key}"
    for place, container in each_container(rendered):
        for variable in container.get("env", ()):
            name = variable["name"]
            is_open = "value" in variable and SECRET.search(name) and name not in PATHS
            if is_open or "@" in re.sub(r"@sha256:", "", variable.get("value", "")):
                yield f"{place} {name}"


@policy
def pods_have_the_service_account_and_no_token_of_it(rendered: Rendered) -> Iterator[str]:
    accounts = {one["metadata"]["name"] for one in rendered.of("ServiceAccount")} or {"pipelines"}
    for place, _, spec in each_pod(rendered):
        if spec.get("serviceAccountName") not in accounts or spec.get("automountServiceAccountToken") is not False:
            yield place
    for account in rendered.of("ServiceAccount"):
        if account.get("automountServiceAccountToken") is not False:
            yield account["metadata"]["name"]


@policy
def pods_are_matched_by_the_network_policy(rendered: Rendered) -> Iterator[str]:
    for network in rendered.of("NetworkPolicy"):
        selector = network["spec"]["podSelector"]["matchLabels"]
        if not selector or set(network["spec"]["policyTypes"]) != {"Ingress", "Egress"} or network["spec"]["ingress"]:
            yield f"{network['metadata']['name']} lets everything in"
        for rule in network["spec"]["egress"]:
            if not rule.get("to") or not rule.get("ports"):
                yield f"{network['metadata']['name']} has an open rule"
        if network["metadata"]["name"].endswith("-tasks"):
            continue
        for place, metadata, _ in each_pod(rendered):
            if not selector.items() <= metadata["labels"].items():
                yield place


@policy
def pods_share_nothing_with_their_node(rendered: Rendered) -> Iterator[str]:
    for place, _, spec in each_pod(rendered):
        if any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")):
            yield place
        if any("hostPath" in volume for volume in spec.get("volumes", ())):
            yield place


@policy
def memory_and_disk_of_scratch_volumes_are_limited(rendered: Rendered) -> Iterator[str]:
    volumes = [(place, volume) for place, _, spec in each_pod(rendered) for volume in spec.get("volumes", ())]
    volumes += [("runtime", volume) for one in rendered.of("ServingRuntime") for volume in one["spec"]["volumes"]]
    for place, volume in volumes:
        if "emptyDir" in volume and not volume["emptyDir"].get("sizeLimit"):
            yield f"{place} {volume['name']}"


@policy
def rights_are_named_one_by_one(rendered: Rendered) -> Iterator[str]:
    yield from (one["metadata"]["name"] for one in (*rendered.of("ClusterRole"), *rendered.of("ClusterRoleBinding")))
    for role in rendered.of("Role"):
        for rule in role["rules"]:
            if "*" in (*rule["apiGroups"], *rule["resources"], *rule["verbs"]) or "secrets" in rule["resources"]:
                yield role["metadata"]["name"]


@policy
def jobs_end(rendered: Rendered) -> Iterator[str]:
    for one in rendered.ours:
        spec = one["spec"] if one["kind"] == "Job" else one.get("spec", {}).get("jobTemplate", {}).get("spec")
        if spec is not None and not (spec.get("activeDeadlineSeconds") and "backoffLimit" in spec):
            yield one["metadata"]["name"]


@policy
def hooks_clean_up(rendered: Rendered) -> Iterator[str]:
    for one in rendered.ours:
        notes = one["metadata"].get("annotations", {})
        if "helm.sh/hook" in notes and "before-hook-creation" not in notes.get("helm.sh/hook-delete-policy", ""):
            yield one["metadata"]["name"]
        if one["kind"] == "Job" and "helm.sh/hook" not in notes:
            yield f"{one['metadata']['name']} is no hook: a Job cannot be changed by an upgrade"


@policy
def what_is_mounted_and_read_exists(rendered: Rendered) -> Iterator[str]:
    maps = {one["metadata"]["name"] for one in rendered.of("ConfigMap")}
    claims = {one["metadata"]["name"] for one in rendered.of("PersistentVolumeClaim")} | {"shared-engines"}
    for place, _, spec in each_pod(rendered):
        volumes = {volume["name"]: volume for volume in spec.get("volumes", ())}
        for volume in volumes.values():
            if volume.get("configMap", {"name": None})["name"] not in maps | {None}:
                yield f"{place} {volume['name']}"
            if volume.get("persistentVolumeClaim", {"claimName": None})["claimName"] not in claims | {None}:
                yield f"{place} {volume['name']}"
        for container in spec["containers"]:
            mounted = [mount["name"] for mount in container["volumeMounts"]]
            if set(mounted) != set(volumes):
                yield f"{place} mounts {mounted} of {sorted(volumes)}"
            for source in container.get("envFrom", ()):
                if source["configMapRef"]["name"] not in maps:
                    yield f"{place} {source}"


@policy
def objects_have_labels_a_namespace_and_names_of_their_own(rendered: Rendered) -> Iterator[str]:
    wanted = {"helm.sh/chart", "app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/managed-by"}
    seen: set[tuple[str, str, str]] = set()
    for one in rendered.ours:
        metadata = one["metadata"]
        if not wanted <= set(metadata.get("labels", {})):
            yield f"{one['kind']}/{metadata['name']} labels"
        namespace = metadata.get("namespace", "")
        if one["kind"] in CLUSTER_WIDE:
            is_placed = not namespace
        else:
            is_placed = namespace == NAMESPACE or any(
                one["kind"] == kind and metadata["name"].endswith(end) for kind, end in OF_THE_RUNS
            )
        if not is_placed:
            yield f"{one['kind']}/{metadata['name']} in {namespace}"
        key = (one["kind"], namespace, metadata["name"])
        if key in seen or len(metadata["name"]) > 63:
            yield f"{key} twice or too long"
        seen.add(key)
