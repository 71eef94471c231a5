"""How busy the machines of a run are, as the agent notes it now and then: RUN/logs/system.jsonl.

A row has its number from 1 on, the time and, by host, what launcher/_meter.py reads there. Trackers get it as they get
metrics, `top` shows the newest row, `report` draws all. Nobody needs it to go on: a disk that is full or away is no
reason to disturb a run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from contextlib import suppress

from trainkit.runfolder import RunFolder, append_line, drop_torn_line, guard, last_line

Load = Mapping[str, float]


class SystemLog:
    """Written every so many seconds; None: never."""

    def __init__(self, folder: RunFolder, every: float | None) -> None:
        self._path, self._every, self._written = folder.system, every, time.monotonic()
        with suppress(OSError):
            drop_torn_line(self._path)
        last = last_line(self._path)
        self._count: int = last["sample"] if last else 0

    def due(self) -> bool:
        return self._every is not None and time.monotonic() - self._written >= self._every

    def write(self, machines: Mapping[str, Load]) -> None:
        """`machines`: what was read on each, by host. Raises Fenced."""
        self._written = time.monotonic()
        guard()
        if machines:
            with suppress(OSError):
                append_line(self._path, {"sample": self._count + 1, "time": time.time(), "machines": machines})
                self._count += 1


def gpus(load: Load) -> list[float]:
    """How busy each GPU of a machine is, in percent."""
    return [
        value for name, value in load.items() if name.startswith("gpu_") and name.endswith("_utilization_percentage")
    ]


def busy(load: Load) -> float:
    """How busy a machine is, in percent: its GPUs, where it has some."""
    return statistics.fmean(gpus(load) or [load["cpu_utilization_percentage"]])
