"""How often to save: checkpoint.every. Imports no torch.

200             steps
"500 samples"   after the step in which a multiple of 500 samples is passed
"1e6 tokens"    since the save before
"10 minutes"    since the save before, by the clock of rank 0; also seconds, hours
"auto"          as often as loses the least time, from the measured cost of a save and checkpoint.mtbf_hours
"""

from __future__ import annotations

import math
import re
import time
from dataclasses import dataclass
from typing import Any, Protocol

SECONDS = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0}
UNITS = ("steps", "samples", "tokens", *SECONDS)
FIRST_S = 60.0  # until the first save of `auto`, whose cost says when the next ones come
SHARE = 0.1  # of the time, at most, in which a save of `auto` is being written
CHANGE = 0.2  # of the interval of `auto`, below which it is not told again


class Tell(Protocol):
    """Writes an event, on one rank."""

    def __call__(self, kind: str, **fields: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class Every:
    """`count` of `unit`: steps, samples, tokens, seconds; or auto."""

    count: float
    unit: str


def parse(every: int | str) -> Every:
    """What checkpoint.every says. Raises ValueError for what it cannot say."""
    if isinstance(every, int):
        return Every(every, "steps")
    if every == "auto":
        return Every(FIRST_S, "auto")
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?(?:e[0-9]+)?) *([a-z]+)", every.strip())
    if found is None:
        raise ValueError(f"is no number and unit; units are {', '.join(UNITS)}")
    number, unit = found[1], found[2] if found[2].endswith("s") else f"{found[2]}s"
    if unit not in UNITS:
        raise ValueError(f"has the unit {found[2]}; there are {', '.join(UNITS)}")
    count = float(number) * SECONDS.get(unit, 1.0)
    if not 0 < count < math.inf:
        raise ValueError("is not above 0 and finite")
    if unit in ("steps", "samples") and not count.is_integer():
        raise ValueError(f"is no whole number of {unit}")
    return Every(count, "seconds" if unit in SECONDS else unit)


class Cadence:
    """Says when a save is due. `samples`: where the run begins; `tell` writes an event."""

    def __init__(self, every: int | str | None, mtbf_hours: float, samples: int, tell: Tell) -> None:
        self._every = None if every is None else parse(every)
        self.by_clock = self._every is not None and self._every.unit in ("seconds", "auto")
        self._interval = self._told = self._every.count if self._every is not None else math.inf
        self._mtbf_hours, self._tell = mtbf_hours, tell
        self._samples, self._tokens, self._since = samples, 0.0, time.monotonic()

    def due(self, step: int, samples: int, tokens: float) -> bool:
        """Whether what was trained says so; the same on every rank. Called once per step."""
        every = self._every
        if every is None or self.by_clock:
            return False
        if every.unit == "steps":
            return step % every.count == 0
        if every.unit == "tokens":
            self._tokens += tokens
            return self._tokens >= every.count
        before, self._samples = self._samples, samples
        return samples // every.count > before // every.count

    def late(self) -> bool:
        """Whether this rank's clock says so."""
        return time.monotonic() - self._since >= self._interval

    def restart(self) -> None:
        """A save begins."""
        self._tokens, self._since = 0.0, time.monotonic()

    def learn(self, stall: float, seconds: float) -> None:
        """A save has cost the loop `stall` seconds, and was committed `seconds` after it began."""
        if self._every is None or self._every.unit != "auto":
            return
        mtbf = 3600 * self._mtbf_hours
        best, least = daly(stall, mtbf), seconds / SHARE
        self._interval = max(best, least)
        if abs(self._interval - self._told) > CHANGE * self._told:
            self._told = self._interval
            why = (
                f"a save stops the loop for {stall:.3g} s; with a failure every {self._mtbf_hours:g} h the least time "
            )
            why += f"is lost with a save every {best:.3g} s (Young/Daly)"
            if least > best:
                why += f", but it takes {seconds:.3g} s to write one, so one every {least:.3g} s"
            self._tell("cadence", every_s=round(self._interval, 3), stall=round(stall, 4), message=why)


def daly(cost: float, mtbf: float) -> float:
    """Seconds of training between two saves that lose the least time to saves and to failures: each save costs
    `cost` seconds, and failures come every `mtbf` seconds on average.

    J. T. Daly, A higher order estimate of the optimum checkpoint interval for restart dumps, FGCS 22 (2006), eq. 37;
    its first term is that of J. W. Young (1974), sqrt(2 * cost * mtbf).
    """
    if cost >= 2 * mtbf:
        return mtbf
    ratio = cost / (2 * mtbf)
    return math.sqrt(2 * cost * mtbf) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - cost
