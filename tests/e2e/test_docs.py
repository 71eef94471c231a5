"""The recipe that docs/recipes.md shows, typed off into an empty folder."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def block(language: str, first_line: str) -> str:
    """The code block of docs/recipes.md that begins with `first_line`."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "recipes.md").read_text(), re.DOTALL)
    (found,) = [text for text in blocks if text.startswith(first_line)]
    return str(found)


def test_the_recipe_in_the_docs_runs_as_it_stands(tmp_path: Path) -> None:
    for path, text in {
        "recipes/mine.py": block("python", "# recipes/mine.py"),
        "conf/recipe/mine.yaml": block("yaml", "# @package _global_"),
    }.items():
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_text(text)
    subprocess.run(
        [sys.executable, "-m", "trainkit", "recipe=mine", "run.dir=run", "tracker=none"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=True,
    )
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = [row["eval_loss"] for row in rows if "eval_loss" in row]
    assert losses[-1] < 0.01 < losses[0]  # the mean of sin² is near one half
