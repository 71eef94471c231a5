"""A person's own project (a folder that is not trainkit's, with one recipe in it), and waiting for other processes."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

YAML = """\
# @package _global_
# Mine, in one line.
recipe:
  _target_: recipes.mine.Mine
  width: 4
  lora:
    r: 8
train:
  steps: 3
"""

PYTHON = """\
from dataclasses import dataclass
from typing import ClassVar

from trainkit import Task


@dataclass(frozen=True, kw_only=True)
class Lora:
    r: int


@dataclass(frozen=True, kw_only=True)
class Mine(Task):
    free: ClassVar[frozenset[str]] = frozenset({"width"})
    width: int
    lora: Lora | None

    def build_model(self): ...
    def build_data(self): ...
    def loss(self, output, targets): ...
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working directory for one test; its name has what shells and hydra treat specially."""
    root = tmp_path / "a project, (mine)"
    write(root / "conf/recipe/mine.yaml", YAML)
    write(root / "recipes/mine.py", PYTHON)
    monkeypatch.chdir(root)
    known = {name: sys.modules.pop(name) for name in recipe_modules()}
    yield root
    for name in recipe_modules():
        del sys.modules[name]
    sys.modules.update(known)


def recipe_modules() -> list[str]:
    return [name for name in sys.modules if name.split(".")[0] == "recipes"]


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def until(condition: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
    """Wait for `condition`; fail with `what` if it does not come."""
    end = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.05)
