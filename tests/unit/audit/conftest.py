"""A real run folder, made once."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.test_bad_steps import poison
from tests.unit.test_trainer import stop_during, trainer
from trainkit.runfolder import RunFolder

STEPS = 24  # of 4 samples out of 40: two epochs and a part of the third
OPTIONS: dict[str, Any] = {"steps": STEPS, "ledger": True, "checkpoint": {"every": 5}}
CONFIG = {"train": {"seed": 7, "global_batch": 4}, "checkpoint": {"dir": None}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two attempts: the first is asked to stop in step 7, step 12 is bad."""
    root = tmp_path_factory.mktemp("run")
    folder = RunFolder(root)
    folder.config.write_text(yaml.safe_dump(CONFIG))
    for attempt in (1, 2):
        folder.event("launch", attempt=attempt, ranks=1)
        t = trainer(root, attempt=attempt, **OPTIONS)
        if attempt == 1:
            stop_during(t, 6)
        poison(t, {12})
        status = t.fit()
        folder.event("end", step=t.progress.step, status=status, exit_code=0, seconds=1.0)
    return root


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "run")
