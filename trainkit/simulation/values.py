"""What a simulation says of a rank: bytes by kind, shapes, collectives. Without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from math import prod

Coordinates = Mapping[str, int]
"""A rank's number along each axis of the mesh."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes on one rank, each kind at its largest within a step.

    weights      parameters; under ZeRO also the fp32 partition that the optimizer steps
    gradients    as the optimizer sees them
    accumulated  what is kept whole between the micro-batches of a step, where gradients are divided after the last only
    moments      the optimizer's state
    average      train.ema
    activations  what autograd keeps for backward, of all micro-batches under way at once
    copies       bf16 copies of weights, which autocast makes and autograd keeps
    """

    weights: int
    gradients: int
    accumulated: int
    moments: int
    average: int
    activations: int
    copies: int

    @property
    def total(self) -> int:
        return sum(self.kinds().values())

    def kinds(self) -> dict[str, int]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


@dataclass(frozen=True, kw_only=True)
class Collective:
    """All collectives of one kind along one axis, in one optimizer step of one rank.

    ranks    that take part
    payload  bytes of the whole tensors: gathered, before they are scattered, or reduced
    """

    kind: str
    axis: str
    ranks: int
    count: int
    payload: int

    @property
    def sent(self) -> int:
        """Bytes that a rank sends, by the ring algorithms (Patarasuk and Yuan, 2009, doi:10.1016/j.jpdc.2008.09.002):
        (n - 1) / n of the payload, and for an all-reduce twice that."""
        if self.kind in ("send", "receive"):
            return self.payload if self.kind == "send" else 0
        passes = 2 if self.kind == "all_reduce" else 1
        return passes * self.payload * (self.ranks - 1) // self.ranks


Shape = tuple[int, ...]
Figures = tuple[Mapping[str, Shape], Memory, tuple[Collective, ...]]
"""The shapes of a rank's parts of the parameters, its memory and its collectives."""


@dataclass(frozen=True, kw_only=True)
class Rank:
    """One rank of a simulation. `shapes`: of its parts of the parameters, by name, with a 0 where it has none."""

    number: int
    coordinates: Coordinates
    shapes: Mapping[str, Shape]
    memory: Memory
    collectives: tuple[Collective, ...]


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """One optimizer step of a run on `axes`, of which the last is the fastest in the numbering of the ranks.

    parameters    of the whole model
    micro_batches of a rank per step
    formula       bytes of activations per rank by the published formula (formula.py), for comparison; None where the
                  model's widths are not known
    rank_at       the rank at given coordinates
    """

    axes: Mapping[str, int]
    parameters: int
    micro_batches: int
    formula: int | None
    rank_at: Callable[[Coordinates], Figures]

    @property
    def ranks(self) -> int:
        return prod(self.axes.values())

    def coordinates(self, number: int) -> Coordinates:
        """Raises ValueError where there is no such rank."""
        if not 0 <= number < self.ranks:
            raise ValueError(f"there are ranks 0 to {self.ranks - 1}, and no {number}")
        found = {}
        for axis, size in reversed(list(self.axes.items())):
            number, found[axis] = divmod(number, size)
        return dict(reversed(found.items()))

    def rank(self, number: int) -> Rank:
        place = self.coordinates(number)
        shapes, memory, collectives = self.rank_at(place)
        return Rank(number=number, coordinates=place, shapes=shapes, memory=memory, collectives=collectives)
