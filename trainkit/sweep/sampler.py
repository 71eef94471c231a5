"""Who says which member is next. A grid needs nothing for it; other samplers are a library's (optuna.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Protocol

from trainkit.config.space import Space
from trainkit.sweep.member import Member, Result, named


class Sampler(Protocol):
    def members(self) -> Mapping[str, Member]:
        """All that there are so far, by name."""

    def next(self) -> Member | None:
        """A member to run, which is this process's until `tell`; none is given out twice by one command. None: there
        is no more to do here."""

    def prune(self, member: Member, values: Sequence[float]) -> bool:
        """Whether to end a member early that has come to these evaluations."""

    def tell(self, member: Member, result: Result) -> None:
        """What became of it."""

    def judged(self, member: Member, result: Result) -> Result:
        """What became of it, for the table: a run folder does not know that its run was pruned."""


def grid(spaces: Sequence[Space]) -> Iterator[Member]:
    """Every combination; the last key varies fastest."""
    for values in product(*(space.values for space in spaces)):
        yield named({space.key: value for space, value in zip(spaces, values, strict=True)})


class Grid:
    """All combinations, one after the other."""

    def __init__(self, spaces: Sequence[Space]) -> None:
        self._members = {member.name: member for member in grid(spaces)}
        self._left = [*self._members.values()]

    def members(self) -> Mapping[str, Member]:
        return self._members

    def next(self) -> Member | None:
        return self._left.pop(0) if self._left else None

    def prune(self, member: Member, values: Sequence[float]) -> bool:
        return False

    def tell(self, member: Member, result: Result) -> None:
        pass

    def judged(self, member: Member, result: Result) -> Result:
        return result
