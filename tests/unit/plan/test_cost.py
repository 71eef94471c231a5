"""The cost model, against what is worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import pytest

from trainkit.plan.cost import Times, Work, collective, spread, times
from trainkit.plan.machine import Link, Machine
from trainkit.simulation.values import Collective

MACHINE = Machine(
    per_node=8,
    memory_gb=80,
    tflops={"fp32": 1, "bf16": 10},
    attained=0.5,
    memory_gbps=1000,
    node=Link(gbps=100, us=1),
    network=Link(gbps=10, us=10),
    call_us=5,
    overlaps=False,
)
AXES = {"pipeline": 2, "replicas": 2, "shard": 4, "context": 1, "tensor": 4}
NOTHING = Work(flops=0, again=0, touched=0, collectives=(), axes=AXES, passes=1, stages=1, bubble=1.0, late=False)


def of(kind: str, axis: str, ranks: int, payload: int = 10**9, count: int = 1) -> Collective:
    return Collective(kind=kind, axis=axis, ranks=ranks, count=count, payload=payload)


def seconds(work: Work, machine: Machine = MACHINE) -> Times:
    return times(work, machine, prod(work.axes.values()), "bf16")


@pytest.mark.parametrize(
    ("axis", "nodes", "within"), [("tensor", 1, 4), ("shard", 2, 2), ("replicas", 2, 1), ("pipeline", 2, 1)]
)
def test_an_axis_spans_as_many_nodes_as_its_ranks_are_apart(axis: str, nodes: int, within: int) -> None:
    assert spread(axis, AXES, 8) == (nodes, within)


def test_a_ring_has_its_steps_and_its_bytes() -> None:
    within = collective(of("all_reduce", "tensor", 4), AXES, MACHINE)
    assert within == pytest.approx((5 + 6 * 1) * 1e-6 + 1.5e9 / 100e9)
    across = collective(of("all_gather", "shard", 4, count=3), AXES, MACHINE)
    assert across == pytest.approx(3 * (5 + 2 * 1 + 1 * 10) * 1e-6 + 0.75e9 / 20e9)  # two adapters of a node
    assert collective(of("all_reduce", "tensor", 1), AXES, MACHINE) == 0


def test_computing_and_memory_come_one_after_the_other() -> None:
    found = seconds(replace(NOTHING, flops=64 * 5e12, again=64 * 5e12, touched=1e12))
    assert (found.compute, found.memory, found.step) == pytest.approx((2.0, 1.0, 3.0))


def test_a_bubble_is_what_the_stages_wait_for_each_other() -> None:
    found = seconds(replace(NOTHING, flops=64 * 5e12, stages=4, passes=12, bubble=1.0))
    assert found.bubble == pytest.approx(3 / 12)  # (p - 1) / m of what is computed


def test_what_runs_beside_the_computation_costs_only_what_is_longer() -> None:
    beside = replace(MACHINE, overlaps=True)
    gather = replace(NOTHING, flops=64 * 5e12, collectives=[of("all_gather", "shard", 4, 10 * 10**9)])
    alone = seconds(gather).communication
    assert alone > 0.3
    assert seconds(gather, beside).communication == 0
    assert seconds(replace(gather, late=True), beside).communication == alone
    longer = replace(gather, flops=64 * 5e11)
    assert seconds(longer, beside).communication == pytest.approx(alone - 0.1)
    blocking = replace(gather, collectives=[of("all_reduce", "tensor", 4)])
    assert seconds(blocking, beside).communication == seconds(blocking).communication > 0
