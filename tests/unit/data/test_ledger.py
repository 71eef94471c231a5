"""The ledger holds what was trained: every sample of a step once, and nothing that only filled up."""

from __future__ import annotations

from pathlib import Path

import torch

from trainkit.data.ledger import Ledger
from trainkit.data.order import Order
from trainkit.data.plan import Plan
from trainkit.runfolder import RunFolder, read_lines
from trainkit.strategy._world import Solo


def test_the_ranks_ledgers_together_are_the_steps_samples(tmp_path: Path) -> None:
    """7 samples on 4 ranks in batches of 5: some ranks get a filler."""
    folder, order = RunFolder(tmp_path), Order(7, 3)
    for rank in range(4):
        ledger = Ledger(folder, 2, Solo(device=torch.device("cpu"), rank=rank))
        for number, step in enumerate(Plan(order, 5, 1, rank, 4).steps(0, 4), 1):
            ledger.write(number, step)
    trained: dict[int, list[int]] = {}
    for rank in range(4):
        for row in read_lines(tmp_path / f"ledger/attempt_2/rank_{rank}.jsonl"):
            trained.setdefault(row["step"], []).extend(row["ids"])
    assert trained == {
        1: order.ids(0, 5).tolist(),
        2: order.ids(5, 7).tolist(),
        3: order.ids(7, 12).tolist(),
        4: order.ids(12, 14).tolist(),
    }
