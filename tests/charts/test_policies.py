"""Policies over every object of every committed combination, and for each policy an object that breaks it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest

from tests.charts.policies import POLICIES
from tests.charts.rendering import Rendered, combinations, containers, pod_specs, render


@functools.cache
def every() -> dict[str, Rendered]:
    return {name: render(values) for name, values in combinations().items()}


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_object_of_every_combination(name: str) -> None:
    broken = {values: list(POLICIES[name](rendered)) for values, rendered in every().items()}
    assert {values: places for values, places in broken.items() if places} == {}


def test_the_combinations_bring_every_kind_of_object() -> None:
    counts: dict[str, int] = {}
    for rendered in every().values():
        for one in rendered.ours:
            counts[one["kind"]] = counts.get(one["kind"], 0) + 1
    print(f"{len(every())} combinations, {sum(counts.values())} objects, {len(POLICIES)} policies: {counts}")
    assert set(counts) == {
        "ServiceAccount", "Role", "RoleBinding", "ConfigMap", "PersistentVolumeClaim", "NetworkPolicy",
        "Job", "CronJob", "Pod", "ServingRuntime", "ClusterStorageContainer",
    }  # fmt: skip


def container(rendered: Rendered, kind: str = "CronJob") -> dict[str, Any]:
    return containers(rendered.of(kind)[0])[0]


def pod(rendered: Rendered) -> dict[str, Any]:
    return pod_specs(rendered.sole("CronJob"))[0][1]


def security(key: str, value: Any, kind: str = "CronJob") -> Callable[[Rendered], None]:
    return lambda rendered: container(rendered, kind)["securityContext"].update({key: value})


def drop_label(rendered: Rendered) -> None:
    pod_specs(rendered.of("Job")[0])[0][0]["labels"].pop("app.kubernetes.io/instance")


def open_tasks(rendered: Rendered) -> None:
    rendered.sole("NetworkPolicy", "-tasks")["spec"].update(ingress=[{}])


#: Policy and a change of the rendered objects that it must notice.
BREAKS: list[tuple[str, Callable[[Rendered], Any]]] = [
    ("containers_are_not_root", security("runAsUser", 0)),
    ("containers_are_not_root", security("runAsNonRoot", False, "ServingRuntime")),
    ("containers_are_not_root", lambda r: pod(r)["securityContext"].clear()),
    ("root_file_systems_are_read_only", security("readOnlyRootFilesystem", False, "ClusterStorageContainer")),
    ("nothing_is_privileged", security("allowPrivilegeEscalation", True)),
    ("nothing_is_privileged", security("privileged", True, "Pod")),
    ("capabilities_are_dropped", security("capabilities", {"drop": ["ALL"], "add": ["NET_RAW"]})),
    ("the_runtimes_seccomp_profile_is_used", security("seccompProfile", {"type": "Unconfined"})),
    ("resources_have_requests_and_limits", lambda r: container(r, "Job")["resources"]["limits"].pop("memory")),
    ("images_are_pinned", lambda r: container(r).update(image="ghcr.io/secateur/secateur-python:latest")),
    ("images_are_pinned", lambda r: container(r).update(image="ghcr.io/secateur/secateur-python")),
    ("no_secret_stands_in_plain_text", lambda r: r.of("ConfigMap")[0]["data"].update(AWS_SECRET_ACCESS_KEY="x")),
    ("no_secret_stands_in_plain_text", lambda r: r.of("ConfigMap")[0]["data"].update(URI="http://me:word@host/")),
    ("no_secret_stands_in_plain_text", lambda r: container(r)["env"].append({"name": "A_TOKEN", "value": "x"})),
    ("pods_have_the_service_account_and_no_token_of_it", lambda r: pod(r).update(serviceAccountName="default")),
    ("pods_have_the_service_account_and_no_token_of_it", lambda r: pod(r).pop("automountServiceAccountToken")),
    ("pods_are_matched_by_the_network_policy", drop_label),
    ("pods_are_matched_by_the_network_policy", lambda r: r.of("NetworkPolicy")[0]["spec"]["egress"].append({})),
    ("pods_are_matched_by_the_network_policy", open_tasks),
    ("pods_share_nothing_with_their_node", lambda r: pod(r).update(hostNetwork=True)),
    ("pods_share_nothing_with_their_node", lambda r: pod(r)["volumes"].append({"hostPath": {"path": "/"}})),
    ("memory_and_disk_of_scratch_volumes_are_limited", lambda r: pod(r)["volumes"][0].update(emptyDir={})),
    ("rights_are_named_one_by_one", lambda r: r.sole("Role")["rules"][0].update(verbs=["*"])),
    ("jobs_end", lambda r: r.of("Job")[0]["spec"].pop("activeDeadlineSeconds")),
    ("jobs_end", lambda r: r.sole("CronJob")["spec"]["jobTemplate"]["spec"].pop("backoffLimit")),
    ("hooks_clean_up", lambda r: r.of("Job")[0]["metadata"]["annotations"].pop("helm.sh/hook-delete-policy")),
    ("hooks_clean_up", lambda r: r.of("Job")[0]["metadata"].pop("annotations")),
    ("what_is_mounted_and_read_exists", lambda r: container(r)["envFrom"][0]["configMapRef"].update(name="other")),
    ("what_is_mounted_and_read_exists", lambda r: container(r)["volumeMounts"].pop()),
    ("objects_have_labels_a_namespace_and_names_of_their_own", lambda r: r.ours[0]["metadata"]["labels"].clear()),
    ("objects_have_labels_a_namespace_and_names_of_their_own", lambda r: r.ours[0]["metadata"].update(namespace="x")),
]  # fmt: skip


@pytest.mark.parametrize(("name", "change"), BREAKS, ids=[f"{name}-{i}" for i, (name, _) in enumerate(BREAKS)])
def test_each_policy_notices_what_breaks_it(name: str, change: Callable[[Rendered], Any]) -> None:
    rendered = copy.deepcopy(every()["everything"])
    change(rendered)
    assert list(POLICIES[name](rendered)) != []


def test_every_policy_is_broken_once() -> None:
    assert {name for name, _ in BREAKS} == set(POLICIES)
