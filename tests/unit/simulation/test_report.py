"""A simulation as text."""

from __future__ import annotations

from trainkit.simulation.report import report
from trainkit.simulation.values import Collective, Memory, Simulation

MEMORY = Memory(
    weights=999, gradients=1000, accumulated=0, moments=2_500_000, average=0, activations=7_000_000_000, copies=0
)
GATHERED = Collective(kind="all_gather", axis="shard", ranks=4, count=12, payload=4_000_000)


def test_it_says_where_the_rank_is_and_what_it_has_and_sends() -> None:
    simulation = Simulation(
        axes={"replicas": 1, "shard": 4},
        parameters=1234,
        micro_batches=1,
        formula=6_000_000_000,
        rank_at=lambda place: ({}, MEMORY, (GATHERED,)),
    )
    lines = [" ".join(line.split()) for line in report(simulation, 3)]
    assert lines[:2] == ["1,234 parameters on 4 ranks, shard 4", "rank 3: replicas 0, shard 3"]
    assert {"weights 999 B", "gradients 1.0 kB", "moments 2.5 MB", "activations 7.0 GB", "total 7.0 GB"} <= {*lines}
    assert "(activations of one micro-batch by the published formula: 6.0 GB)" in lines
    assert lines[-1] == "all_gather shard 4 12 4.0 MB 3.0 MB"
