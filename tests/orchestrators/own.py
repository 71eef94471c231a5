"""What the tests of all orchestrators share: their environments, and a recipe that fails once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.e2e.command import ROOT, environment

WORDS = ["recipe=mine", "train.steps=20", "train.device=cpu", "tracker=none", "checkpoint.every=5", "recovery.raised=0"]


def program(name: str, word: str) -> str:
    """A program in the environment of an orchestrator."""
    path = ROOT / f".venv-{name}/bin/{word}"
    if not path.exists():
        pytest.skip(f"there is no {name} here: make .venv-{name}/.installed")
    return str(path)


def around(folder: Path) -> dict[str, str]:
    return environment(TRAINKIT_PYTHON=sys.executable, HOME=str(folder), NO_COLOR="1")


def recipe_of_ones_own(folder: Path) -> None:
    """In `folder`; while the file `broken` is there it fails in its 12th step, and takes that file away."""
    (folder / "recipes").mkdir()
    (folder / "conf/recipe").mkdir(parents=True)
    shipped = (ROOT / "conf/recipe/image_classification.yaml").read_text()
    named = shipped.replace("recipes.image_classification.ImageClassification", "recipes.mine.Mine")
    (folder / "conf/recipe/mine.yaml").write_text(named)
    (folder / "recipes/mine.py").write_text(
        "from dataclasses import dataclass\n"
        "from pathlib import Path\n"
        "from recipes.image_classification import ImageClassification\n\n"
        "steps = []\n\n\n"
        "@dataclass(frozen=True, kw_only=True)\n"
        "class Mine(ImageClassification):\n"
        "    def loss(self, output, targets):\n"
        "        if output.requires_grad:\n"
        "            steps.append(1)\n"
        "        if len(steps) == 12 and Path('broken').exists():\n"
        "            Path('broken').unlink()\n"
        "            raise ValueError('broken in a step')\n"
        "        return super().loss(output, targets)\n"
    )
