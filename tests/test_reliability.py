"""docs/reliability.md: each row names a test that exists."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]


def rows():
    """Cells of all rows of all tables, without headings."""
    lines = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")]
    return [row for row in cells if row[0] != "tested" and not row[0].startswith("---")]


def names_of_tests():
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (ROOT / "tests").rglob("test_*.py")]
    return {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_each_row_names_a_test():
    known = names_of_tests()
    for row in rows():
        assert len(row) == 3, row
        tests = [name.strip("` ") for name in row[2].split(",")]
        assert tests, row
        assert set(tests) <= known, set(tests) - known
