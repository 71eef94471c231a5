"""Forwards the rows of a run folder to its tracker, from one thread of the front.

The folder's metrics.jsonl is the truth; the tracker is a copy that may lag or be down. Nothing here can hold up or
end a run: a fault is reported once, tried again with growing pauses, and what could not be sent stays in the folder,
where `trainkit mlflow sync RUN` finds it.
"""

from __future__ import annotations

import math
import threading
import time
from contextlib import suppress
from typing import Literal

import yaml

from trainkit.protocols import RunInfo, Tracker, TrackerSession
from trainkit.runfolder import RunFolder, read_lines
from trainkit.secrets import hidden, without_login
from trainkit.tail import Tail
from trainkit.tracker._several import parts

Status = Literal["FINISHED", "FAILED", "KILLED"]
INTERVAL_S, LONGEST_PAUSE_S = 1.0, 30.0
PORTION = 2**22  # bytes of how busy machines were, of which there may be many


class Followers:
    """One for each tracker of a run, so that none waits for another; as one to whoever asks."""

    def __init__(self, tracker: Tracker, info: RunInfo) -> None:
        self._each = {name: Follower(part, info) for name, part in parts(tracker).items()}

    def start(self) -> None:
        for follower in self._each.values():
            follower.start()

    def finish(self, status: Status, timeout_s: float) -> int:
        """All together wait at most `timeout_s`. The rows that one could not send count, and of several the most."""
        deadline = time.monotonic() + timeout_s
        for follower in self._each.values():
            follower.ask(status)
        return max(follower.finish(status, max(deadline - time.monotonic(), 0.0)) for follower in self._each.values())

    @property
    def trouble(self) -> str | None:
        if len(self._each) == 1:
            return next(follower.trouble for follower in self._each.values())
        told = (f"{name}: {follower.trouble}" for name, follower in self._each.items() if follower.trouble)
        return "; ".join(told) or None

    @property
    def where(self) -> str | None:
        wheres = [follower.where for follower in self._each.values() if follower.where]
        return "; ".join(wheres) or None


class Follower:
    """Start it with the run; `finish` ends it."""

    def __init__(self, tracker: Tracker, info: RunInfo) -> None:
        self.trouble: str | None = None
        self.where: str | None = None
        self._tracker, self._info = tracker, info
        self._journal = RunFolder(info.folder).metrics
        self._rows, self._events, self._system = self._tails()
        self._reached = -1.0  # data position of the last row that was sent
        self._session: TrackerSession | None = None
        self._status: Status | None = None
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tracker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self, status: Status, timeout_s: float) -> int:
        """Send what is left and close the run with `status`; wait at most `timeout_s` seconds. Returns the number of
        rows that could not be sent; `trouble` says why, also if all rows but not the end of the run arrived."""
        self.ask(status)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self.trouble = "no answer until the end"
        # Counted in the journal: a thread that hangs has not read the newest rows.
        return sum(row["samples"] > self._reached for row in read_lines(self._journal))

    def ask(self, status: Status) -> None:
        """Let it send what is left and close the run, without waiting for it."""
        self._status = status
        self._wake.set()

    def _run(self) -> None:
        pause = INTERVAL_S
        while True:
            finishing = self._status
            try:
                self._send(finishing)
                self.trouble, pause = None, INTERVAL_S
            except Exception as error:  # any fault of a tracker is the same: it must not touch the run
                self.trouble = reason(error)
                self._abandon()
                pause = min(2 * pause, LONGEST_PAUSE_S)
            if finishing:
                return
            self._wake.wait(pause)

    def _abandon(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            with suppress(Exception):  # it has failed already
                session.abandon()

    def _tails(self) -> tuple[Tail, Tail, Tail]:
        folder = RunFolder(self._info.folder)
        return Tail(self._journal), Tail(folder.events), Tail(folder.system, PORTION)

    def _send(self, finishing: Status | None) -> None:
        if self._session is None:
            # The first row is waited for: importing MLflow earlier would take a core from torch's import.
            if not finishing and not any(read_lines(self._journal)):
                return
            # After a fault too: only the tracker knows what of it has arrived, so all is read again.
            self._session = self._tracker.open(self._info)
            self._rows, self._events, self._system = self._tails()
            if self._session is None:  # nothing is tracked
                self._reached = math.inf
                return
            self.where = self._session.where()
            _introduce(self._session, self._info)
        events = self._events.rows()  # before the rows: the row of a step is written before its save
        if rows := self._rows.rows():
            self._session.log(rows)
            self._reached = rows[-1]["samples"]
        self._session.tell(events)
        try:
            while samples := self._system.rows():
                self._session.measure(samples)
                if finishing:  # there is no time for all of them; a sync sends the rest
                    break
        finally:
            if finishing:
                self._session.close(finishing)


def sync(tracker: Tracker, info: RunInfo, status: Status) -> str:
    """Send what each tracker lacks of a folder and close the run; returns where to look."""
    return "; ".join(_sync(part, info, status) for part in parts(tracker).values())


def _sync(tracker: Tracker, info: RunInfo, status: Status) -> str:
    session = tracker.open(info)
    if session is None:
        return "nothing to do: tracker=none"
    _introduce(session, info)
    folder = RunFolder(info.folder)
    session.log(list(read_lines(folder.metrics)))
    session.tell(list(read_lines(folder.events)))
    system = Tail(folder.system, PORTION)
    while samples := system.rows():
        session.measure(samples)
    session.close(status)
    return session.where()


def _introduce(session: TrackerSession, info: RunInfo) -> None:
    """Send the configuration: a copy that tells no secrets. What the folder has must be able to run."""
    config = RunFolder(info.folder).config
    if config.exists():  # a sweep has none of its own
        told = hidden(yaml.safe_load(config.read_text()))
        session.artifact(config.name, yaml.safe_dump(told, sort_keys=False))


def reason(error: BaseException) -> str:
    """One line. Where a client library wraps what the network or the disk said, that says more."""
    chain: list[BaseException] = [error]
    while (inner := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(inner)
    told = next((e for e in reversed(chain) if isinstance(e, OSError)), error)
    return without_login(f"{type(told).__name__}: {told}".splitlines()[0])[:200]
