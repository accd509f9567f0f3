"""Schedules through the real `kfp.Client` against a stateful API: one recurring run, whatever happened before."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from deploy import kubeflow as api
from deploy import schedule as schedules
from deploy.schedule import Schedule, check_cron
from tests.deploy.kubeflow_api import State, kubeflow

NIGHT = Schedule(name="night", pipeline="net", version="v1", cron="0 0 2 * * *", parameters={"task": "digits"})


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Any, State, str]]:
    package = tmp_path / "net.yaml"
    package.write_text("pipelineInfo: {name: net}\n")
    with kubeflow() as (host, state):
        client = api.connect(host)
        with api.asking(host):
            api.upload(client, package, "net", "v1")
        yield client, state, host


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ({}, ""),
        ({"KF_PIPELINES_TOKEN": "mine"}, "Bearer mine"),
        ({"KF_PIPELINES_SA_TOKEN_PATH": "{file}"}, "Bearer projected"),
        ({"KF_PIPELINES_TOKEN": "mine", "KF_PIPELINES_SA_TOKEN_PATH": "{file}"}, "Bearer mine"),
    ],
)
def test_a_token_is_shown_when_there_is_one(
    given: dict[str, str], shown: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("projected")
    for name in ("KF_PIPELINES_TOKEN", "KF_PIPELINES_SA_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value.format(file=tmp_path / "token"))
    with kubeflow() as (host, state), api.asking(host):
        api.connect(host).list_pipelines()
        assert state.authorizations
        assert set(state.authorizations) == {shown}


def only(state: State) -> Any:
    (found,) = state.items["recurring_runs"].values()
    return found


def test_apply_twice_leaves_one_and_changes_nothing(served: Any) -> None:
    client, state, _ = served
    first = schedules.apply(client, NIGHT)
    before = list(state.requests)
    second = schedules.apply(client, NIGHT)
    assert first["action"] == "created"
    assert second == {"id": first["id"], "action": "unchanged", "deleted": []}
    assert not [one for one in state.requests[len(before) :] if one[0] in ("POST", "DELETE")]
    made = only(state)
    assert made.no_catchup is True
    assert made.max_concurrency == "1"
    assert made.trigger.cron_schedule.cron == "0 0 2 * * *"
    assert made.runtime_config.parameters == {"task": "digits"}
    assert made.plugins_input is None


@pytest.mark.parametrize(
    "change",
    [
        {"cron": "0 30 3 * * *"},
        {"parameters": {"task": "cifar10"}},
        {"version": "latest"},
        {"enabled": False},
        {"mlflow_plugin": {"disabled": True}},
        {"service_account": "pipelines"},
    ],
)
def test_a_schedule_that_differs_replaces_the_old_one(served: Any, change: dict[str, Any]) -> None:
    client, state, _ = served
    first = schedules.apply(client, NIGHT)
    second = schedules.apply(client, replace(NIGHT, **change))
    assert second["action"] == "replaced"
    assert second["deleted"] == [first["id"]]
    assert only(state).recurring_run_id == second["id"] != first["id"]


def test_leftovers_of_the_same_name_go_and_other_names_stay(served: Any) -> None:
    client, state, _ = served
    other = schedules.apply(client, replace(NIGHT, name="other"))
    body = schedules._body(client, NIGHT)
    for _ in range(3):
        client._recurring_run_api.recurring_run_service_create_recurring_run(recurring_run=body)
    state.page = 2
    done = schedules.apply(client, NIGHT)
    assert len(done["deleted"]) == 3
    assert set(state.items["recurring_runs"]) == {other["id"], done["id"]}


def test_somebody_disabled_it_by_hand(served: Any) -> None:
    client, state, _ = served
    schedules.apply(client, NIGHT)
    only(state).mode = "DISABLE"
    assert schedules.apply(client, NIGHT)["action"] == "replaced"
    assert only(state).mode == "ENABLE"


def test_a_pinned_version_stays_and_latest_is_left_open(served: Any, tmp_path: Path) -> None:
    client, state, _ = served
    schedules.apply(client, NIGHT)
    pinned = only(state).pipeline_version_reference
    api.upload(client, tmp_path / "net.yaml", "net", "v2")
    assert schedules.apply(client, NIGHT)["action"] == "unchanged"
    assert state.items["versions"][pinned.pipeline_version_id].display_name == "v1"
    schedules.apply(client, replace(NIGHT, version="latest"))
    assert only(state).pipeline_version_reference.pipeline_version_id is None
    assert schedules.show(client, "night")[0]["version_id"] == "latest"


def test_unknown_names_are_answered_before_anything_is_deleted(served: Any) -> None:
    client, state, _ = served
    schedules.apply(client, NIGHT)
    with pytest.raises(ValueError, match=r"no pipeline 'nett'\. Did you mean 'net'"):
        schedules.apply(client, replace(NIGHT, pipeline="nett"))
    with pytest.raises(ValueError, match=r"no version 'v11'\. Did you mean 'v1'"):
        schedules.apply(client, replace(NIGHT, version="v11"))
    assert only(state).display_name == "night"
    assert not [one for one in state.requests if one[0] == "DELETE"]


def test_a_refused_create_says_that_the_old_one_is_gone(served: Any) -> None:
    client, state, host = served
    first = schedules.apply(client, NIGHT)
    state.failing.add(("POST", "/recurringruns"))
    gone = rf"the database is away; the old one \({first['id']}\) is deleted already.*apply again"
    with pytest.raises(api.KubeflowError, match=gone), api.asking(host):
        schedules.apply(client, replace(NIGHT, cron="0 0 3 * * *"))
    state.failing.clear()
    assert schedules.apply(client, NIGHT)["action"] == "created"
    assert only(state).trigger.cron_schedule.cron == "0 0 2 * * *"


def test_show_and_delete(served: Any) -> None:
    client, state, _ = served
    assert schedules.show(client, "night") == []
    assert schedules.delete(client, "night") == []
    made = schedules.apply(client, NIGHT)
    (shown,) = schedules.show(client, "night")
    assert shown["id"] == made["id"]
    assert shown["no_catchup"] is True
    assert shown["cron"] == "0 0 2 * * *"
    assert schedules.delete(client, "night") == [made["id"]]
    assert state.items["recurring_runs"] == {}


@pytest.mark.parametrize("text", ["0 0 2 * * *", "0 */15 8-18 ? * MON-FRI", "0 0 0 1,15 JAN-MAR/2 ?", "30 5 4 31 12 0"])
def test_cron_that_kubeflow_understands(text: str) -> None:
    check_cron(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 2 * * *", "write '0 0 2 \\* \\* \\*'"),
        ("", "has 0 fields"),
        ("0 0 24 * * *", "hour '24' lies outside 0 to 23"),
        ("60 0 2 * * *", "second '60'"),
        ("0 0 2 0 * *", "day of month '0'"),
        ("0 0 2 * FOO *", "month 'FOO' lies outside 1 to 12 \\(JAN to DEC\\)"),
        ("0 0 2 * * 7", "day of week '7'"),
        ("0 0 5-2 * * *", "runs backwards"),
        ("0 */0 2 * * *", "step of zero"),
        ("0 0 2 * * MON#1", "is no number"),
        ("* 0 2 * * *", "every second"),
        ("0 * 2 * * *", "every minute"),
    ],
)
def test_cron_that_would_be_refused_or_regretted(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_cron(text)


def test_an_unknown_option_of_the_plugin_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'disabled'"):
        replace(NIGHT, mlflow_plugin={"disable": True})
    with pytest.raises(ValueError, match="version is empty"):
        replace(NIGHT, version=" ")


def test_nobody_there_says_how_to_repair() -> None:
    host = "http://127.0.0.1:9"
    with pytest.raises(api.KubeflowError, match="KF_PIPELINES_ENDPOINT"), api.asking(host):
        schedules.apply(api.connect(host, "mine"), NIGHT)
