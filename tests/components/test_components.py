"""Every component: typed and documented signature, one call, metadata, README, and what it hands to its step."""

import ast
import importlib
import inspect
import json
import re
import sys
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import pytest
import yaml
from kfp import compiler, dsl

from components import readme

NAMES = readme.names()
STAGES = [
    "train",
    "search",
    "sensitivity",
    "prune",
    "distill",
    "finetune_quant",
    "export",
    "cascade",
    "evaluate",
    "gate",
]
DEPLOY = ("deploy.step", "deploy.conclude", "deploy.night")
STABILITIES = ("experimental", "alpha", "beta", "stable")


def source(name: str) -> str:
    return (readme.FOLDER / name / "component.py").read_text()


def function_of(name: str) -> ast.FunctionDef:
    return next(node for node in ast.parse(source(name)).body if isinstance(node, ast.FunctionDef))


def test_there_is_one_for_every_step():
    assert sorted([*STAGES, "resolve", "verdict", "promote", "report", "close_run", "tonight"]) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_signature_is_typed_and_every_argument_described(name):
    function = readme.component(name).python_func
    signature = inspect.signature(function)
    assert signature.return_annotation is not inspect.Signature.empty
    text = inspect.getdoc(function)
    for argument in signature.parameters.values():
        assert argument.annotation is not inspect.Parameter.empty, argument.name
        assert re.search(rf"^    {argument.name}: \S.*\.$", text, re.MULTILINE), argument.name
    assert text.partition("\n")[0].endswith(".")


@pytest.mark.parametrize("name", NAMES)
def test_body_is_short_and_calls_deploy_once(name):
    assert 20 <= len(source(name).splitlines()) <= 60
    function = function_of(name)
    imported = {
        alias.asname or alias.name
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom) and node.module in DEPLOY
        for alias in node.names
    }
    called = [node.func.id for node in ast.walk(function) if isinstance(node, ast.Call) and hasattr(node.func, "id")]
    assert sum(called.count(each) for each in imported) == (0 if name == "verdict" else 1)
    assert not [node for node in ast.walk(function) if isinstance(node, ast.If | ast.For | ast.While | ast.Try)]


