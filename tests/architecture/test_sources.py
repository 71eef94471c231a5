"""Habits of the library's files that no linter checks."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path.relative_to(ROOT) for folder in ("trainkit", "recipes") for path in (ROOT / folder).rglob("*.py"))
FILE_LINES, FUNCTION_LINES, ARGUMENTS = 400, 50, 8

Function = ast.FunctionDef | ast.AsyncFunctionDef


def nodes(path: Path) -> list[ast.AST]:
    return list(ast.walk(ast.parse((ROOT / path).read_text())))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_files_and_functions_stay_small(path: Path) -> None:
    assert len((ROOT / path).read_text().splitlines()) < FILE_LINES
    functions = [node for node in nodes(path) if isinstance(node, Function)]
    assert [f.name for f in functions if (f.end_lineno or 0) - f.lineno + 1 >= FUNCTION_LINES] == []


@pytest.mark.parametrize("path", FILES, ids=str)
def test_constructors_take_few_arguments(path: Path) -> None:
    made = [node for node in nodes(path) if isinstance(node, Function) and node.name == "__init__"]
    assert [f.lineno for f in made if len(f.args.args) + len(f.args.kwonlyargs) - 1 >= ARGUMENTS] == []


@pytest.mark.parametrize("path", FILES, ids=str)
def test_nothing_is_asserted_and_nothing_is_guessed(path: Path) -> None:
    """`assert` is gone under -O, and hasattr hides what a thing is."""
    guesses = [n.lineno for n in nodes(path) if isinstance(n, ast.Name) and n.id == "hasattr"]
    assert [node.lineno for node in nodes(path) if isinstance(node, ast.Assert)] + guesses == []


@pytest.mark.parametrize("path", [path for path in FILES if path.name != "__init__.py"], ids=str)
def test_every_file_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse((ROOT / path).read_text()))
