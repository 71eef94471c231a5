"""No test here writes to the machine's own memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainkit.checkpoint import memory


@pytest.fixture(autouse=True)
def root(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What takes the place of /dev/shm."""
    root = tmp_path_factory.mktemp("shm")
    monkeypatch.setattr(memory, "ROOT", root)
    return root
