"""What the conformance tests share: the run that all others are compared with."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.pool import Pool
from tests.conformance.training import train


@pytest.fixture(scope="session")
def reference(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of strategy=local with the settings' defaults. Nothing may write into it."""
    folder = tmp_path_factory.mktemp("local")
    pool.run(1, train, str(folder), 1, None, {"strategy": "local"})
    return folder
