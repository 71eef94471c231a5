"""What all tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.conformance.pool import Pool

settings.register_profile("trainkit", deadline=None)  # how long an example takes on a shared machine proves nothing
settings.load_profile("trainkit")


@pytest.fixture(scope="session")
def pool() -> Iterator[Pool]:
    pool = Pool(8)
    yield pool
    pool.close()
