"""How long a step takes, by a model that can be worked out by hand (docs/plan.md). Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainkit.plan.machine import GIGA, Machine
from trainkit.protocols import Precision
from trainkit.simulation.values import Collective

TERA, MICRO = 1e12, 1e-6
REDUCTIONS = ("all_reduce", "reduce_scatter")
DATA = ("replicas", "shard")


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a rank does in a step.

    flops        of the whole model and batch, without those that activation checkpointing repeats
    again        how many of `flops` are made once more for it
    touched      bytes that are read or written besides the operands of products
    collectives  and `axes`: sizes of the mesh, last axis fastest in the numbering of ranks
    passes       micro-batches
    stages       of a pipeline, and `bubble`: the part of the time of one micro-batch per stage that nothing fills
    late         whether gathered weights are waited for (ZeRO 1 and 2 gather after the optimizer has stepped)
    """

    flops: float
    again: float
    touched: float
    collectives: Sequence[Collective]
    axes: Mapping[str, int]
    passes: int
    stages: int
    bubble: float
    late: bool


@dataclass(frozen=True, kw_only=True)
class Times:
    """Seconds of a step by what they go to; `sent`: bytes that a rank sends."""

    compute: float
    memory: float
    communication: float
    bubble: float
    sent: int

    @property
    def step(self) -> float:
        return self.compute + self.memory + self.communication + self.bubble


def times(work: Work, machine: Machine, ranks: int, precision: Precision) -> Times:
    attained = machine.tflops[precision] * TERA * machine.attained
    compute = (work.flops + work.again) / ranks / attained
    memory = work.touched / (machine.memory_gbps * GIGA)
    busy = compute + memory
    gathers = reductions = blocking = 0.0
    for c in work.collectives:
        seconds = collective(c, work.axes, machine)
        if c.axis not in DATA or (c.kind not in REDUCTIONS and work.late):
            blocking += seconds
        elif c.kind in REDUCTIONS:
            reductions += seconds
        else:
            gathers += seconds
    if machine.overlaps:  # gathering beside all of it, reducing beside backward of the last micro-batch
        gathers = max(0.0, gathers - busy)
        reductions = max(0.0, reductions - busy * 2 / 3 / work.passes)
    filled = busy + blocking
    return Times(
        compute=compute,
        memory=memory,
        communication=gathers + reductions + blocking,
        bubble=work.bubble * (work.stages - 1) / work.passes * filled,
        sent=sum(c.sent for c in work.collectives),
    )


def collective(c: Collective, axes: Mapping[str, int], machine: Machine) -> float:
    """Seconds of all collectives of that kind, one after the other: by rings, latency and bandwidth (alpha-beta)."""
    if c.ranks == 1 or not c.count:
        return 0.0
    nodes, within = spread(c.axis, axes, machine.per_node)
    bandwidth = machine.node.gbps if nodes == 1 else min(machine.node.gbps, within * machine.network.gbps)
    if c.kind in ("send", "receive"):
        steps, between = 1, int(nodes > 1)
        bandwidth = machine.node.gbps if nodes == 1 else machine.network.gbps
    else:
        twice = 2 if c.kind == "all_reduce" else 1
        steps, between = twice * (c.ranks - 1), twice * (nodes - 1)
    delay = machine.call_us + (steps - between) * machine.node.us + between * machine.network.us
    return c.count * delay * MICRO + c.sent / (bandwidth * GIGA)


def spread(axis: str, axes: Mapping[str, int], per_node: int) -> tuple[int, int]:
    """Over how many nodes the ranks along `axis` are, and how many of them are in each."""
    apart, size = 1, 1
    for name, length in reversed(list(axes.items())):
        if name == axis:
            size = length
            break
        apart *= length
    within = max(1, min(size, per_node // apart))
    return -(-size // within), within
