"""Imports point down; import-linter's contracts of pyproject.toml hold."""

import subprocess
import sys
from pathlib import Path


def test_layers_hold():
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert result.returncode == 0, result.stdout
    assert "0 broken" in result.stdout
