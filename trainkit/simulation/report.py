"""A simulation as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from trainkit.simulation.values import Simulation


def report(simulation: Simulation, number: int) -> Iterator[str]:
    """Lines on the rank with that number."""
    rank = simulation.rank(number)
    yield f"{simulation.parameters:,} parameters on {simulation.ranks:,} ranks, {_product(simulation.axes)}"
    yield f"rank {number:,}: {', '.join(f'{axis} {place}' for axis, place in rank.coordinates.items())}"
    yield ""
    for kind, count in rank.memory.kinds().items():
        yield f"  {kind:<15} {size(count):>12}"
    yield f"  {'total':<15} {size(rank.memory.total):>12}"
    if simulation.formula is not None:
        yield f"  (activations of one micro-batch by the published formula: {size(simulation.formula)})"
    yield ""
    yield f"  {'per step':<15} {'axis':<9} {'ranks':>6} {'count':>7} {'payload':>12} {'sent':>12}"
    for c in rank.collectives:
        yield f"  {c.kind:<15} {c.axis:<9} {c.ranks:>6} {c.count:>7} {size(c.payload):>12} {size(c.sent):>12}"


def _product(axes: Mapping[str, int]) -> str:
    return " x ".join(f"{axis} {size}" for axis, size in axes.items() if size > 1) or "alone"


def size(count: int) -> str:
    """In decimal units, as networks and disks are sold."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
