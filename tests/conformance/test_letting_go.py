"""A rank lets go of the process group of a broken attempt after everything that uses it. DistributedDataParallel as its
last holder waits for gloo's threads with Python's lock in its hand, and once in a hundred times they wait for it."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch.distributed as dist

from tests.conformance.pool import Pool
from tests.conformance.settings import make
from trainkit import main
from trainkit.rescue import Pocket
from trainkit.runfolder import RunFolder


class Engine:
    """Looks, at its own end, which the collector brings about."""

    def __init__(self, look: Callable[[], None]) -> None:
        self.look, self.itself = look, self

    def __del__(self) -> None:
        self.look()


def break_one(folder: str) -> list[bool]:
    ready, pocket = main.with_data(make(folder, strategy="ddp")), Pocket()
    said: list[bool] = []
    groups: list[weakref.ref[Any]] = []  # here: the collector clears those in what it collects

    def train(*given: Any) -> None:
        groups.append(weakref.ref(dist.group.WORLD))
        engine = Engine(lambda: said.append(groups[0]() is not None))
        pocket.kept = "a step"  # type: ignore[assignment]
        raise ValueError(f"broken, with {engine}")

    with patch.object(main, "train", train), pytest.raises(ValueError, match="broken"):
        main.fit(ready, RunFolder(Path(folder)), 1, carried=pocket)
    return [*said, groups[0]() is not None]


def test_the_group_goes_last(pool: Pool, tmp_path: Path) -> None:
    assert pool.run(1, break_one, str(tmp_path)) == [[True, False]]
