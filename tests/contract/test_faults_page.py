"""Each row of the table of faults names a test that exists."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_row_is_proven_by_a_test_that_there_is():
    text = (ROOT / "docs" / "operate" / "faults.md").read_text().partition("## Rows")[2].partition("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(rows) >= 20
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        assert len(cells) == 4, row
        file, name = re.fullmatch(r"`([\w/]+\.py)` `(test_\w+)`", cells[3]).groups()
        tree = ast.parse((ROOT / "tests" / file).read_text())
        assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, row
