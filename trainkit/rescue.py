"""What outlives a fault: the newest step, in the memory of the ranks.

Where every rank has the whole state (local, ddp, accelerate, horovod) one of those that outlive a fault is enough to go
on from; where the state is divided and there are copies of each part (replicas of a mesh), one of each. So the step in
flight is all that is lost. What the dead rank was still to write of it, the others know: which samples it had, and what
the step came to.

    keep        the rank's state, in host memory, when an attempt breaks
    hand_over   all ranks of the next attempt get the newest that any of them has kept
    save        it is written instead, by the first who tries, where the rank has all of it and does not stay
    fill_in     the rows that a dead rank did not get to
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from filelock import FileLock
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from trainkit.canonical import leaves
from trainkit.checkpoint.manifest import committed
from trainkit.checkpoint.store import CheckpointStore, Saved
from trainkit.data import ledger
from trainkit.data.order import Order
from trainkit.data.plan import Plan
from trainkit.protocols import Engine, Say, World
from trainkit.runfolder import RunFolder, append_line, read_lines, truncate_after
from trainkit.settings import Settings
from trainkit.strategy._norm import local
from trainkit.strategy._world import Solo


@dataclass(frozen=True, slots=True)
class Kept:
    """What one rank held of the state after `step`: what a checkpoint would hold.

    attempt  that made the step
    part     which one of how many; (0, 1): all of it
    writers  the ranks that write the ledger, each for one place of the data-parallel axis
    state    canonical names, plain tensors in host memory: this rank's shards, where there are some
    trainer  plain JSON
    about    of the run, for the manifest
    row      of metrics.jsonl for this step, where the attempt has made one
    """

    step: int
    attempt: int
    part: tuple[int, int]
    writers: Sequence[int]
    state: Mapping[str, Any]
    trainer: Mapping[str, Any]
    about: Mapping[str, Any]
    row: Mapping[str, Any] | None

    @property
    def whole(self) -> bool:
        return self.part[1] == 1


@dataclass(slots=True)
class Pocket:
    """What a rank process carries from one attempt to the next. The trainer that has gone on from it empties it.

    bound  the process has not left the ranks of the attempt that broke, and cannot join others
    broke  when the attempt broke for this rank, in seconds since the epoch: before the others can have noticed
    """

    kept: Kept | None = None
    bound: bool = False
    broke: float | None = None


def keep(
    engine: Engine,
    world: World,
    about: Mapping[str, Any],
    trainer: Mapping[str, Any],
    made: tuple[int, int],
    writers: Sequence[int],
    row: Mapping[str, Any] | None,
) -> Kept | None:
    """The state after the step that was `made`, in which attempt; None if no other rank has the same part of it, or if
    there is nothing to keep."""
    step, attempt = made
    _, parts = world.part
    if step == 0 or 1 < parts == world.size:
        return None
    state = engine.state_dict()
    if not all(type(tensor) in (Tensor, nn.Parameter, DTensor) for _, tensor in leaves(state)):
        return None
    return Kept(step, attempt, world.part, writers, _on_host(state), trainer, about, row)


def hand_over(kept: Kept | None, engine: Engine, world: World, saved: Callable[[int], bool]) -> tuple[Kept, int] | None:
    """Give every rank the newest state of which each part is `kept` by one of them, and say which rank that was (of the
    first part); None if there is none, or a checkpoint that is as new is `saved`, and good. The tensors of what is
    returned are the givers' alone. Collective."""
    said = world.gather(None if kept is None else (kept.step, kept.part))
    mine, parts = world.part
    steps = sorted({one[0] for one in said if one is not None}, reverse=True)
    whole = [(step, givers) for step in steps if (givers := _givers(said, step, parts))]
    if not whole or saved(whole[0][0]):
        return None
    found = whole[0][1]
    given = dict(leaves(kept.state)) if kept is not None and world.rank == found[mine] else {}
    state = engine.state_dict()
    for name, tensor in leaves(state):
        here = local(tensor.detach())
        if given:
            here.copy_(given[name])
        world.hand_on(here, found[mine])
    engine.load_state_dict(state)
    small = replace(kept, state={}) if given and kept is not None else None
    return world.gather(small)[found[0]], found[0]


def _givers(said: Sequence[tuple[int, tuple[int, int]] | None], step: int, parts: int) -> list[int]:
    """The first rank that has kept each of the `parts` parts of `step`; none if one of them is missing."""
    wanted = [(step, (part, parts)) for part in range(parts)]
    return [said.index(one) for one in wanted] if all(one in said for one in wanted) else []


def save(kept: Kept, folder: Path, attempt: int, say: Say, rows: Callable[[], None]) -> Saved | None:
    """Write what was kept as a checkpoint, alone, and before that the `rows` that belong to it. None if that step, or a
    newer one, is there already. Raises CheckpointError if it cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".rescue"):
        if kept.step <= max(committed(folder), default=0):
            return None
        rows()
        device = next(tensor.device for _, tensor in leaves(kept.state))
        return CheckpointStore(folder, Solo(device=device), attempt, kept.about, say).save(
            kept.step, kept.state, kept.trainer
        )


def fill_in(folder: RunFolder, kept: Kept, settings: Settings, train_samples: int) -> None:
    """Write the rows of the newest step that a rank did not get to before it died. It had trained its samples: its
    gradients are in the sum, or nobody would have made the step. Only when nobody else writes any more; one process."""
    if settings.data.ledger:
        paths = [folder.ledger(kept.attempt, rank) for rank in kept.writers]
        for path in paths:
            truncate_after(path, kept.step)
        rows = (row for path in folder.root.glob("ledger/*/*.jsonl") for row in read_lines(path))
        present = {i for row in rows if row["step"] == kept.step for i in row["ids"]}
        skipped = kept.step in kept.trainer["progress"]["health"]["skipped"]
        train = settings.train
        plan = Plan(Order(train_samples, train.seed), train.global_batch, train.micro_batch, 0, len(paths))
        for place, path in enumerate(paths):
            step = next(replace(plan, rank=place).steps(plan.samples_after(kept.step - 1), 1))
            if not present.issuperset(step.ids()):
                append_line(path, ledger.row(kept.step, step, skipped))
    if kept.row is not None:
        truncate_after(folder.metrics, kept.step)
        if not any(row["step"] == kept.step for row in read_lines(folder.metrics)):
            append_line(folder.metrics, kept.row)


def _on_host(state: Mapping[str, Any]) -> dict[str, Any]:
    """The same tensors, or copies where they are a device's, which the next attempt needs for itself."""
    return {name: _on_host(v) if isinstance(v, Mapping) else local(v.detach()).cpu() for name, v in state.items()}
