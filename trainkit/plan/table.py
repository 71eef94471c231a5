"""A plan as text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trainkit.plan.machine import GIGA, Site
from trainkit.plan.plan import USABLE, Row, command
from trainkit.simulation.report import size

HEADER = (
    *("strategy", "parameters", "gradients", "moments", "activations", "buffers", "peak", "sent", "micro", "step"),
    *("MFU", ""),
)
BEST = 3


def cells(rows: Sequence[Row]) -> Iterator[tuple[str, ...]]:
    """A line for each, in the order of HEADER."""
    for row in rows:
        if row.load is None or row.times is None:
            yield row.name, *[""] * (len(HEADER) - 2), f"refused: {row.why}"
            continue
        load, times = row.load, row.times
        sizes = (load.parameters, load.gradients, load.moments, load.activations, load.buffers, load.peak, times.sent)
        yield (
            *(row.name, *(size(round(each)) for each in sizes), f"{row.samples} x {row.passes}"),
            *(_seconds(times.step), f"{100 * row.mfu:.1f}%", _verdict(row)),
        )


def head(site: Site) -> str:
    nodes = "1 node" if site.hosts == 1 else f"{site.hosts:,} nodes"
    room = size(round(USABLE * site.machine.memory_gb * GIGA))
    return f"{site.word}: {site.ranks:,} ranks on {nodes}, {room} usable on each; figures of a rank and step"


def best(words: Sequence[str], rows: Sequence[Row], site: Site) -> Iterator[str]:
    """The first of those that fit, of which there are some, and the command for it."""
    fitting = [row for row in rows if row.verdict == "fits"]
    for number, row in enumerate(fitting[:BEST], 1):
        yield f"{number}. {row.name}: {_where(row)}"
    yield ""
    yield "to run the best:"
    yield command(words, fitting[0], site)


def _verdict(row: Row) -> str:
    return row.verdict if row.verdict == "fits" else f"{row.verdict}: {row.why}"


def _where(row: Row) -> str:
    """What the time of a step goes to."""
    if row.times is None:
        return row.verdict
    t = row.times
    parts = {"computing": t.compute, "memory": t.memory, "waiting for others": t.communication, "bubble": t.bubble}
    return f"{_seconds(t.step)} = " + " + ".join(f"{_seconds(v)} {k}" for k, v in parts.items() if v > 0.0005 * t.step)


def _seconds(value: float) -> str:
    return f"{value:.1f} s" if value >= 10 else f"{value:.2f} s" if value >= 1 else f"{1000 * value:.3g} ms"
