"""A save behind the training loop writes the state of its step, whatever the later steps do to the live tensors."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conformance.cells import RANKS
from tests.conformance.pool import Pool
from tests.conformance.settings import make
from tests.conformance.training import tensors
from trainkit import main
from trainkit.checkpoint.store import CheckpointStore, Saved
from trainkit.resilience.pulse import Lifeline
from trainkit.resilience.stop import StopFlag
from trainkit.runfolder import RunFolder
from trainkit.trainer import Trainer

AT_ONCE = 100  # added to the step of the same state, written while training stood still

FAST = ("ddp", "fsdp-offload", "zero2-offload", "mesh-pipeline-tensor")
CELLS = [
    pytest.param(
        name, 2 if 2 in ranks else ranks[0], marks=() if name in FAST else (pytest.mark.slow, pytest.mark.drill)
    )
    for name, ranks in RANKS.items()
]


def saved_twice(folder: str, strategy: str) -> None:
    """One rank: 5 steps. Those of steps 2 and 4 are each saved at once and behind the loop, where nothing is written
    before the next update has ended."""
    options: dict[str, Any] = {"steps": 5, "ema": 0.9, "checkpoint": {"every": 2, "keep": 10}}
    settings = make(folder, strategy, **options)
    world = settings.strategy.connect("cpu")
    engine = settings.strategy.build(main.training(settings), world)
    store = CheckpointStore(Path(folder) / "checkpoints", world, 1, main.about(settings, world.size), print)
    data, lifeline = settings.recipe.build_data(), Lifeline(StopFlag())
    trainer = Trainer(settings, engine, world, data, store, RunFolder(Path(folder)), lifeline)
    begin, update, updated = store.begin, engine.update, threading.Event()

    def twice(step: int, *state: Any, staged: bool) -> Callable[[], Saved]:
        if not staged:
            return begin(step, *state, staged=False)
        begin(step + AT_ONCE, *state, staged=False)()
        rest = begin(step, *state, staged=True)
        updated.clear()

        def later() -> Saved:
            if not updated.wait(60):
                raise TimeoutError("no step followed")
            return rest()

        return later

    def then(lr: float) -> Tensor:
        norm = update(lr)
        updated.set()
        return norm

    store.begin, engine.update = twice, then  # type: ignore[method-assign,assignment]
    trainer.fit()
    world.close()


@pytest.mark.parametrize(("strategy", "ranks"), CELLS)
def test_later_steps_do_not_change_what_is_written(strategy: str, ranks: int, pool: Pool, tmp_path: Path) -> None:
    pool.run(ranks, saved_twice, str(tmp_path), strategy)
    after = tensors(tmp_path, 5)
    for step in (2, 4):
        behind, at_once = tensors(tmp_path, step), tensors(tmp_path, step + AT_ONCE)
        assert behind.keys() == at_once.keys() == after.keys()
        for name, tensor in at_once.items():
            assert torch.equal(behind[name], tensor), (step, name)
        moved = [name for name, tensor in at_once.items() if not torch.equal(after[name], tensor)]
        assert {name.split(".")[0] for name in moved} == {"model", "optimizer", "ema"}
