"""A launcher whose command is given once per host, or once per rank: one of them leads the run, and the others keep
ranks for it (trainkit/guest.py)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from trainkit.launcher._seat import Seat
from trainkit.protocols import Cluster


@dataclass(frozen=True, kw_only=True)
class Visit:
    """A command that is not to lead the run.

    seat    which keeper it is; without a number: any that is free
    places  for ranks, that it has
    wait_s  so long it waits for the one that leads
    door    the address at which that one waits, where it is known beforehand
    silent  only the one that leads says how the run goes, and ends with its exit code
    """

    seat: Seat
    places: int
    wait_s: float
    door: tuple[str, int] | None = None
    silent: bool = False


@runtime_checkable
class Meets(Protocol):
    """Such a launcher."""

    def visit(self, words: Sequence[str], cluster: Cluster) -> Visit | None:
        """None: this command leads the run. Raises ConfigError."""
