"""The rules of the house that a machine can check."""

import ast
import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from compress import catalogue
from compress.core.docstrings import attribute_docs
from compress.core.registry import FAMILIES
from compress.core.stage import STAGES, Ref, identity
from tests.toys import toy_task

ROOT = Path(__file__).parents[2]
PACKAGES = ("compress", "deploy", "components", "pipelines")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
ASSEMBLY = [path for path in SOURCES if {"stages", "components", "pipelines"} & set(path.relative_to(ROOT).parts)]

catalogue.load()


def trees(paths):
    return [(path.relative_to(ROOT), ast.parse(path.read_text())) for path in paths]


def test_there_is_something_to_check():
    assert len(SOURCES) > 60
    assert len(ASSEMBLY) > 20


def test_files_have_at_most_400_lines():
    assert [str(path) for path in SOURCES if len(path.read_text().splitlines()) > 400] == []


def test_functions_have_at_most_50_lines_below_their_docstring():
    long = []
    for path, tree in trees(SOURCES):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                first = node.body[1 if ast.get_docstring(node) and len(node.body) > 1 else 0]
                lines = node.end_lineno - first.lineno + 1
                inner = [one for one in node.body if isinstance(one, ast.FunctionDef)]
                lines -= sum(one.end_lineno - one.lineno + 1 for one in inner)
                if lines > 50:
                    long.append(f"{path}:{node.lineno} {node.name} ({lines})")
    assert long == []


def test_no_drawer_for_odds_and_ends():
    junk = {"utils", "util", "helpers", "helper", "common", "misc", "manager", "handler"}
    assert [str(path) for path in SOURCES if path.stem in junk] == []


def test_nothing_pickles():
    found = []
    for path, tree in trees(SOURCES):
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                names = [f"{node.value.id}.{node.attr}"]
            found += [
                f"{path}:{node.lineno} {name}"
                for name in names
                if name.split(".")[0] in {"pickle", "cloudpickle", "joblib", "dill"}
                or name in {"torch.load", "torch.save"}
            ]
    assert found == []


def test_assembly_does_not_switch_on_names():
    found = []
    for path, tree in trees(ASSEMBLY):
        for node in ast.walk(tree):
            if not isinstance(node, ast.Compare):
                continue
            sides = [node.left, *node.comparators]
            is_name = any(
                (isinstance(side, ast.Attribute) and side.attr == "name")
                or (isinstance(side, ast.Name) and side.id == "name")
                for side in sides
            )
            if is_name and any(isinstance(side, ast.Constant) and isinstance(side.value, str) for side in sides):
                found.append(f"{path}:{node.lineno}")
    assert found == []


def test_assembly_registers_nothing_but_stages():
    found = []
    for path, tree in trees(ASSEMBLY):
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr == "register"
                and getattr(node.func.value, "id", "") != "STAGES"
            ):
                found.append(f"{path}:{node.lineno}")
    assert found == []


def test_every_family_has_pieces_with_filled_cards():
    assert len(FAMILIES) >= 15
    for family in FAMILIES.values():
        assert len(family) >= 1, family.name
        for name in family:
            assert family[name].summary.endswith("."), f"{family.name} {name}"
            assert family.bind(name).as_json() == {"name": name}


STAGE_NAMES = sorted(name for name in STAGES if not name.startswith(("echo", "proof")))


@pytest.mark.parametrize("name", STAGE_NAMES)
def test_every_stage_says_what_it_takes(name):
    extra = STAGES[name].extra
    assert dataclasses.is_dataclass(extra["config"])
    assert extra["config"]().as_json() == {}
    assert set(extra["roles"]).isdisjoint(extra.get("optional_roles", ()))


@pytest.mark.parametrize("name", STAGE_NAMES)
def test_every_option_of_a_stage_is_explained(name):
    config = STAGES[name].extra["config"]
    assert {item.name for item in dataclasses.fields(config)} <= set(attribute_docs(config))


def test_only_evaluate_reads_the_test_split():
    assert [name for name in STAGE_NAMES if STAGES[name].extra.get("reads_test")] == ["evaluate"]


def run_python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_the_library_imports_within_a_second_of_torch():
    code = (
        "import time, torch; start = time.perf_counter(); import compress, compress.run, compress.store; "
        "print(time.perf_counter() - start)"
    )
    assert min(float(run_python(code)) for _ in range(3)) < 1.0


def test_steps_that_compute_nothing_do_without_torch():
    """Every task of a run is a process of its own; torch alone would take most of its time."""
    code = "import sys, deploy.conclude, deploy.promote, deploy.report, deploy.step; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_module_of_the_library_imports_without_any_extra():
    code = """
import importlib, pkgutil, sys
EXTRAS = {"mlflow", "onnx", "onnxruntime", "onnxscript", "boto3", "kfp", "optuna", "timm", "torchvision", "jinja2",
          "matplotlib", "tensorrt", "sklearn", "pandas"}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in EXTRAS:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
import compress
names = [found.name for found in pkgutil.walk_packages(compress.__path__, "compress.")]
for name in names:
    importlib.import_module(name)
print(len(names))
"""
    assert int(run_python(code)) > 50


def test_defaults_stay_what_they_were():
    """A default is no part of an identity: whoever changes one must count up the stage's version."""
    stages = {
        name: {
            "version": STAGES[name].extra.get("version", 1),
            "roles": [*STAGES[name].extra["roles"], *STAGES[name].extra.get("optional_roles", ())],
            "config": {
                item.name: repr(getattr(STAGES[name].extra["config"](), item.name))
                for item in dataclasses.fields(STAGES[name].extra["config"])
            },
        }
        for name in STAGE_NAMES
    }
    pieces = {
        f"{family.name}/{name}": {key: repr(option.default) for key, option in family[name].options.items()}
        for family in FAMILIES.values()
        for name in family
        if family.name not in ("knob", "proof", "stage") and name not in ("toy", "proof")
    }
    path = Path(__file__).parent / "defaults.json"
    if os.environ.get("SECATEUR_RECORD"):
        path.write_text(json.dumps({"stages": stages, "pieces": pieces}, indent=1, sort_keys=True) + "\n")
    assert {"stages": stages, "pieces": pieces} == json.loads(path.read_text())


def test_only_the_door_opens_the_test_split():
    opened = [
        f"{path}:{node.lineno}"
        for path, tree in trees(SOURCES)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "opened"
    ]
    assert [place.split(":")[0] for place in opened] == ["compress/run.py"]


def test_identities_stay_what_they_were():
    """A renamed stage or option would orphan everybody's finished work."""
    task = toy_task()
    refs = {}
    for name in STAGE_NAMES:
        extra = STAGES[name].extra
        parents = {role: Ref(f"{role}-0000000000000000") for role in extra["roles"]}
        refs[name] = identity(name, extra["config"](), parents, task)[0]
    refs["prune half"] = identity(
        "prune", STAGES["prune"].extra["config"](criterion="taylor"), {"model": Ref("train-0000000000000000")}, task
    )[0]
    refs["train longer"] = identity("train", STAGES["train"].extra["config"](epochs=7), {}, task)[0]
    refs["no task"] = identity("gate", STAGES["gate"].extra["config"](), {"evaluation": Ref("evaluate-0")}, None)[0]
    found = [f"{name}: {ref}" for name, ref in refs.items()]
    assert found == (Path(__file__).parent / "identities.txt").read_text().splitlines()
