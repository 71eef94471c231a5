"""Two machines for all tests here, and the run that theirs are compared with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.command import done
from tests.multinode.hosts import Hosts, missing
from tests.multinode.runs import WORDS


@pytest.fixture(scope="session")
def machines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    if why := missing():
        pytest.skip(f"no machines of their own here: {why}")
    with Hosts(tmp_path_factory.mktemp("hosts"), "a", "b") as hosts:
        yield hosts


@pytest.fixture
def hosts(machines: Hosts) -> Iterator[Hosts]:
    """Both are on, and nothing runs on them, before and after."""
    yield machines
    machines.restore()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of WORDS with two ranks on this machine."""
    folder = tmp_path_factory.mktemp("undisturbed")
    done(folder, *WORDS, "launcher.ranks=2")
    return folder / "run"
