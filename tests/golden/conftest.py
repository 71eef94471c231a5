"""`make golden` writes the committed files anew; look at the difference before you commit it."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-golden",
        action="store_true",
        help="write the committed files of tests/golden, and the README's table, anew",
    )


@pytest.fixture
def write_golden(request: pytest.FixtureRequest) -> bool:
    # Absent where pytest was started on the whole tree: this file is then read after the options are.
    return bool(request.config.getoption("--write-golden", default=False))
