"""Runs that nothing disturbs, each made once: what a disturbed one is compared with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import psutil
import pytest

from tests.e2e.command import NOT_TRACKED, TWO, WORDS, done


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """The run folder of WORDS on one rank (strategy=local) or on two (ddp)."""

    @cache
    def run(ranks: int) -> Path:
        folder = tmp_path_factory.mktemp(f"undisturbed_{ranks}")
        done(folder, *WORDS, *NOT_TRACKED, *(TWO if ranks == 2 else ()))
        return folder / "run"

    return run


@pytest.fixture(autouse=True)
def nothing_outlives_its_test() -> Iterator[None]:
    """What a failed test has started and not waited for would disturb the next one."""
    before = set(psutil.Process().children(recursive=True))
    yield
    for process in set(psutil.Process().children(recursive=True)) - before:
        process.kill()
