"""How busy this machine is: what MLflow calls system metrics, by the names under which it shows them
(https://mlflow.org/docs/latest/ml/tracking/system-metrics/)."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import psutil

from trainkit.launcher import _machine

MIB = 2**20
CARDS = Path("/sys/class/net")
LOOPBACK = "lo"


class Meter:
    """What depends on time is that since it was read last. `disk`: a folder on the one that is looked at; None: no disk
    is, which may be a network's and stand still, and whoever looks with it."""

    def __init__(self, disk: Path | None) -> None:
        self._disk = disk
        self._at, self._carried = time.monotonic(), (0, 0)
        with suppress(Exception):  # as in `read`; and GPUs need not be asked yet
            self._read()

    def read(self) -> dict[str, float]:
        """Percentages, MiB, MiB per second and watts, by name. Nothing where this machine does not tell: a driver that
        is replaced while it is asked, a /proc that lacks something, are no reason to disturb a run."""
        try:
            return {name: round(value, 3) for name, value in (self._read() | _machine.gpu_load()).items()}
        except Exception:
            return {}

    def _read(self) -> dict[str, float]:
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
        return load


def _carried() -> tuple[int, int]:
    """Bytes that came from and went to other machines: of the cards that are hardware, because a bond or a bridge of
    them counts the same bytes; in a container, which may have none of its own, of all."""
    every = {name: card for name, card in psutil.net_io_counters(pernic=True).items() if name != LOOPBACK}
    cards = [card for name, card in every.items() if (CARDS / name / "device").exists()] or [*every.values()]
    return sum(card.bytes_recv for card in cards), sum(card.bytes_sent for card in cards)
