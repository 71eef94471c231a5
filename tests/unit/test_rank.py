"""A rank process that has outlived its attempt, and nobody gives it another order."""

from __future__ import annotations

import os
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest

from trainkit.launcher._post import Order, Post
from trainkit.rank import Rank
from trainkit.rescue import Kept
from trainkit.resilience.pulse import Pulse
from trainkit.runfolder import RunFolder


@pytest.mark.parametrize(
    ("kept", "parent_lives", "saves"),
    [
        (True, False, False),  # by a keeper that has died: the agent goes on without, and may have begun anew
        (True, True, True),  # the agent has said so
        (False, False, True),  # the agent of one machine has died: nobody else will
        (False, True, True),
    ],
)
def test_who_saves_what_it_holds(
    kept: bool, parent_lives: bool, saves: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, order = RunFolder(tmp_path), Order(attempt=1, rank=0, again=False, place={}, log=tmp_path / "log")
    folder.logs(1).mkdir(parents=True)
    here, there = Pipe()
    post = Post(os.getppid() if parent_lives else -1, here, spare=False)
    if parent_lives:
        there.send(None)
    saved: list[int] = []

    def save(self: Rank, order: Order, kept: Kept) -> None:
        saved.append(kept.step)

    def fault(self: Rank, order: Order) -> Any:
        self.told = {"exit_code": 3}
        self.pocket.kept = Kept(
            step=7, attempt=1, part=(0, 1), writers=(0, 1), state={}, trainer={}, about={}, row=None
        )

    monkeypatch.setattr(Rank, "save", save)
    monkeypatch.setattr(Rank, "first", lambda self: order)
    monkeypatch.setattr(Rank, "attempt", fault)
    with pytest.raises(SystemExit) as left:
        Rank(folder, 1, Pulse(1), post, kept).serve()
    assert left.value.code == 3
    assert saved == ([7] if saves else [])
