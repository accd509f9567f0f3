"""The rules of the house hold for studies too."""

import ast
import re
from pathlib import Path

from compress import catalogue
from compress.studies.finder import find_study
from studies.ideas import ROOT, STUDIES

catalogue.load()
SOURCES = sorted(STUDIES.rglob("*.py"))


def test_files_have_at_most_400_lines_and_functions_50():
    long = []
    for path in SOURCES:
        lines = path.read_text().splitlines()
        if len(lines) > 400:
            long.append(str(path))
        for node in ast.walk(ast.parse("\n".join(lines))):
            if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno > 55:
                long.append(f"{path}:{node.lineno} {node.name}")
    assert long == []


def test_test_images_are_opened_in_two_places():
    found = {
        str(path.relative_to(STUDIES))
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "opened"
    }
    assert found == {"protocol.py", "0007-resnet56/study.py"}


def test_nothing_imports_a_study():
    places = [ROOT / package for package in ("compress", "deploy", "components", "pipelines")]
    imports = re.compile(r"^\s*(from|import) studies\b", re.MULTILINE)
    assert [str(path) for place in places for path in place.rglob("*.py") if imports.search(path.read_text())] == []


def test_the_skeleton_is_a_study(tmp_path):
    text = (ROOT / "docs" / "skeletons" / "study.md").read_text()
    folder = tmp_path / "studies" / "0099-question"
    folder.mkdir(parents=True)
    (folder / "study.py").write_text(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1])
    study = find_study(Path(tmp_path / "studies"), "99").study
    assert [len(study.cells(preset)) for preset in study.presets] == [2, 6]
