"""Values that would not work are refused before anything reaches a cluster, and the message says which and why."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts.rendering import CHART, URI, merged, refusal, render

HERE = Path(__file__).parent
BAD: list[dict[str, Any]] = yaml.safe_load((HERE / "bad_values.yaml").read_text())
TOGETHER: list[dict[str, Any]] = yaml.safe_load((HERE / "bad_together.yaml").read_text())


@pytest.mark.parametrize("case", BAD, ids=[case["what"] for case in BAD])
def test_the_schema_refuses_and_says_why(case: dict[str, Any]) -> None:
    message, place = refusal(merged(URI, case["values"])), case["place"]
    assert "values don't meet the specifications of the schema" in message
    found = [line for line in message.splitlines() if line.startswith(f"- {place}: ")]
    assert found, message
    assert case["says"] in " ".join(found)
    assert len(message) < 800


def test_enough_is_refused() -> None:
    print(f"{len(BAD)} bad values are refused by the schema")
    assert len(BAD) >= 15


@pytest.mark.parametrize("case", TOGETHER, ids=[case["what"] for case in TOGETHER])
def test_what_is_wrong_together_is_refused_with_a_repair(case: dict[str, Any]) -> None:
    assert case["says"] in refusal(case["values"] if case.get("is_bare") else merged(URI, case["values"]))


def schema() -> dict[str, Any]:
    return json.loads((CHART / "values.schema.json").read_text())


def described(node: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    reference = node.get("$ref")
    return root["definitions"][reference.removeprefix("#/definitions/")] if reference else node


def compare(values: dict[str, Any], node: dict[str, Any], root: dict[str, Any], path: str) -> list[str]:
    """Return where values.yaml and its schema have different keys."""
    known = described(node, root).get("properties")
    if known is None:
        return []
    wrong = [
        f"{path}{key}"
        for key in set(values) ^ set(known)
        if f"{path}{key}" not in ("global", "mlflow.fullnameOverride")
    ]
    for key in set(values) & set(known):
        if isinstance(values[key], dict):
            wrong += compare(values[key], known[key], root, f"{path}{key}.")
    return wrong


def test_schema_and_values_have_the_same_keys() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    open_keys = {"resources", "podSelector", "namespaceSelector", "mlflowPlugin"}
    wrong = compare(values, schema(), schema(), "")
    assert [path for path in wrong if not open_keys & set(path.split("."))] == []


def test_every_section_refuses_what_it_does_not_know() -> None:
    root = schema()
    open_sections = []

    def walk(node: dict[str, Any], path: str) -> None:
        if "properties" in node and node.get("additionalProperties") is not False:
            open_sections.append(path)
        for key, below in {**node.get("properties", {}), **({"[]": node["items"]} if "items" in node else {})}.items():
            walk(described(below, root), f"{path}.{key}")

    walk(root, "")
    assert open_sections == [".serving.triton.env.[]", ".mlflow"]


def test_patterns_mean_the_same_to_python_and_to_helm() -> None:
    """A pattern that only Go understands would be refused by editors that read the schema."""
    patterns = re.findall(r'"pattern": (".*")', (CHART / "values.schema.json").read_text())
    assert len(patterns) > 15
    for pattern in patterns:
        re.compile(json.loads(pattern))


def test_good_values_close_to_bad_ones_pass() -> None:
    good = {
        "image": {"tag": "v1.2.3-rc1", "digest": "sha256:" + "0" * 64},
        "schedule": {"state": "present", "cron": "*/10 0 2-4 1,15 * MON", "parameters": {"preset": "digits"}},
        "pod": {"runAsUser": None},
        "garbageCollection": {"schedule": "*/5 4 * * 1-5"},
        "persistence": {"data": {"enabled": True, "size": "1.5Ti"}},
    }
    assert render(merged(URI, good)).of("Job")
