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

from trainkit.resilience.pulse import Beat
from trainkit.runfolder import RunFolder

EVERY_S = 2.0


@dataclass(frozen=True, slots=True)
class Standing:
    """Rank `rank` on `host` is in `step`, doing `section`, for `age` seconds; `pace`: seconds per step of late, None
    before it made some; `memory`: bytes of the host's that its process holds."""

    rank: int
    host: str
    step: int
    section: str
    age: float
    pace: float | None
    memory: int


class Board:
    """Written at most every EVERY_S seconds."""

    def __init__(self, folder: RunFolder) -> None:
        self._path, self._written = folder.ranks, 0.0
        self._attempt = 0
        self._before: list[Beat] = []

    def due(self) -> bool:
        return time.monotonic() - self._written >= EVERY_S

    def write(self, attempt: int, beats: Sequence[Beat], places: Sequence[tuple[str, int]]) -> None:
        """`places`: host and memory of each rank. A disk that is full or away is no reason to disturb a run."""
        now = self._written = time.monotonic()
        if attempt != self._attempt:
            self._attempt, self._before = attempt, []
        before = self._before or beats
        ranks = [
            Standing(rank, host, beat.step, beat.section, round(max(0.0, now - beat.at), 1), _pace(was, beat), memory)
            for rank, (beat, was, (host, memory)) in enumerate(zip(beats, before, places, strict=False))
        ]
        self._before = [*beats]
        told = {"time": time.time(), "attempt": attempt, "ranks": [asdict(standing) for standing in ranks]}
        temporary = self._path.with_name(".ranks.json")
        with suppress(OSError):
            temporary.write_text(json.dumps(told, separators=(",", ":")))
            temporary.replace(self._path)


def _pace(was: Beat, now: Beat) -> float | None:
    return round((now.at - was.at) / (now.step - was.step), 4) if now.step > was.step > 0 else None


def read(folder: RunFolder) -> tuple[float, int, list[Standing]]:
    """When it was written (0 for never), the attempt, and where its ranks were."""
    try:
        told: dict[str, Any] = json.loads(folder.ranks.read_text())
    except FileNotFoundError:
        return 0.0, 0, []
    return told["time"], told["attempt"], [Standing(**fields) for fields in told["ranks"]]
