"""A store that is busy, slow, cuts off or changes files: nothing is lost, nothing is half-published, and it is said."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from compress.core.model import CorruptModel
from compress.core.stage import Ref
from compress.store import LocalStore
from deploy.mlflow_store import MlflowStore, flush, pending_refs
from deploy.promote import Under, promote
from deploy.pull import Versions, check_package, pull
from deploy.tracking import Unreachable
from tests.deploy.stored_run import fresh_uri, put, put_run
from tests.storage import fault_proxy, servers
from tests.toys import toy_model

pytestmark = pytest.mark.slow
FOREVER = 1_000_000
BOTH_WAYS = ("through MLflow", "beside MLflow")
WAYS = BOTH_WAYS if servers.IS_WHOLE else BOTH_WAYS[:1]
#: Few and quick attempts, so that giving up takes no minutes.
HASTE = {"AWS_MAX_ATTEMPTS": "2", "AWS_RETRY_MODE": "standard"}
REPORT = {"validation_accuracy": 0.5}


class Place(NamedTuple):
    """An MLflow whose store fails on demand, and the experiment that decides which way files go there."""

    server: servers.Mlflow
    faults: fault_proxy.Faults
    experiment: str

    @property
    def uri(self) -> str:
        return self.server.uri

    def open(self, folder: Path) -> MlflowStore:
        return MlflowStore(LocalStore(folder), self.uri, experiment=self.experiment)


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[servers.Mlflow, fault_proxy.Faults]]:
    folder = tmp_path_factory.mktemp("server")
    with (
        servers.moto() as real,
        fault_proxy.proxy(real) as (store, faults),
        servers.mlflow(folder, fresh_uri(folder), store, environment=HASTE) as server,
    ):
        yield server, faults


@pytest.fixture(params=WAYS)
def place(request: pytest.FixtureRequest, behind: Any, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Either way to the store; the experiment's address decides, as `--artifacts-destination` does for a server."""
    server, faults = behind
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_S3_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    patience = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "SECATEUR_MLFLOW_ATTEMPTS": "1",
                "SECATEUR_MLFLOW_FIRST_DELAY_S": "0.1"}  # fmt: skip
    is_direct = request.param.startswith("beside")
    for name, value in {**HASTE, **patience, **(server.store.environment if is_direct else {})}.items():
        monkeypatch.setenv(name, value)
    experiment = f"{request.node.name}"
    location = f"s3://{servers.BUCKET}/direct/{experiment}" if is_direct else None
    server.client().create_experiment(experiment, location)
    return Place(server, faults, experiment)


def assert_elsewhere(place: Place, folder: Path, store: MlflowStore, ref: Ref) -> None:
    """Another machine gets the entry whole."""
    other = place.open(folder)
    assert other.get(ref).report == store.get(ref).report
    assert other.record(ref)["files"] == store.record(ref)["files"]


PERSISTENT = [
    pytest.param({"num_busy": FOREVER}, "SlowDown|503|Reduce your request rate|500", id="503"),
    pytest.param({"fault": fault_proxy.hang_up}, "Connection|closed|aborted|500", id="hangs up"),
    pytest.param({"fault": fault_proxy.cut_upload}, "bytes were sent, the artifact store holds", id="keeps half"),
    pytest.param({"fault": fault_proxy.changed_upload}, "the artifact store changed what was sent", id="changes"),
]


@pytest.mark.parametrize("place", BOTH_WAYS, indirect=True)
@pytest.mark.parametrize(("trouble", "said"), PERSISTENT)
def test_what_cannot_be_uploaded_waits_and_is_pushed_later(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture, trouble: dict[str, Any], said: str
) -> None:
    store = place.open(tmp_path / "store")
    with caplog.at_level(logging.WARNING), place.faults.having(**trouble):
        teacher = put(store, "train", {}, REPORT, model=toy_model(), config={"of": place.experiment})
        table = tmp_path / "table.json"
        table.write_text("{}")
        gate = put(store, "gate", {"evaluation": teacher}, {"passed": True}, files={"table.json": table})
    assert pending_refs(store) == [teacher, gate]
    assert store.get(teacher).model is not None
    assert re.search(said, caplog.text), caplog.text
    assert "its artifact store does not: " in caplog.text
    assert f"push {store.local.root} --uri {place.uri}" in caplog.text
    other = place.open(tmp_path / "other")
    assert not other.has(teacher)
    assert not other.has(gate)
    assert flush(place.open(tmp_path / "store")) == [teacher, gate]
    assert_elsewhere(place, tmp_path / "other", store, teacher)
    assert_elsewhere(place, tmp_path / "other", store, gate)
    print(caplog.records[0].getMessage())


