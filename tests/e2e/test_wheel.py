"""The built wheel, far from any checkout: the shipped recipes are in it, and a person's own need no change to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

YAML = """\
# @package _global_
# A straight line through noisy points.
recipe:
  _target_: recipes.line.Line
  slope: 3.0
train:
  steps: 100                    # Adam moves by about lr per step: half of 100 * 0.1 is further than the answer
  global_batch: 16
optimizer:
  lr: 0.1
"""

PYTHON = """\
from dataclasses import dataclass

import torch

from trainkit import Batch, Data, Task


class Points:
    def __init__(self, slope):
        self.x = torch.linspace(-1, 1, 64).unsqueeze(1)
        self.y = slope * self.x

    def __len__(self):
        return len(self.x)

    def fetch(self, ids):
        rows = list(ids)
        return Batch({"input": self.x[rows]}, {"y": self.y[rows]}, len(rows), len(rows))


@dataclass(frozen=True, kw_only=True)
class Line(Task):
    slope: float

    def build_model(self):
        return torch.nn.Linear(1, 1)

    def build_data(self):
        return Data(Points(self.slope), Points(self.slope))

    def loss(self, output, targets):
        return (output - targets["y"]).square().sum()
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheel of this checkout is installed, without its dependencies."""
    folder = tmp_path_factory.mktemp("wheel")
    python("-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT), cwd=folder)
    (wheel,) = folder.glob("*.whl")
    python("-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder / "site"), str(wheel), cwd=folder)
    return folder / "site"


def python(*words: str, cwd: Path, path: Path | None = None) -> str:
    """What a Python process prints that knows of no trainkit but the one in `path`."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run([sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_shipped_recipes_are_found_from_an_empty_folder(site: Path, tmp_path: Path) -> None:
    shipped = sorted(path.stem for path in (ROOT / "conf/recipe").glob("*.yaml"))
    listed = python("-m", "trainkit", "ls", "recipe", cwd=tmp_path, path=site)
    assert [line.split()[0] for line in listed.splitlines() if line.startswith("  ")] == shipped
    for recipe in shipped:
        assert f"{recipe}: OK" in python("-m", "trainkit", "validate", f"recipe={recipe}", cwd=tmp_path, path=site)
    assert str(site) in python("-c", "import trainkit; print(trainkit.__file__)", cwd=tmp_path, path=site)
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_of_ones_own_trains_with_no_change_to_trainkit(site: Path, tmp_path: Path) -> None:
    (tmp_path / "conf/recipe").mkdir(parents=True)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "conf/recipe/line.yaml").write_text(YAML)
    (tmp_path / "recipes/line.py").write_text(PYTHON)
    python("-m", "trainkit", "recipe=line", "run.dir=run", "tracker=none", "train.device=cpu", cwd=tmp_path, path=site)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    before, after = (row["eval_loss"] for row in rows if "eval_loss" in row)
    assert after < before / 10
    assert (tmp_path / "run/model/model.safetensors").is_file()
