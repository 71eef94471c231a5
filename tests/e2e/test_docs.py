"""The recipe that docs/recipes.md shows, typed off into an empty folder, and every command that the documentation
shows, checked in that folder."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"(?:^|^ {4}|`)python -m trainkit ([^`\n]+)", re.MULTILINE)
PLACEHOLDER = re.compile(r"\b[A-Z]{2,}\b|\.\.\.")


def block(language: str, first_line: str) -> str:
    """The code block of docs/recipes.md that begins with `first_line`."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "recipes.md").read_text(), re.DOTALL)
    (found,) = [text for text in blocks if text.startswith(first_line)]
    return str(found)


def commands() -> list[str]:
    """The words after `python -m trainkit` of every command in the docs that can be typed as it stands."""
    found = [shlex.join(shlex.split(c, comments=True)) for doc in DOCS for c in COMMAND.findall(doc.read_text())]
    return sorted({command for command in found if not PLACEHOLDER.search(command)})


def trainkit(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """`python -m trainkit WORDS` in `folder`, as on a machine without GPUs."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "trainkit", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the docs show or speak of."""
    folder = tmp_path_factory.mktemp("typed")
    for path, text in {
        "recipes/mine.py": block("python", "# recipes/mine.py"),
        "conf/recipe/mine.yaml": block("yaml", "# @package _global_"),
        "mine.jsonl": block("json", '{"prompt"'),
        "texts/part/one.md": "In the beginning was the text.\n",
    }.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


def test_the_recipe_in_the_docs_runs_as_it_stands(typed: Path) -> None:
    done = trainkit(typed, "recipe=mine", "run.dir=run", "tracker=none")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [json.loads(line) for line in (typed / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["eval_loss"] for row in rows if "eval_loss" in row]
    assert losses[-1] < 0.01 < losses[0]  # the mean of sin² is near one half


@pytest.mark.parametrize("command", commands())
def test_a_command_in_the_docs_is_accepted(command: str, typed: Path) -> None:
    """A run is checked and not started; the commands that only answer are given as they are."""
    words = shlex.split(command)
    done = trainkit(typed, *(["validate", *words] if "=" in words[0] else words))
    assert done.returncode == 0, done.stderr


def test_the_docs_show_every_recipe_and_every_command_that_answers() -> None:
    words = {word for command in commands() for word in shlex.split(command)}
    recipes = {f"recipe={path.stem}" for path in (ROOT / "conf" / "recipe").glob("*.yaml")}
    assert recipes | {"recipe=mine", "validate", "config", "ls", "env", "--help"} <= words
