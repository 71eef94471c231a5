"""How busy the machines of a run are, as the agent notes it now and then: RUN/logs/system.jsonl.

A row has the time and, by host, what launcher/_meter.py reads there. Trackers get it as they get metrics, `top` shows
the newest row, `report` draws all. Nobody needs it to go on: a disk that is full or away is no reason to disturb a run.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from contextlib import suppress

from trainkit.runfolder import RunFolder, append_line, drop_torn_line, guard

Load = Mapping[str, float]


class SystemLog:
    """Written every so many seconds; None: never."""

    def __init__(self, folder: RunFolder, every: float | None) -> None:
        self._path, self._every, self._written = folder.system, every, time.monotonic()
        with suppress(OSError):
            drop_torn_line(self._path)

    def due(self) -> bool:
        return self._every is not None and time.monotonic() - self._written >= self._every

    def write(self, machines: Mapping[str, Load]) -> None:
        """`machines`: what was read on each, by host. Raises Fenced."""
        self._written = time.monotonic()
        guard()
        if machines:
            with suppress(OSError):
                append_line(self._path, {"time": time.time(), "machines": machines})


def gpus(load: Load) -> list[float]:
    """How busy each GPU of a machine is, in percent."""
    return [
        value for name, value in load.items() if name.startswith("gpu_") and name.endswith("_utilization_percentage")
    ]


def busy(load: Load) -> float:
    """How busy a machine is, in percent: its GPUs, where it has some."""
    return statistics.fmean(gpus(load) or [load["cpu_utilization_percentage"]])
