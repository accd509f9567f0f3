"""What people copy must work: the skeletons register as they stand."""

import ast
import importlib.util
from pathlib import Path

import pytest

SKELETONS = Path(__file__).parents[2] / "docs" / "skeletons"


@pytest.mark.parametrize("name", ["piece.py", "stage.py"])
def test_a_skeleton_imports_what_exists(name):
    for node in ast.walk(ast.parse((SKELETONS / name).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith("__future__"):
            module = importlib.import_module(node.module)
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_the_skeleton_of_a_piece_registers():
    from compress.prune.criteria.family import CRITERIA

    spec = importlib.util.spec_from_file_location("skeleton_piece", SKELETONS / "piece.py")
    try:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        assert CRITERIA["NAME"].options["option"].default == 1.0
    finally:
        CRITERIA._cards.pop("NAME", None)
