"""How busy the machines of a run are, as the agent notes it now and then: RUN/logs/system.jsonl.

A row has its number from 1 on, the time and, by host, what launcher/_meter.py reads there. Trackers get it as they get
metrics, `top` shows the newest row, `report` draws all. Nobody needs it to go on: a disk that is full or away, or a
journal that is damaged, is no reason to disturb a run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Protocol

from trainkit.runfolder import RunFolder, append_line, drop_torn_line, guard, last_line

Load = Mapping[str, float]
ANSWER_S = 1.0  # in which machines answer as a rule
MANY = 8  # more machines than that are looked at less often: the journal of a large run grows no faster then


class Machines(Protocol):
    """Those on which a run is."""

    def measure(self) -> None:
        """Have each of them read how busy it is."""

    def loads(self) -> Mapping[str, Load]:
        """What those that have answered since have read, by host."""


class SystemLog:
    """Written every so many seconds; None: never."""

    def __init__(self, folder: RunFolder, every: float | None) -> None:
        self._path, self._every = folder.system, every
        self._answer = min(ANSWER_S, (every or 0.0) / 2)
        self._next, self._asked, self._count = time.monotonic() + (every or 0.0), 0.0, 0
        if every is not None:
            with suppress(OSError, ValueError, KeyError):
                drop_torn_line(self._path)
                self._count = int((last_line(self._path) or {"sample": 0})["sample"])

    def look(self, machines: Machines) -> None:
        """Ask the machines when it is time to, and write down what they have answered, with the time when they were
        asked. Called all the time. Raises Fenced."""
        if self._every is None or time.monotonic() < self._next:
            return
        if not self._asked:
            machines.measure()
            self._asked, self._next = time.time(), time.monotonic() + self._answer
            return
        loads = {host: load for host, load in machines.loads().items() if load}
        self._write(self._asked, loads)
        pause = self._every * max(1.0, len(loads) / MANY)
        self._asked, self._next = 0.0, self._next + pause - self._answer

    def _write(self, at: float, loads: Mapping[str, Load]) -> None:
        guard()
        if loads:
            with suppress(OSError):
                append_line(self._path, {"sample": self._count + 1, "time": at, "machines": loads})
                self._count += 1


def gpus(load: Load) -> list[float]:
    """How busy each GPU of a machine is, in percent."""
    return [
        value for name, value in load.items() if name.startswith("gpu_") and name.endswith("_utilization_percentage")
    ]


def busy(load: Load) -> float:
    """How busy a machine is, in percent: its GPUs, where it has some."""
    return statistics.fmean(gpus(load) or [load["cpu_utilization_percentage"]])
