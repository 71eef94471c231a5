"""A recipe of one's own that fails once."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.command import ROOT

RECIPE = """\
from dataclasses import dataclass
from pathlib import Path

from recipes.image_classification import ImageClassification

steps = []


@dataclass(frozen=True, kw_only=True)
class Mine(ImageClassification):
    def loss(self, output, targets):
        if output.requires_grad:
            steps.append(1)
        if {fails} and len(steps) == 12 and Path("broken").exists():
            Path("broken").unlink()
            raise ValueError("broken in a step")
        return super().loss(output, targets)
"""


def recipe_of_ones_own(folder: Path, fails: str = "True") -> None:
    """`recipe=mine` in `folder`; while the file `broken` is there, one that `fails` does so in its 12th step, and takes
    that file away."""
    (folder / "recipes").mkdir()
    (folder / "conf/recipe").mkdir(parents=True)
    shipped = (ROOT / "conf/recipe/image_classification.yaml").read_text()
    named = shipped.replace("recipes.image_classification.ImageClassification", "recipes.mine.Mine")
    (folder / "conf/recipe/mine.yaml").write_text(named)
    (folder / "recipes/mine.py").write_text(RECIPE.format(fails=fails))
