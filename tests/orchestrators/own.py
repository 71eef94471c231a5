"""What the tests of all orchestrators share: their environments, and a run of a recipe that fails once."""

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
