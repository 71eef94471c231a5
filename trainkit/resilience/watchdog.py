"""Whether a run hangs, judged from outside the ranks by when they were last heard of. Holds no process and no clock.

The ranks of a run go step by step together: where one hangs, the others soon wait for it, and nobody is heard of. How
long a step may take is told by the steps so far. What is no step (start, evaluation, checkpoint, export), and the first
few steps (compilation), may take far longer.

Time in which nobody looked was no silence: whoever calls was stopped then, and its ranks with it (scontrol suspend).

On CPUs a rank that waits for the others sleeps. So where one of them computes all the time, nobody hangs: the machine
is short of cores, and that may take longer too. (On a GPU a rank may spin while it waits, which tells nothing.)
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Sequence

from trainkit.resilience.pulse import Beat
from trainkit.settings import Watchdog

LEAST_S, TIMES_MEDIAN, ENOUGH, WINDOW = 60.0, 10.0, 3, 101
AWAY_S = 5.0
WORKS = 0.2  # of a core: what waits uses less

Cpu = Callable[[], Sequence[float]]
"""Seconds of processor time that each rank has used so far."""


class Watch:
    """One attempt under watch, which goes on from step `start`; `cpu`: what the ranks use of the CPUs, if they compute
    on them. It is asked only once there is silence."""

    def __init__(self, limits: Watchdog, start: int, cpu: Cpu = tuple) -> None:
        self._limits, self._start, self._cpu = limits, start, cpu
        self._used: tuple[float, Sequence[float]] | None = None  # when, and what, in the silence that lasts
        self._seconds: deque[float] = deque(maxlen=WINDOW)  # of one step
        self._last: Beat | None = None
        self._looked, self._heard, self._away = math.inf, 0.0, 0.0

    def look(self, beats: Sequence[Beat], now: float) -> float | None:
        """The seconds of silence, if they are too many. `beats`: the last one of every rank; `now`: monotonic time.
        Call it often: steps are timed between two calls."""
        newest = max(beats, key=lambda beat: beat.at)
        last = self._last
        if last is None or (newest.section == "starting" and newest.step > last.step):
            self._start = max(self._start, newest.step)  # a checkpoint from a store is newer than what was known
            self._last = newest
        elif newest.step > (before := max(last.step, self._start)):
            self._seconds.append((newest.at - last.at) / (newest.step - before))
            self._last = newest
        silence, limit = now - newest.at - self._stopped(newest.at, now), self.limit(beats)
        if silence <= limit / 2:
            self._used = None
            return None
        computes = self._computes(now)
        return silence if silence > (self._limits.slow if computes else limit) else None

    def _stopped(self, heard: float, now: float) -> float:
        """How many of the seconds since `heard` nobody looked."""
        since, self._looked = now - self._looked, now
        if heard != self._heard:
            self._heard, self._away = heard, 0.0
        if since > AWAY_S:
            self._away += min(since, now - heard)
        return self._away

    def _computes(self, now: float) -> bool:
        """Whether a rank has computed in the silence since it was first asked. Where a time is set, that holds."""
        if self._limits.timeout is not None:
            return False
        used = self._cpu()
        since, before = self._used = self._used or (now, used)
        return any(after - first > WORKS * (now - since) for after, first in zip(used, before, strict=False))

    @property
    def usual(self) -> float:
        """The median seconds of a step; 0 before there are some."""
        return statistics.median(self._seconds) if self._seconds else 0.0

    def limit(self, beats: Sequence[Beat]) -> float:
        """How many seconds of silence are still good."""
        made = max(beat.step for beat in beats) - self._start - 1
        if made < ENOUGH or not self._seconds or any(beat.section != "training" for beat in beats):
            return self._limits.slow
        if self._limits.timeout is not None:
            return self._limits.timeout
        return max(LEAST_S, TIMES_MEDIAN * statistics.median(self._seconds))


def described(beats: Sequence[Beat], stopped: Sequence[int], silence: float) -> tuple[int | None, str]:
    """The rank that the others wait for, where one can be told, and the message. `stopped`: ranks whose process was
    stopped by a signal."""
    furthest = max(beat.step for beat in beats)
    behind = [rank for rank, beat in enumerate(beats) if beat.step < furthest]
    head = f"no rank was heard of for {silence:.0f} s"
    if stopped:
        return stopped[0], f"{head}: the process of {_named(stopped)} is stopped (SIGSTOP)"
    if behind:
        return behind[0], f"{head}: {_named(behind)} did not come to step {furthest}, where the others wait"
    doing = ", ".join(sorted({beat.section for beat in beats}))
    return None, f"{head}: every rank is in step {furthest} ({doing})"


def _named(ranks: Sequence[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
