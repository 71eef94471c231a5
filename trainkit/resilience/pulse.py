"""How a rank tells the agent where it is: a few bytes of memory that both share, so that it costs the rank no system
call, and is still there when the rank is not."""

from __future__ import annotations

import mmap
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

from trainkit.resilience.stop import StopFlag

Section = Literal["starting", "training", "evaluating", "saving", "finishing", "rescuing", "standing", "leaving"]
SECTIONS: tuple[Section, ...] = get_args(Section)
_BEAT = struct.Struct("qqdd")
_TURN = 8  # bytes before each beat, which count how often it was written; odd: it is being written
_PLACE = _TURN + _BEAT.size
TRIES = 100


@dataclass(frozen=True, slots=True)
class Beat:
    """What was last heard of a rank: in `step` (1-based; 0 before the first), doing `section`, since `at` (seconds of
    the machine's monotonic clock); `waited`: seconds for which it has waited for data, in all."""

    step: int
    section: Section
    at: float
    waited: float = 0.0


class Pulse:
    """One place per rank, of which there are `most` at most. Made by the agent before it forks the ranks.

    Nobody waits for anybody: a beat that is just being written (packing clears its bytes first), or whose rank was
    killed while it wrote, is read again, and else what was known before holds (a sequence lock)."""

    def __init__(self, most: int) -> None:
        self._memory = mmap.mmap(-1, most * _PLACE)  # anonymous and shared
        self._turns = memoryview(self._memory).cast("q")
        self._known = [Beat(0, "starting", 0.0)] * most
        self.begin(most)

    def begin(self, ranks: int) -> None:
        """An attempt of `ranks` ranks."""
        self._ranks = ranks
        for rank in range(ranks):
            self.beat(rank, 0, "starting", 0.0)

    def beat(
        self, rank: int, step: int, section: Section, waited: float | None = None, at: float | None = None
    ) -> None:
        """`waited`: None for what it was; `at`: when, where that is not now: the agent of several machines passes on
        what it hears."""
        at = time.monotonic() if at is None else at
        waited = self.read(rank).waited if waited is None else waited
        turn = rank * _PLACE // _TURN
        self._turns[turn] |= 1
        _BEAT.pack_into(self._memory, rank * _PLACE + _TURN, step, SECTIONS.index(section), at, waited)
        self._turns[turn] += 1

    def read(self, rank: int) -> Beat:
        turn = rank * _PLACE // _TURN
        for _ in range(TRIES):
            before = self._turns[turn]
            step, section, at, waited = _BEAT.unpack_from(self._memory, rank * _PLACE + _TURN)
            if before % 2 == 0 and self._turns[turn] == before:
                self._known[rank] = Beat(step, SECTIONS[section], at, waited)
                break
        return self._known[rank]

    def all(self) -> list[Beat]:
        """The last beat of every rank."""
        return [self.read(rank) for rank in range(self._ranks)]


class Tell(Protocol):
    """What a rank is told by: see `Pulse.beat`."""

    def __call__(self, step: int, section: Section, waited: float | None = None) -> None: ...


def unheard(step: int, section: Section, waited: float | None = None) -> None:
    """The beat of a rank that nobody watches."""


def unnoted() -> None:
    """The first step of a rank after which nobody comes."""


@dataclass(frozen=True, slots=True)
class Lifeline:
    """What ties a rank to whoever watches it: it may be asked to stop, says in which step it is, and when it has made
    its first one, so that all that it needs is imported."""

    stop: StopFlag
    beat: Tell = unheard
    trains: Callable[[], None] = unnoted
