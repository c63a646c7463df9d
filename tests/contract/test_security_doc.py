"""What docs/security.md names is there: each defence in its module, each test in its file."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "security.md").read_text()
TESTS = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)
PATHS = re.findall(r"`((?:tests|shared|services|stdweb|docs)/[\w/.]+)(?:::\w+)?`", TEXT)
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for table in TEXT.split("| threat | defence | test |\n|---|---|---|\n")[1:]
    for line in table.split("\n\n")[0].splitlines()
]


def names_of(path: Path) -> set[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, functions)}


@pytest.mark.parametrize("path", sorted({path for path, _ in TESTS}))
def test_named_tests_exist(path: str) -> None:
    there = names_of(ROOT / path)
    assert {name for file, name in TESTS if file == path} <= there


def test_named_modules_exist() -> None:
    assert [path for path in PATHS if not (ROOT / path).exists()] == []


def test_every_threat_has_a_defence_and_a_test() -> None:
    assert len(ROWS) > 40
    for row in ROWS:
        assert len(row) == 3, row
        threat, defence, tests = row
        assert threat, row
        assert defence, row
        assert re.fullmatch(r"`tests/[\w/]+\.py::test_\w+`(, `tests/[\w/]+\.py::test_\w+`)*", tests), threat


def test_everything_that_looks_like_a_test_was_read() -> None:
    assert TEXT.count("::") == len(TESTS) > 80
