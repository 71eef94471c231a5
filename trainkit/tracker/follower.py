"""Forwards the rows of a run folder to its tracker, from one thread of the front.

The folder's metrics.jsonl is the truth; the tracker is a copy that may lag or be down. Nothing here can hold up or
end a run: a fault is reported once, tried again with growing pauses, and what could not be sent stays in the folder,
where `trainkit mlflow sync RUN` finds it.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Literal

from trainkit.protocols import RunInfo, Tracker, TrackerSession
from trainkit.runfolder import RunFolder
from trainkit.tail import Tail

Status = Literal["FINISHED", "FAILED", "KILLED"]
INTERVAL_S, LONGEST_PAUSE_S = 1.0, 30.0


class Follower:
    """Start it with the run; `finish` ends it."""

    def __init__(self, tracker: Tracker, info: RunInfo) -> None:
        self.trouble: str | None = None
        self.where: str | None = None
        self._tracker, self._info = tracker, info
        self._tail = Tail(RunFolder(info.folder).metrics)
        self._pending: list[dict[str, Any]] = []
        self._session: TrackerSession | None = None
        self._status: Status | None = None
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tracker", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def finish(self, status: Status, timeout_s: float) -> int:
        """Send what is left and close the run with `status`; wait at most `timeout_s` seconds. Returns the number of
        rows that could not be sent."""
        self._status = status
        self._wake.set()
        self._thread.join(timeout_s)
        return len(self._pending)

    def _run(self) -> None:
        pause = INTERVAL_S
        while True:
            finishing = self._status is not None
            self._pending += self._tail.rows()
            # The first row is waited for: importing MLflow earlier would take a core from torch's import.
            if self._pending or finishing:
                sent = self._send(finishing)
                pause = INTERVAL_S if sent else min(2 * pause, LONGEST_PAUSE_S)
                if finishing:
                    return
            self._wake.wait(pause)

    def _send(self, finishing: bool) -> bool:
        try:
            if self._session is None:
                self._session = self._tracker.open(self._info)
                if self._session is not None:
                    self.where = self._session.where()
                    self._session.artifact(RunFolder(self._info.folder).config)
            if self._session is not None:
                self._session.log(self._pending)
                if finishing and self._status is not None:
                    self._session.close(self._status)
        except Exception as error:  # any fault of a tracker is the same: it must not touch the run
            self.trouble = f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"
            return False
        self._pending.clear()
        self.trouble = None
        return True


def sync(tracker: Tracker, info: RunInfo, rows: Sequence[dict[str, Any]], status: Status) -> str:
    """Send the rows that the tracker lacks and close the run; returns where to look. Raises what the tracker raises."""
    session = tracker.open(info)
    if session is None:
        return "nothing to do: tracker=none"
    session.log(rows)
    session.close(status)
    return session.where()