def test_a_moment_of_503_is_waited_out(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_MLFLOW_ATTEMPTS", "4")
    monkeypatch.setenv("SECATEUR_MLFLOW_TOTAL_S", "60")
    store = place.open(tmp_path / "store")
    with place.faults.having(num_busy=3):
        ref = put(store, "train", {}, REPORT, model=toy_model(), config={"of": place.experiment})
        assert place.faults.num_busy == 0, "all three were asked for and refused"
    assert pending_refs(store) == []
    assert_elsewhere(place, tmp_path / "other", store, ref)


def test_a_slow_store_is_only_slow(place: Place, tmp_path: Path) -> None:
    store = place.open(tmp_path / "store")
    ref = put(store, "train", {}, REPORT, model=toy_model(), config={"of": place.experiment})
    start = time.monotonic()
    with place.faults.having(fault_proxy.slow):
        assert_elsewhere(place, tmp_path / "other", store, ref)
    assert time.monotonic() - start >= fault_proxy.PIECES * fault_proxy.PIECE_S


@pytest.mark.parametrize(
    ("fault", "kind", "said"),
    [
        pytest.param(fault_proxy.cut_download, (Unreachable, CorruptModel), "artifact store does not|changed after",
                     id="cut"),
        pytest.param(fault_proxy.changed_download, CorruptModel, "was changed after it was saved: fetch it again",
                     id="wrong hash"),
    ],
)  # fmt: skip
def test_an_entry_that_does_not_arrive_whole_is_not_believed(
    place: Place, tmp_path: Path, fault: Any, kind: Any, said: str
) -> None:
    store = place.open(tmp_path / "store")
    ref = put(store, "train", {}, REPORT, model=toy_model(), config={"of": place.experiment})
    other = place.open(tmp_path / "other")
    with place.faults.having(fault), pytest.raises(kind, match=said):
        other.get(ref)
    assert not other.local.has(ref)
    assert list((tmp_path / "other" / "incoming").iterdir()) == []
    assert_elsewhere(place, tmp_path / "other", store, ref)


@pytest.mark.parametrize("place", BOTH_WAYS[:1], indirect=True)
def test_files_come_through_mlflow_where_the_store_cannot_be_reached(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow signs addresses of its store for its clients, until they ask it not to."""

    def cannot(*_: Any, **__: Any) -> None:
        raise ConnectionError("no way from here to the store")

    store = place.open(tmp_path / "store")
    ref = put(store, "train", {}, REPORT, model=toy_model(), config={"of": place.experiment})
    monkeypatch.setattr("mlflow.store.artifact.http_artifact_repo.download_chunk", cannot)
    with pytest.raises(Unreachable, match="set MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD=false here"):
        place.open(tmp_path / "other").get(ref)
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
    assert_elsewhere(place, tmp_path / "other", store, ref)


@pytest.mark.parametrize(("trouble", "said"), PERSISTENT)
def test_no_alias_moves_to_a_package_that_is_not_whole(
    place: Place, tmp_path: Path, trouble: dict[str, Any], said: str
) -> None:
    store, name = LocalStore(tmp_path / "store"), f"net-{abs(hash(place.experiment)):x}"
    first, second = (put_run(store, tmp_path / "files", seed=seed) for seed in (0, 1))

    def promoted(refs: dict[str, Ref]) -> dict[str, Any]:
        under = Under(experiment=place.experiment)
        return promote(store, place.uri, name, refs["export"], refs["gate"], refs["cascade"], under=under)

    assert promoted(first)["promoted"]
    with place.faults.having(**trouble):
        refused = promoted(second)
    assert not refused["promoted"]
    assert re.search(said, refused["reasons"][0]), refused
    assert "its artifact store does not: " in refused["reasons"][0]
    assert "The champion is unchanged; run the pipeline again to promote." in refused["reasons"][0]
    client = place.server.client()
    assert client.get_registered_model(name).aliases == {"challenger": "1", "champion": "1"}
    assert len(client.search_model_versions(f"name = '{name}'")) == 1, "nothing was registered"
    again = promoted(second)
    assert (again["promoted"], again["version"]) == (True, "2")
    pull(f"models:/{name}@champion", tmp_path / "link", uri=place.uri)
    check_package(tmp_path / "link")
    print(refused["reasons"][0])


PULLS = [
    pytest.param({"num_busy": FOREVER}, Unreachable, "artifact store does not", id="503"),
    pytest.param({"fault": fault_proxy.hang_up}, Unreachable, "artifact store does not", id="hangs up"),
    pytest.param({"fault": fault_proxy.cut_download}, (Unreachable, CorruptModel), "store does not|etch it again",
                 id="cut"),
    pytest.param({"fault": fault_proxy.changed_download}, CorruptModel, "etch it again", id="wrong hash"),
]  # fmt: skip


def test_pull_shows_what_it_showed_until_a_whole_version_is_there(place: Place, tmp_path: Path) -> None:
    store, name, link = LocalStore(tmp_path / "store"), f"net-{abs(hash(place.experiment)):x}", tmp_path / "link"
    for seed in (0, 1):
        refs = put_run(store, tmp_path / "files", seed=seed)
        under = Under(experiment=place.experiment)
        assert promote(store, place.uri, name, refs["export"], refs["gate"], None, under=under)["promoted"]
    pull(f"models:/{name}/1", link, uri=place.uri)
    before = Versions(link).current()
    for case in PULLS:
        trouble, kind, said = case.values
        with place.faults.having(**trouble), pytest.raises(kind, match=said) as caught:
            pull(f"models:/{name}@champion", link, uri=place.uri)
        assert Versions(link).current() == before
        check_package(link)
        assert [path.name for path in Versions(link).root.iterdir() if path.name.startswith(".partial")] == []
        print(f"{case.id}: {caught.value}")
    with place.faults.having(fault_proxy.slow):
        pull(f"models:/{name}@champion", link, uri=place.uri)
    assert Versions(link).current().startswith("2-")
    check_package(link)
