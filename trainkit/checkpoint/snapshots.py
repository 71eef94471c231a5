"""Snapshots: every few steps a checkpoint in memory (checkpoint.memory_every), so that a fault costs these steps only.

due     after every so many steps, if nothing else is being written; else after the first step when nothing is
begin   as a save to the disk, by the same machinery, into the run's place in memory (memory.py)
finish  committed, on every host -> the one before is deleted; a fault is told, and ends nothing
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
from trainkit.checkpoint.hosts import Hosts
from trainkit.checkpoint.neighbours import complete
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
        self._leads = False  # on its host
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
            first = self._world.rank == 0
            name = together(self._world, lambda: memory.make(self._folder).name if first else "")[0]
            place = memory.mine() / name
            self._store = self._at(place, self._enter(place))
        return self._store.begin(step, state, trainer, staged)

    def finish(self, step: int, rest: Callable[[], Saved], stall: float | None) -> None:
        """Write and commit what `begin` returned. `stall`: seconds that the loop stood still; None if it does until
        this ends."""
        try:
            saved = rest()
            if self._leads:
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

    def _at(self, place: Path, hosts: Hosts) -> CheckpointStore:
        self._leads = hosts.leads(self._world.rank)
        return self._disk.beside(place, hosts, memory.room, memory.REMEDY)

    def _enter(self, place: Path) -> Hosts:
        return Hosts.of(together(self._world, lambda: memory.enter(self._folder, place)))

    # --------------------------------------------------------------------------------------- going on

    def newest(self) -> Path | None:
        """The newest that can be trusted; each that is damaged is named."""
        place = self._found()
        if place is None:
            return None
        try:
            hosts = self._enter(place)
            if len(hosts) > 1:
                return complete(self._world, hosts, place, self._disk.say)
            return self._at(place, hosts).latest()
        except NoGoodCheckpoint:
            return None  # every one of them was named
        except CheckpointError as error:
            if self._world.rank == 0:
                self._disk.say(f"no snapshot can be gone on from: {error}")
            return None

    def or_newer(self) -> Path | None:
        """The newest checkpoint that can be trusted, wherever it is. Raises as CheckpointStore.latest."""
        snapshot = self.newest()
        if snapshot is None:
            return self._disk.latest()
        step: int = m.read_manifest(snapshot)["step"]
        return self._disk.latest(least=step) or snapshot

    def settle(self, found: Path | None) -> None:
        """The run goes on from `found` (None: from the start), which is read: snapshots of what came after do not count
        any more, nor those on hosts that are not there now."""
        place, self._store = self._found(), None
        try:
            if place is None:
                self._forget()
                return
            now = self._only(place, found)
        except CheckpointError as error:
            if self._world.rank == 0:
                self._disk.say(f"what is kept in memory is given up: {error}")
            self._forget()
            return
        if found is not None and found.parent == place:
            step = m.read_manifest(now / found.name)["step"]
            self._tell("snapshot_used", step=step, path=str(now / found.name))

    def _only(self, place: Path, found: Path | None) -> Path:
        """Where the snapshot `found` is then, and no other."""
        leads = self._enter(place).leads(self._world.rank)
        agreed(self._world, lambda: _drop(place, found) if leads else None)
        return memory.rename(self._folder, place, self._world, leads)

    def _forget(self) -> None:
        """Have none be found any more."""
        agreed(self._world, lambda: self._folder.memory.unlink(missing_ok=True) if self._world.rank == 0 else None)

    def exist(self) -> bool:
        """Whether there is one; the same on every rank."""
        return any(together(self._world, lambda: bool(memory.kept(self._folder))))

    def _found(self) -> Path | None:
        """The place of the run's snapshots; a host that is new does not have it."""
        places = together(self._world, lambda: memory.find(self._folder))
        names = [place.name for place in places if place is not None]
        return memory.mine() / names[0] if names else None


def _drop(place: Path, but: Path | None) -> None:
    for path in (m.step_folder(place, step) for step in m.steps(place)):
        if path != but:
            m.discard(path)
