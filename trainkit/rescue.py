"""What outlives a fault: the newest step, in the memory of every rank that holds all of it.

Where every rank has the whole state (local, ddp, accelerate, horovod) one of those that outlive a fault is enough to go
on from, so that the step in flight is all that is lost. What only the dead rank had is missing, and so a step counts
only if every journal has it.

    keep        the rank's state, in host memory, when an attempt breaks
    hand_over   all ranks of the next attempt get the newest that any of them has kept
    save        it is written instead, by the first who tries, where the rank does not stay
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch import Tensor, nn

from trainkit.checkpoint.manifest import committed
from trainkit.checkpoint.store import CheckpointStore, Saved
from trainkit.protocols import Engine, Say, World
from trainkit.runfolder import read_lines
from trainkit.strategy._world import Solo

PATIENCE_S = 2.0  # until the other survivors have written their rows of the step


@dataclass(frozen=True, slots=True)
class Kept:
    """The whole state after `step`, as a rank of `attempt` held it: what a checkpoint would hold.

    state    canonical names, plain tensors in host memory
    trainer  plain JSON
    about    of the run, for the manifest
    """

    step: int
    attempt: int
    state: Mapping[str, Any]
    trainer: Mapping[str, Any]
    about: Mapping[str, Any]


@dataclass(slots=True)
class Pocket:
    """What a rank process carries from one attempt to the next. The trainer that has gone on from it empties it.
    `bound`: the process has not left the ranks of the attempt that broke, and cannot join others."""

    kept: Kept | None = None
    bound: bool = False


def keep(engine: Engine, world: World, store: CheckpointStore, trainer: Mapping[str, Any], step: int) -> Kept | None:
    """The state after `step`; None if this rank does not hold all of it, or if there is nothing to keep."""
    if world.dp_size != world.size or step == 0:
        return None
    state = engine.state_dict()
    if not all(type(tensor) in (Tensor, nn.Parameter) for _, tensor in _leaves(state)):
        return None  # of a DTensor or a fragment this rank has a part
    return Kept(step, store.attempt, _on_host(state), trainer, store.about)


def journaled(step: int, journals: Sequence[Path]) -> bool:
    """Whether all of `journals` have `step`, or soon have: the other survivors may not have come so far."""
    until = time.monotonic() + PATIENCE_S
    while not all(any(row["step"] == step for row in read_lines(path)) for path in journals):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def hand_over(kept: Kept | None, engine: Engine, world: World, saved: int) -> tuple[Kept, int] | None:
    """Give every rank the newest state that one of them has `kept`, and say which rank that was; None if there is none
    that is newer than the checkpoint of step `saved` (-1: no checkpoint). The tensors of what is returned are the
    giver's alone. Collective."""
    steps = world.gather(-1 if kept is None else kept.step)
    newest = max(steps)
    if newest <= saved:
        return None
    source = steps.index(newest)
    given = dict(_leaves(kept.state)) if kept is not None and world.rank == source else {}
    state = engine.state_dict()
    for name, tensor in _leaves(state):
        if given:
            tensor.detach().copy_(given[name])
        world.broadcast(tensor.detach(), source)
    engine.load_state_dict(state)
    small = Kept(kept.step, kept.attempt, {}, kept.trainer, kept.about) if given and kept is not None else None
    return world.gather(small)[source], source


def save(kept: Kept, folder: Path, attempt: int, say: Say) -> Saved | None:
    """Write what was kept as a checkpoint, alone. None if that step, or a newer one, is there already. Raises
    CheckpointError if it cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".rescue"):
        if kept.step <= max(committed(folder), default=0):
            return None
        device = next(tensor.device for _, tensor in _leaves(kept.state))
        return CheckpointStore(folder, Solo(device=device), attempt, kept.about, say).save(
            kept.step, kept.state, kept.trainer
        )


def _leaves(state: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in state.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _on_host(state: Mapping[str, Any]) -> dict[str, Any]:
    """The same tensors, or copies where they are a device's, which the next attempt needs for itself."""
    return {name: _on_host(v) if isinstance(v, Mapping) else v.detach().cpu() for name, v in state.items()}