@pytest.mark.parametrize("name", NAMES)
def test_module_imports_nothing_but_kubeflow_and_the_image(name):
    tops = [node for node in ast.parse(source(name)).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert {node.module for node in tops} <= {"typing", "kfp", "components.image"}


@pytest.mark.parametrize("name", NAMES)
def test_compiles_without_installing_anything(name, tmp_path):
    compiler.Compiler().compile(readme.component(name), str(tmp_path / "c.yaml"))
    container = readme.component(name).component_spec.implementation.container
    assert "pip install" not in " ".join(container.command)
    assert container.image.startswith("ghcr.io/secateur/")
    assert "python" in container.image


@pytest.mark.parametrize("name", NAMES)
def test_metadata_says_what_the_catalogue_of_kubeflow_asks_for(name):
    meta = yaml.safe_load((readme.FOLDER / name / "metadata.yaml").read_text())
    assert set(meta) == {"name", "stability", "dependencies", "tags", "lastVerified", "ci"}
    assert meta["name"] == name
    assert meta["stability"] in STABILITIES
    (pipelines,) = meta["dependencies"]["kubeflow"]
    assert pipelines["name"] == "Pipelines"
    assert all(isinstance(tag, str) for tag in meta["tags"])
    assert meta["lastVerified"].astimezone(UTC) < datetime(2100, 1, 1, tzinfo=UTC)
    assert isinstance(meta["ci"]["skip_dependency_probe"], bool)


def test_the_image_is_read_when_the_component_is_compiled(monkeypatch):
    from components import image

    monkeypatch.setenv("SECATEUR_IMAGE", "registry.example/python@sha256:00")
    assert importlib.reload(image).IMAGE == "registry.example/python@sha256:00"
    monkeypatch.delenv("SECATEUR_IMAGE")
    importlib.reload(image)


@pytest.fixture
def step(monkeypatch) -> dict[str, Any]:
    """Modules of `deploy` that remember their last call and answer with `step["answer"]`."""
    seen: dict[str, Any] = {"answer": {"ref": "x-1", "reused": False, "folder": "/f", "report": {}, "metrics": {}}}
    module = ModuleType("deploy.step")

    def remember(name):
        def call(*args, **kwargs):
            seen.update(name=name, args=args, kwargs=kwargs)
            return seen["answer"]

        return call

    for name in ("run_step", "resolve", "promote_step", "report_step", "close_run"):
        setattr(module, name, remember(name))
    for path in DEPLOY:
        monkeypatch.setitem(sys.modules, path, module)
    return seen


def call(name: str, tmp_path, **given: Any) -> tuple[Any, dict[str, Any]]:
    """Call a component's function with artifacts that lie in `tmp_path`."""
    function = readme.component(name).python_func
    kinds = {"pointer": dsl.Model, "metrics": dsl.Metrics, "page": dsl.HTML}
    wanted = inspect.signature(function).parameters
    made = {key: kind(name=key, uri=str(tmp_path / key)) for key, kind in kinds.items() if key in wanted}
    texts = {key: f"<{key}>" for key, item in wanted.items() if item.annotation is str and key not in given}
    return function(**made, **texts, **given), made


@pytest.mark.parametrize("name", [name for name in STAGES if name != "gate"])
def test_a_stage_component_hands_over_its_arguments_and_returns_the_ref(name, step, tmp_path):
    step["answer"] |= {"metrics": {"macs": 7.0}}
    returned, made = call(name, tmp_path)
    assert returned == "x-1"
    assert step["args"] == (name,)
    roles = {role: f"<{role}>" for role in step["kwargs"]["parents"]}
    assert step["kwargs"]["label"] == "<label>"
    assert step["kwargs"]["parent_run"] == "<parent_run>"
    assert step["kwargs"]["workspace"] == "<workspace>"
    assert step["kwargs"]["task"] == "<task>"
    if name != "train":
        assert step["kwargs"]["config"] == "<config>"
        assert step["kwargs"]["parents"] == roles
    assert made["metrics"].metadata == {"macs": 7.0}
    if "pointer" in made:
        assert json.loads((tmp_path / "pointer").read_text())["ref"] == "x-1"
        assert made["pointer"].metadata["stage"] == name


def test_roles_are_those_of_the_stages_cards():
    from compress import catalogue
    from compress.core.stage import STAGES as CARDS

    catalogue.load()
    for name in (name for name in STAGES if name != "train"):
        extra = CARDS[name].extra
        inputs = set(readme.component(name).component_spec.inputs)
        assert inputs - {"config", "task", "workspace", "parent_run", "label"} <= {
            *extra.get("roles", ()),
            *extra.get("optional_roles", ()),
        }, name
        assert set(extra.get("roles", ())) <= inputs, name


def test_train_passes_a_given_teacher_through(step, tmp_path):
    call("train", tmp_path, teacher="train-1")
    assert step["kwargs"]["config"] == "off"
    assert step["kwargs"]["parents"] == {"model": "train-1"}
    call("train", tmp_path, teacher="")
    assert step["kwargs"]["config"] == "<config>"
    assert step["kwargs"]["parents"] == {}


def test_gate_returns_a_candidate(step, tmp_path):
    step["answer"] |= {"ref": "gate-1", "report": {"passed": True}}
    returned, _ = call("gate", tmp_path, evaluation="evaluate-1", label="half")
    assert json.loads(returned) == {"ref": "gate-1", "passed": True, "label": "half", "evaluation": "evaluate-1"}
    assert step["kwargs"]["parents"] == {"evaluation": "evaluate-1"}


def test_verdict_is_true_when_one_passed(tmp_path):
    assert call("verdict", tmp_path, candidates=['{"passed": false}', '{"passed": true}'])[0] is True
    assert call("verdict", tmp_path, candidates=['{"passed": false}'])[0] is False


def test_resolve_returns_the_pinned_values_in_their_order(step, tmp_path):
    step["answer"] = {"task": "t@1", "teacher_ref": "r", "parent_run": "p", "data_digest": "d"}
    assert call("resolve", tmp_path, budgets=[{"name": "half"}])[0] == ("t@1", "r", "p", "d")
    assert step["args"][3] == '[{"name": "half"}]'


def test_promote_hands_over_candidates_as_objects(step, tmp_path):
    step["answer"] = {"ref": "promote-1", "promoted": True, "version": "3", "verdict": "passed", "metrics": {}}
    assert call("promote", tmp_path, candidates=['{"ref": "gate-1"}'])[0] == "promote-1"
    assert step["args"] == ([{"ref": "gate-1"}],)
    assert step["kwargs"]["model_name"] == "<model_name>"


def test_report_writes_the_page(step, tmp_path):
    step["answer"] = {"path": "/w/report.html", "html": "<html>x</html>"}
    assert call("report", tmp_path, candidates=['{"ref": "gate-1"}'], promotion="")[0] == "/w/report.html"
    assert (tmp_path / "page").read_text() == "<html>x</html>"
    assert json.loads(step["args"][0]) == {"teacher": "<teacher>", "candidates": [{"ref": "gate-1"}], "promotion": ""}


def test_close_run_hands_over_how_it_ended(step, tmp_path, capsys):
    status = dsl.PipelineTaskFinalStatus("FAILED", "job", "run", 1, None)
    step["answer"] = None
    call("close_run", tmp_path, status=status)
    assert step["kwargs"]["status"] == "FAILED"
    assert step["kwargs"]["error"] == ""
    assert capsys.readouterr().out.startswith("secateur-step ")
