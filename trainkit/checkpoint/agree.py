"""A fault on one rank is agreed on by all before anyone waits for anyone. Imports no torch."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from trainkit.errors import CheckpointError, TrainkitError
from trainkit.protocols import Ranks

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Alone:
    """One rank that asks no other."""

    rank: int
    size: int = 1

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def exchange(self, outgoing: Sequence[tuple[int, Tensor]], incoming: Sequence[tuple[int, Tensor]]) -> None:
        pass


def together(ranks: Ranks, work: Callable[[], T]) -> list[T]:
    """Do `work` on every rank and return what it returned on each, in rank order. If one failed, every rank raises
    CheckpointError, so that none waits for another that has left. Collective; what is returned must be small."""
    outcome: list[T] = []
    failure: str | None = None
    try:
        outcome.append(work())
    except Exception as error:  # told to the others, then raised on every rank below
        failure = reason(error)
    everyone: list[tuple[str | None, list[T]]] = ranks.gather((failure, outcome))
    first = ranks.rank if ranks.size == 1 else 0
    failed = [f"rank {first + i}: {text}" for i, (text, _) in enumerate(everyone) if text is not None]
    if failed:
        raise CheckpointError("; ".join(failed))
    return [value for _, (value,) in everyone]


def agreed(ranks: Ranks, work: Callable[[], T]) -> T:
    """As `together`, but each rank keeps what it got to itself."""
    outcome: list[T] = []
    together(ranks, lambda: outcome.append(work()))
    return outcome[0]


def reason(error: BaseException) -> str:
    """The cause of a fault in plain words."""
    plain = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EROFS: "the disk is read-only",
    }
    if isinstance(error, OSError) and error.errno is not None:
        where = f" ({error.filename})" if error.filename else ""
        return plain.get(error.errno, f"{os.strerror(error.errno)}{where}")
    return str(error) if isinstance(error, TrainkitError) else f"{type(error).__name__}: {error}"
