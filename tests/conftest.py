"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.comparison import FEW_STEPS, alone
from tests.conformance.pool import Pool

settings.register_profile("trainkit", deadline=None)  # how long an example takes on a shared machine proves nothing
settings.load_profile("trainkit")


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    pool = Pool(8)
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of FEW_STEPS with strategy=local."""
    return alone(tmp_path_factory.mktemp("local"), *FEW_STEPS)
