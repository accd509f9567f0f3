"""A stateful stand-in for Kubeflow's REST API, over HTTP, that takes and gives what `kfp_server_api`'s models describe.

It refuses what the real one refuses and the SDK's author of a body can get wrong: unknown fields, wrong types,
five-field cron, pipelines and experiments that do not exist. It schedules nothing and runs nothing.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import kfp_server_api
from kfp_server_api import models

PREFIX = "/apis/v2beta1"


class Refused(Exception):
    """An answer that is not 200."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def parsed(data: Any, kind: str) -> Any:
    """Return a body as the model `kind`, or refuse it."""
    unknown = _unknown(data, kind)
    if unknown:
        raise Refused(400, f"unknown field {unknown}")
    try:
        return kfp_server_api.ApiClient().deserialize(SimpleNamespace(data=json.dumps(data)), kind)
    except (ValueError, TypeError, kfp_server_api.ApiException) as error:
        raise Refused(400, f"{kind}: {error}") from error


def _unknown(data: Any, kind: str) -> str:
    model = getattr(models, kind, None)
    if model is None or not getattr(model, "openapi_types", None) or not isinstance(data, dict):
        return ""
    names = {json_name: model.openapi_types[name] for name, json_name in model.attribute_map.items()}
    for key, value in data.items():
        if key not in names:
            return f"{kind}.{key}"
        if inner := _unknown(value, names[key]):
            return inner
    return ""


class State:
    """What the server knows; `requests` lists every call, `authorizations` what each showed to be let in, `failing` the
    calls that it answers with 500.
    """

    def __init__(self) -> None:
        self.items: dict[str, dict[str, Any]] = {"experiments": {}, "pipelines": {}, "versions": {}, "runs": {}}
        self.items["recurring_runs"] = {}
        self.requests: list[tuple[str, str]] = []
        self.authorizations: list[str] = []
        self.failing: set[tuple[str, str]] = set()
        self.page = 1000
        self.clock = datetime(2026, 11, 22, tzinfo=UTC)

    def add(self, kind: str, id_name: str, item: Any) -> Any:
        """Keep an item under a new id."""
        self.clock += timedelta(seconds=1)
        setattr(item, id_name, str(uuid.uuid4()))
        item.created_at = self.clock
        self.items[kind][getattr(item, id_name)] = item
        return item

    def one(self, kind: str, key: str) -> Any:
        """Return an item, or refuse with 404."""
        if key not in self.items[kind]:
            raise Refused(404, f"{kind} {key} not found")
        return self.items[kind][key]

    def some(self, kind: str, query: dict[str, str]) -> tuple[list[Any], str]:
        """Return one page of the items that the filter lets through, and the next page's token."""
        found = list(self.items[kind].values())
        for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
            found = [item for item in found if getattr(item, predicate["key"]) == predicate["stringValue"]]
        start = int(query.get("page_token") or 0)
        end = start + min(int(query.get("page_size") or 20), self.page)
        return found[start:end], str(end) if end < len(found) else ""


def _listed(state: State, kind: str, query: dict[str, str], **match: str) -> Any:
    answers = {
        "experiments": models.V2beta1ListExperimentsResponse,
        "pipelines": models.V2beta1ListPipelinesResponse,
        "versions": models.V2beta1ListPipelineVersionsResponse,
        "recurring_runs": models.V2beta1ListRecurringRunsResponse,
    }
    found, token = state.some(kind, query)
    kept = [item for item in found if all(getattr(item, key) == value for key, value in match.items())]
    field = "pipeline_versions" if kind == "versions" else kind
    return answers[kind](**{field: kept, "next_page_token": token})


def create_experiment(state: State, query: dict[str, str], body: Any) -> Any:
    return state.add("experiments", "experiment_id", parsed(body, "V2beta1Experiment"))


def create_pipeline(state: State, query: dict[str, str], body: Any) -> Any:
    made = parsed(body, "V2beta1Pipeline")
    if any(item.display_name == made.display_name for item in state.items["pipelines"].values()):
        raise Refused(409, f"pipeline {made.display_name} exists")
    return state.add("pipelines", "pipeline_id", made)


