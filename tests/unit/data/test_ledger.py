"""The ledger holds what was trained: every sample of a step once, and nothing that only filled up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from trainkit.data.ledger import Ledger
from trainkit.data.order import Order
from trainkit.data.plan import Plan
from trainkit.runfolder import RunFolder, read_lines
from trainkit.strategy._world import Solo


@dataclass(frozen=True, kw_only=True)
class Seat(Solo):
    """One of several ranks, played alone: it knows where on the data axis all of them stand."""

    seats: tuple[int, ...]

    def gather(self, value: Any) -> list[Any]:
        return list(self.seats)


@pytest.mark.parametrize("seats", [(0, 1, 2, 3), (0, 0, 1, 1), (0, 1, 0, 1), (0, 0, 0, 0)])
def test_the_ranks_ledgers_together_are_the_steps_samples(seats: tuple[int, ...], tmp_path: Path) -> None:
    """7 samples in batches of 5: with four data-parallel ranks some get a filler, with fewer some read the same."""
    folder, order, replicas = RunFolder(tmp_path), Order(7, 3), len(set(seats))
    for rank, seat in enumerate(seats):
        world = Seat(device=torch.device("cpu"), rank=rank, dp_rank=seat, dp_size=replicas, seats=seats)
        ledger = Ledger(folder, 2, world)
        for number, step in enumerate(Plan(order, 5, 1, seat, replicas).steps(0, 4), 1):
            ledger.write(number, step, skipped=False)
    files = sorted((tmp_path / "ledger/attempt_2").iterdir())
    assert [file.name for file in files] == [f"rank_{seats.index(seat)}.jsonl" for seat in range(replicas)]
    trained: dict[int, list[int]] = {}
    for file in files:
        for row in read_lines(file):
            trained.setdefault(row["step"], []).extend(row["ids"])
    assert {step: sorted(ids) for step, ids in trained.items()} == {
        1: sorted(order.ids(0, 5).tolist()),
        2: sorted(order.ids(5, 7).tolist()),
        3: sorted(order.ids(7, 12).tolist()),
        4: sorted(order.ids(12, 14).tolist()),
    }
