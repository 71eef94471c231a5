"""How busy this machine is: what MLflow calls system metrics, by the names under which it shows them
(https://mlflow.org/docs/latest/ml/tracking/system-metrics/)."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import psutil

from trainkit.launcher import _machine

MIB = 2**20
LOOPBACK = "lo"


class Meter:
    """What depends on time is that since it was read last. `disk`: a folder on the one that is looked at; None: no disk
    is, which may be a network's and stand still, and whoever looks with it."""

    def __init__(self, disk: Path | None) -> None:
        self._disk = disk
        psutil.cpu_percent()  # begins to count
        self._at, self._carried = time.monotonic(), _carried()

    def read(self) -> dict[str, float]:
        """Percentages, MiB, MiB per second and watts, by name."""
        now, carried, memory = time.monotonic(), _carried(), psutil.virtual_memory()
        seconds = max(now - self._at, 1e-3)
        received, sent = (max(0, new - old) / MIB / seconds for new, old in zip(carried, self._carried, strict=True))
        self._at, self._carried = now, carried
        load = {
            "cpu_utilization_percentage": psutil.cpu_percent(),
            "system_memory_usage_percentage": memory.percent,
            "system_memory_usage_megabytes": (memory.total - memory.available) / MIB,
            "network_receive_megabytes_per_second": received,
            "network_transmit_megabytes_per_second": sent,
        }
        if self._disk is not None:
            with suppress(OSError):  # the folder is gone
                disk = psutil.disk_usage(str(self._disk))
                load |= {"disk_usage_percentage": disk.percent, "disk_available_megabytes": disk.free / MIB}
        return {name: round(value, 3) for name, value in (load | _machine.gpu_load()).items()}


def _carried() -> tuple[int, int]:
    """Bytes that came from and went to other machines."""
    cards = [card for name, card in psutil.net_io_counters(pernic=True).items() if name != LOOPBACK]
    return sum(card.bytes_recv for card in cards), sum(card.bytes_sent for card in cards)