def upload_version(state: State, query: dict[str, str], body: bytes) -> Any:
    state.one("pipelines", query["pipelineid"])
    if b"pipelineInfo" not in body:
        raise Refused(400, "the file is no pipeline")
    made = models.V2beta1PipelineVersion(display_name=query["name"], pipeline_id=query["pipelineid"])
    return state.add("versions", "pipeline_version_id", made)


def create_run(state: State, query: dict[str, str], body: Any) -> Any:
    made = parsed(body, "V2beta1Run")
    _check_references(state, made)
    made.state = "PENDING"
    return state.add("runs", "run_id", made)


def create_recurring_run(state: State, query: dict[str, str], body: Any) -> Any:
    made = parsed(body, "V2beta1RecurringRun")
    _check_references(state, made)
    if len((made.trigger.cron_schedule.cron or "").split()) != 6:
        raise Refused(400, "Schedule cron is not a 6-field cron")
    if not 1 <= int(made.max_concurrency or 0) <= 10:
        raise Refused(400, "The max concurrency of the job is out of range. Support 1-10.")
    made.status = "ENABLED" if made.mode == "ENABLE" else "DISABLED"
    return state.add("recurring_runs", "recurring_run_id", made)


def delete_recurring_run(state: State, query: dict[str, str], body: Any, key: str) -> Any:
    state.one("recurring_runs", key)
    del state.items["recurring_runs"][key]
    return {}


def _check_references(state: State, made: Any) -> None:
    state.one("experiments", made.experiment_id)
    reference = made.pipeline_version_reference
    state.one("pipelines", reference.pipeline_id)
    if reference.pipeline_version_id:
        state.one("versions", reference.pipeline_version_id)


#: Method and path (after the prefix) to what answers; groups of the path come last.
ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "/healthz", lambda state, query, body: models.V2beta1GetHealthzResponse(multi_user=False)),
    ("GET", "/experiments", lambda state, query, body: _listed(state, "experiments", query)),
    ("POST", "/experiments", create_experiment),
    ("GET", "/pipelines", lambda state, query, body: _listed(state, "pipelines", query)),
    ("POST", "/pipelines", create_pipeline),
    ("POST", "/pipelines/upload_version", upload_version),
    ("GET", "/pipelines/([^/]+)/versions", lambda s, query, body, key: _listed(s, "versions", query, pipeline_id=key)),
    ("POST", "/runs", create_run),
    ("GET", "/runs/([^/]+)", lambda state, query, body, key: state.one("runs", key)),
    ("GET", "/recurringruns", lambda state, query, body: _listed(state, "recurring_runs", query)),
    ("POST", "/recurringruns", create_recurring_run),
    ("DELETE", "/recurringruns/([^/]+)", delete_recurring_run),
]


def _handler(state: State) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            url = urlsplit(self.path)
            path, query = url.path.removeprefix(PREFIX), dict(parse_qsl(url.query))
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            state.requests.append((self.command, path))
            state.authorizations.append(self.headers.get("Authorization", ""))
            status, data = self.result(path, query, raw)
            text = json.dumps(data).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def result(self, path: str, query: dict[str, str], raw: bytes) -> tuple[int, Any]:
            try:
                if (self.command, path) in state.failing:
                    raise Refused(500, "the database is away")
                for method, pattern, function in ROUTES:
                    found = re.fullmatch(pattern, path)
                    if method == self.command and found:
                        is_json = "json" in (self.headers.get("Content-Type") or "")
                        body = json.loads(raw) if is_json and raw else raw
                        made = function(state, query, body, *found.groups())
                        return 200, kfp_server_api.ApiClient().sanitize_for_serialization(made)
                raise Refused(404, f"no {self.command} {path}")
            except Refused as error:
                return error.status, {"error": str(error), "message": str(error), "code": 3}

        do_GET = do_POST = do_DELETE = answer

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler


@contextmanager
def kubeflow() -> Iterator[tuple[str, State]]:
    """Serve the API on the loopback; yield its address and its state."""
    state = State()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", state
    finally:
        server.shutdown()
        server.server_close()
