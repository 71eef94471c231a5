"""Snapshots: every few steps a checkpoint in memory (checkpoint.memory_every), so that a fault costs these steps only.

due     after every so many steps, if nothing else is being written; else after the first step when nothing is
begin   as a save to the disk, by the same machinery, into the run's place in memory (memory.py)
finish  committed -> the one before is deleted; a fault is told, and ends nothing
or_newer, settle
        when a run goes on: the newest of what memory, disk and store have, then what is left in memory is dropped
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainkit.checkpoint import manifest as m
from trainkit.checkpoint import memory
from trainkit.checkpoint.agree import agreed, reason, together
from trainkit.checkpoint.cadence import Tell
from trainkit.checkpoint.store import CheckpointStore, Saved
from trainkit.errors import CheckpointError, NoGoodCheckpoint
from trainkit.protocols import World
from trainkit.runfolder import RunFolder


class Snapshots:
    """Those of the run in `folder`, which saves to `disk`: one every `every` steps (None: no new ones). Every method
    but `finish` and `failed` is collective. `tell` writes an event, on one rank."""

    def __init__(self, disk: CheckpointStore, folder: RunFolder, world: World, every: int | None, tell: Tell) -> None:
        self.every = every
        self.owed = False
        self._disk, self._folder, self._world, self._tell = disk, folder, world, tell
        self._store: CheckpointStore | None = None
        self._failing = False

    # ---------------------------------------------------------------------------------------- writing

    def due(self, step: int, busy: bool) -> bool:
        """Whether to take one after `step`; the same on every rank. `busy`: this rank is writing something still, so
        that the loop would have to wait."""
        if self.every is None:
            return False
        self.owed = self.owed or step % self.every == 0
        if not self.owed or any(self._world.gather(busy)):
            return False
        self.owed = False
        return True

    def begin(
        self, step: int, state: Mapping[str, Any], trainer: Mapping[str, Any], staged: bool
    ) -> Callable[[], Saved]:
        """As CheckpointStore.begin."""
        if self._store is None:
            place = together(self._world, lambda: str(memory.make(self._folder)) if self._world.rank == 0 else "")[0]
            self._store = self._at(Path(place))
        return self._store.begin(step, state, trainer, staged)

    def finish(self, step: int, rest: Callable[[], Saved], stall: float | None) -> None:
        """Write and commit what `begin` returned. `stall`: seconds that the loop stood still; None if it does until
        this ends."""
        try:
            saved = rest()
            if self._world.rank == 0:
                _drop(saved.path.parent, saved.path)
        except (CheckpointError, OSError) as error:
            self.failed(step, error)
            return
        self._failing = False
        self._tell("snapshot", **saved.told(saved.seconds if stall is None else stall))

    def failed(self, step: int, error: Exception) -> None:
        """Tell it, once of several in a row: they come often, and for the same reason."""
        if not self._failing:
            self._tell("snapshot_failed", step=step, message=reason(error))
        self._failing = True

    def _at(self, place: Path) -> CheckpointStore:
        return self._disk.beside(place, memory.room, memory.REMEDY)

    # --------------------------------------------------------------------------------------- going on

    def newest(self) -> Path | None:
        """The newest that can be trusted; each that is damaged is named."""
        place = together(self._world, self._found)[0]
        if place is None:
            return None
        try:
            return self._at(Path(place)).latest()
        except NoGoodCheckpoint:
            return None  # every one of them was named

    def or_newer(self) -> Path | None:
        """The newest checkpoint that can be trusted, wherever it is. Raises as CheckpointStore.latest."""
        snapshot = self.newest()
        if snapshot is None:
            return self._disk.latest()
        step: int = m.read_manifest(snapshot)["step"]
        return self._disk.latest(least=step) or snapshot

    def settle(self, found: Path | None) -> None:
        """The run goes on from `found` (None: from the start): snapshots of what came after do not count any more."""
        place = together(self._world, self._found)[0]
        if place is None:
            return
        agreed(self._world, lambda: _drop(Path(place), found) if self._world.rank == 0 else None)
        if found is not None and found.parent == Path(place):
            self._tell("snapshot_used", step=m.read_manifest(found)["step"], path=str(found))

    def exist(self) -> bool:
        """Whether there is one; the same on every rank."""
        return bool(together(self._world, lambda: memory.kept(self._folder))[0])

    def _found(self) -> str | None:
        place = memory.find(self._folder)
        return None if place is None else str(place)


def _drop(place: Path, but: Path | None) -> None:
    for path in (m.step_folder(place, step) for step in m.steps(place)):
        if path != but:
            m.discard(path)
