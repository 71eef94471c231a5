"""What is saved when a run breaks: the newest step, by any rank that holds all of it.

Where every rank has the whole state (local, ddp, accelerate, horovod) those that outlive a fault need no other to save
it, so that the step in flight is all that is lost. Each tries, one after the other, and the first one writes. What only
the dead rank had is missing then, and so a step counts only if every journal has it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch import Tensor, nn

from trainkit.checkpoint.manifest import committed
from trainkit.checkpoint.store import CheckpointStore, Saved
from trainkit.protocols import Engine, World
from trainkit.runfolder import read_lines
from trainkit.strategy._world import Solo

PATIENCE_S = 2.0  # until the other survivors have written their rows of the step


def rescue(
    engine: Engine,
    world: World,
    store: CheckpointStore,
    trainer: Mapping[str, Any],
    step: int,
    journals: Sequence[Path],
) -> Saved | None:
    """Save the state after `step`, alone. None if this rank does not hold all of it, or if it would not count: it is
    saved already, or one of `journals` lacks it. Raises CheckpointError if it cannot be written."""
    if world.dp_size != world.size or step == 0:
        return None
    state = engine.state_dict()
    if not all(type(tensor) in (Tensor, nn.Parameter) for tensor in _leaves(state)):
        return None  # of a DTensor or a fragment this rank has a part
    store.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(store.folder / ".rescue"):
        if step <= max(committed(store.folder), default=0) or not _written(step, journals):
            return None
        alone = CheckpointStore(store.folder, Solo(device=world.device), store.attempt, store.about, store.say)
        return alone.save(step, state, trainer)


def _written(step: int, journals: Sequence[Path]) -> bool:
    """Whether all of `journals` have `step`, or soon have: the other survivors may not have come so far."""
    until = time.monotonic() + PATIENCE_S
    while not all(any(row["step"] == step for row in read_lines(path)) for path in journals):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def _leaves(state: Mapping[str, Any]) -> Iterator[Any]:
    for value in state.values():
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield value
