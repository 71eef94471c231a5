"""Which rank is where, and what a collective sends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trainkit.simulation.values import Collective, Coordinates, Figures, Memory, Simulation

MEMORY = Memory(weights=1, gradients=2, accumulated=4, moments=8, average=16, activations=32, copies=64)


def at(place: Coordinates) -> Figures:
    return {"w": (place["shard"], place["tensor"])}, MEMORY, ()


SIMULATION = Simulation(axes={"shard": 3, "tensor": 2}, parameters=9, micro_batches=1, formula=None, rank_at=at)


def test_the_last_axis_is_the_fastest() -> None:
    places = [tuple(SIMULATION.rank(number).coordinates.items()) for number in range(SIMULATION.ranks)]
    assert places == [(("shard", s), ("tensor", t)) for s in range(3) for t in range(2)]
    assert SIMULATION.rank(5).shapes == {"w": (2, 1)}


@pytest.mark.parametrize("number", [-1, 6])
def test_there_is_no_other_rank(number: int) -> None:
    with pytest.raises(ValueError, match=f"ranks 0 to 5, and no {number}"):
        SIMULATION.rank(number)


def test_the_total_is_of_all_kinds() -> None:
    assert MEMORY.total == 127


@pytest.mark.parametrize(
    ("kind", "sent"),
    [("all_gather", 750), ("reduce_scatter", 750), ("all_reduce", 1500), ("send", 1000), ("receive", 0)],
)
def test_a_ring_of_four_passes_on_three_quarters(kind: str, sent: int) -> None:
    collective = Collective(kind="all_gather", axis="shard", ranks=4, count=2, payload=1000)
    assert replace(collective, kind=kind).sent == sent
