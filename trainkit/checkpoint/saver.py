"""Saves beside the training loop: never two at once, and a failure is told when it happens.

save    wait for the one before -> copy the state -> a thread writes, commits and prunes while the loop goes on
        -> what is committed is copied to the store, if there is one
        (the last one, and each one with checkpoint.asynchronous=false, is written before the loop goes on)
snapshot
        the same into memory, if nothing is in flight; a failure ends nothing (snapshots.py)
close   wait for the one in flight, whatever ended the loop
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from threading import Thread
from types import TracebackType
from typing import Any

from trainkit.checkpoint.cadence import Cadence, Tell
from trainkit.checkpoint.snapshots import Snapshots
from trainkit.checkpoint.store import CheckpointStore, Saved
from trainkit.errors import CheckpointError, TooManyFailedSaves
from trainkit.settings import Checkpoint

LONG_WAIT_S = 1.0  # a save that waits longer for the one before it says so


class Saver:
    """The saves of one run, which begins at `samples`. All ranks call `due` and `save` at the same steps.

    tell   writes an event, on one rank
    """

    def __init__(
        self, store: CheckpointStore, snapshots: Snapshots, settings: Checkpoint, rank: int, samples: int, tell: Tell
    ) -> None:
        self._store, self._snapshots, self._settings, self._tell = store, snapshots, settings, tell
        self._cadence = Cadence(settings.every, settings.mtbf_hours, samples, tell)
        self._asks = rank == 0 and self._cadence.by_clock
        if settings.asynchronous and (settings.every, settings.memory_every) != (None, None):
            store.connect()
        self._thread: Thread | None = None
        self._step = 0  # of the newest save
        self._failures: list[CheckpointError] = []  # in a row
        self._crash: Exception | None = None  # an end of the thread that nobody foresaw

    def wish(self) -> bool:
        """Whether this rank asks for a save after this step: its clock says so, and only rank 0's counts; or so many
        saves have failed that the run must end, which the ranks may learn at different steps."""
        return (self._asks and self._cadence.late()) or len(self._failures) >= self._settings.max_failures

    def due(self, step: int, samples: int, tokens: float, wishes: float) -> bool:
        """Whether to save after `step`; the same on every rank, as its arguments are. Called once per step.

        samples   position in the data, over all ranks
        tokens    of this step, over all ranks
        wishes    above 0 where a rank wishes it
        """
        return self._cadence.due(step, samples, tokens) or wishes > 0

    def save(self, step: int, state: Callable[[], Mapping[str, Any]], trainer: Mapping[str, Any], last: bool) -> None:
        """Save what `state` returns as step `step`. `last`: nothing is trained after it, so wait until it is committed.

        Raises TooManyFailedSaves on every rank if the last one fails, or too many in a row.
        """
        begun = time.perf_counter()
        self._wait(step)
        if not last:
            self._give_up_after(self._settings.max_failures)
        self._step, behind = step, self._settings.asynchronous and not last
        self._snapshots.owed = False  # what is on the disk needs none
        self._cadence.restart()
        try:
            rest = self._store.begin(step, state(), trainer, staged=behind)
        except CheckpointError as error:
            self._failed(error)
        else:
            if behind:
                stall = time.perf_counter() - begun
                self._start(lambda: self._finish(rest, stall))
            else:
                self._finish(rest, None)
        self._give_up_after(1 if last else self._settings.max_failures)

    def snapshot_due(self, step: int) -> bool:
        """Whether to take a snapshot after `step`, which is not saved; the same on every rank. Collective."""
        return self._snapshots.due(step, busy=self._thread is not None and self._thread.is_alive())

    def snapshot(self, step: int, state: Callable[[], Mapping[str, Any]], trainer: Mapping[str, Any]) -> None:
        """Keep what `state` returns in memory as step `step`."""
        begun = time.perf_counter()
        self._wait(step)
        self._step = step
        try:
            rest = self._snapshots.begin(step, state(), trainer, staged=self._settings.asynchronous)
        except CheckpointError as error:
            self._snapshots.failed(step, error)
            return
        stall = time.perf_counter() - begun
        if self._settings.asynchronous:
            self._start(lambda: self._snapshots.finish(step, rest, stall))
        else:
            self._snapshots.finish(step, rest, None)

    def _start(self, work: Callable[[], None]) -> None:
        self._thread = Thread(target=self._behind, args=(work,), name="checkpoint")
        self._thread.start()

    def _behind(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:  # raised in the loop, by _wait
            self._crash = error

    def _finish(self, rest: Callable[[], Saved], stall: float | None) -> None:
        """Write and commit what is ready to be written, then delete what is old. `stall`: seconds that the loop stood
        still; None if it does until this ends."""
        try:
            saved = rest()
        except CheckpointError as error:
            self._failed(error)
            return
        self._failures.clear()
        stall = saved.seconds if stall is None else stall
        self._tell("save", **saved.told(stall))
        self._cadence.learn(stall, saved.seconds)
        self._store.prune(self._settings)
        self._store.copy()  # after that, or what is about to be deleted would be copied

    def _failed(self, error: CheckpointError) -> None:
        self._failures.append(error)
        self._tell("save_failed", step=self._step, message=str(error), in_a_row=len(self._failures))

    def _give_up_after(self, failures: int) -> None:
        if self._thread is None and len(self._failures) >= failures:
            raise TooManyFailedSaves(str(self._failures[-1])) from self._failures[-1]

    def exists(self) -> bool:
        """Whether there is a checkpoint, once the save in flight is written; the same on every rank. Collective."""
        self._wait(None)
        return self._store.newest() >= 0 or self._snapshots.exist()

    def _wait(self, due: int | None) -> None:
        """Until no save is in flight; `due`: the step whose save has to wait for it."""
        if self._thread is not None:
            self._thread.join(None if due is None else LONG_WAIT_S)
            if self._thread.is_alive():
                self._tell("save_waits", step=due, behind=self._step)
                self._thread.join()
            self._thread = None
        if self._crash is not None and due is not None:
            raise self._crash

    def __enter__(self) -> Saver:
        self._store.copy()  # what a killed attempt, or an import, left uncopied
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the save in flight, also where a fault ends the loop: it may be the one to go on from."""
        self._wait(None)
        if error is None:  # else it may be the GPU that failed, and would fail here once more
            self._store.close()
