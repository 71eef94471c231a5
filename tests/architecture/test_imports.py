"""The import rule of pyproject.toml, and what the answering commands must not load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SLOW = {"torch", "transformers", "peft", "mlflow", "numpy", "sklearn", "pandas", "deepspeed"}


def test_the_layers_hold() -> None:
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "words",
    [
        *(["--help"], ["ls"], ["env"], ["config", "recipe=llm_finetune"], []),
        *(["validate", "recipe=image_classification", f"strategy={name}"] for name in ("ddp", "zero3")),
    ],
    ids=lambda words: " ".join(words) or "nothing",
)
def test_a_command_that_only_answers_loads_nothing_slow(words: list[str]) -> None:
    code = (
        f"import sys; from trainkit.cli.main import main; main({words!r}); sys.exit(str({SLOW!r} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr.splitlines()[-1] == "set()"


def test_a_recipe_needs_no_torch_to_be_described() -> None:
    """`from trainkit import Task` is what every recipe begins with."""
    code = "import sys, trainkit; trainkit.Task; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT).stdout == "False\n"
