"""Who tasks run as, what they mount and which variables reach them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.pods import CONFIG_KEYS, SECRET_KEYS
from deploy.tracking.connection import Patience
from pipelines.compile import PIPELINES, committed, representation
from pipelines.placement import LABEL, MOUNT, Placement

ROOT = Path(__file__).parents[2]
#: Variables that belong to a person's shell, to one machine or to one run; a ConfigMap for all tasks cannot know them.
NOT_FOR_TASKS = {
    "SECATEUR_ALLOW_IMPORT", "SECATEUR_DEBUG", "SECATEUR_IMAGE", "SECATEUR_NAMESPACE", "SECATEUR_PIPELINE_RUN",
    "SECATEUR_STORE", "SECATEUR_TASK", "SECATEUR_WORKER", "SECATEUR_WORKSPACE",
}  # fmt: skip


def executors(text: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what each task runs, and what Kubernetes is told about it."""
    spec, platform = yaml.safe_load_all(text)
    return spec["deploymentSpec"]["executors"], platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


@pytest.mark.parametrize("name", PIPELINES)
def test_no_task_is_root_and_each_has_the_label_of_the_policy(name: str) -> None:
    containers, placed = executors(committed(name).read_text())
    assert set(containers) == set(placed)
    for one in placed.values():
        assert one["securityContext"] == {"runAsUser": "1000", "runAsGroup": "1000", "runAsNonRoot": True}
        assert one["podMetadata"]["labels"] == dict([LABEL])


@pytest.mark.parametrize("name", PIPELINES)
def test_every_task_reads_every_variable_if_it_is_there(name: str) -> None:
    for one in executors(committed(name).read_text())[1].values():
        (config,), (secret,) = one["configMapAsEnv"], one["secretAsEnv"]
        assert [pair["envVar"] for pair in config["keyToEnv"]] == list(CONFIG_KEYS)
        assert [pair["envVar"] for pair in secret["keyToEnv"]] == list(SECRET_KEYS)
        assert config["optional"] is secret["optional"] is True


@pytest.mark.slow
def test_a_data_claim_is_mounted_where_the_cache_is() -> None:
    containers, placed = executors(representation("compress", Placement(data_claim="data", user=0)))
    for name, one in placed.items():
        mounts = {mount["mountPath"]: mount["constant"] for mount in one["pvcMount"]}
        assert mounts == {MOUNT: "secateur-workspace", "/cache/data": "data"}
        assert {"name": "SECATEUR_CACHE", "value": "/cache/data"} in containers[name]["container"]["env"]
        assert "SECATEUR_CACHE" not in {pair["envVar"] for pair in one["configMapAsEnv"][0]["keyToEnv"]}, "said once"
        assert "securityContext" not in one, "0 leaves the user to the cluster"
    for one in executors(committed("compress").read_text())[1].values():
        assert [mount["mountPath"] for mount in one["pvcMount"]] == [MOUNT]


def test_what_the_documentation_promises_reaches_tasks() -> None:
    text = (ROOT / "docs" / "operate" / "cluster.md").read_text().partition("## Variables")[2]
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row)} == {*CONFIG_KEYS, *SECRET_KEYS}


def test_every_variable_that_the_code_reads_is_decided_on() -> None:
    sources = [path for folder in ("compress", "deploy") for path in (ROOT / folder).rglob("*.py")]
    found = {name for path in sources for name in re.findall(r"\bSECATEUR_[A-Z_]*[A-Z]\b", path.read_text())}
    found -= {"SECATEUR_MLFLOW"}  # the beginning of a name
    found |= {f"SECATEUR_MLFLOW_{name.upper()}" for name in Patience.__dataclass_fields__}
    assert found - {*CONFIG_KEYS, *SECRET_KEYS} <= NOT_FOR_TASKS
    assert not NOT_FOR_TASKS & {*CONFIG_KEYS, *SECRET_KEYS}
