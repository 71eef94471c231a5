"""Where every rank is, as the agent writes it now and then for whoever looks from outside: RUN/logs/ranks.json.

It comes from the pulse, which costs a rank no system call. One file that is replaced, so that it never grows, and
without fsync: after a crash nobody needs it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from trainkit.launcher._ranks import Place
from trainkit.resilience.pulse import Beat
from trainkit.runfolder import RunFolder

EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class Standing:
    """Rank `rank` on `host` is in `step`, doing `section`, for `age` seconds; `pace`, `wait`: seconds per step of late,
    and those of them in which it waited for data, None before it made some; `memory`, `gpu`: bytes of the host's and of
    GPUs that its process holds, None where that is not known."""

    rank: int
    host: str
    step: int
    section: str
    age: float
    pace: float | None
    memory: int
    wait: float | None = None
    gpu: int | None = None


class Board:
    """Written at most every EVERY_S seconds."""

    def __init__(self, folder: RunFolder) -> None:
        self._path, self._written = folder.ranks, 0.0
        self._attempt = 0
        self._before: list[Beat] = []

    def due(self) -> bool:
        return time.monotonic() - self._written >= EVERY_S

    def write(self, attempt: int, beats: Sequence[Beat], places: Sequence[Place]) -> None:
        """`places`: those of the ranks. A disk that is full or away is no reason to disturb a run."""
        now = self._written = time.monotonic()
        if attempt != self._attempt:
            self._attempt, self._before = attempt, []
        before = self._before or beats
        ranks = []
        for rank, (beat, was, place) in enumerate(zip(beats, before, places, strict=False)):
            late, made = round(max(0.0, now - beat.at), 1), beat.step - was.step if was.step > 0 else 0
            pace, wait = (_each(now - then, made) for then, now in ((was.at, beat.at), (was.waited, beat.waited)))
            ranks.append(Standing(rank, place.host, beat.step, beat.section, late, pace, place.memory, wait, place.gpu))
        self._before = [*beats]
        told = {"time": time.time(), "attempt": attempt, "ranks": [asdict(standing) for standing in ranks]}
        temporary = self._path.with_name(".ranks.json")
        with suppress(OSError):
            temporary.write_text(json.dumps(told, separators=(",", ":")))
            temporary.replace(self._path)


def _each(seconds: float, steps: int) -> float | None:
    """Of so many steps."""
    return round(seconds / steps, 4) if steps > 0 else None


def read(folder: RunFolder) -> tuple[float, int, list[Standing]]:
    """When it was written (0 for never), the attempt, and where its ranks were."""
    try:
        told: dict[str, Any] = json.loads(folder.ranks.read_text())
    except FileNotFoundError:
        return 0.0, 0, []
    return told["time"], told["attempt"], [Standing(**fields) for fields in told["ranks"]]
