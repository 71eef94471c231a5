"""Which ways to spread a run over a number of ranks are compared: every strategy, with the sizes of axes that people
choose. A way is the words of the command line that select it."""

from __future__ import annotations

from collections.abc import Iterator

from trainkit.config.bundle import components
from trainkit.plan.machine import Site

Words = tuple[str, ...]
FEW, MANY = 2, 16  # stages of a pipeline


def variants(site: Site) -> Iterator[Words]:
    """One or more for every strategy there is, one's own too."""
    for name in sorted(components("strategy"), key=_order):
        chosen = f"strategy={name}"
        more = {"fsdp": _fsdp, "mesh": _mesh, "pipeline": _pipeline}.get(name)
        yield from ((chosen, *words) for words in more(site)) if more else iter([(chosen,)])


def _order(name: str) -> tuple[int, str]:
    """Simple ones first: of two that are equally good, the first is taken."""
    known = ("local", "ddp", "fsdp", "zero1", "zero2", "zero3", "tensor", "pipeline", "mesh")
    return known.index(name) if name in known else len(known), name


def _fsdp(site: Site) -> Iterator[Words]:
    """Divided over all ranks, or within a node or a half of it (HSDP)."""
    yield ()
    if site.ranks > 1:
        yield ("strategy.accumulate_sharded=true",)
    within = site.machine.per_node if site.hosts > 1 else site.ranks // 2
    for parts in sorted({within, 8 * within} if site.hosts > 8 else {within}):
        if 1 < parts < site.ranks and site.ranks % parts == 0:
            yield (f"strategy.replicas={site.ranks // parts}",)


def _pipeline(site: Site) -> Iterator[Words]:
    """The ranks of a node divide what a stage has."""
    stages = [n for n in (2, 4, 8, 16) if n <= site.ranks and site.ranks % n == 0 and n <= max(FEW, site.hosts)]
    yield from ((f"strategy.stages={n}",) for n in (stages or [site.ranks])[-2:])


def _mesh(site: Site) -> Iterator[Words]:
    """Tensor parallel within a node, FSDP across; and with stages for many nodes. With fewer than four ranks it
    would be one of the others."""
    within = min(site.ranks, site.machine.per_node)
    sizes = [n for n in (2, 8) if n <= within and site.ranks % n == 0 and n < site.ranks]
    for tensor in sizes:
        yield f"strategy.tensor={tensor}", "strategy.sequence_parallel=true", "strategy.loss_parallel=true"
        if site.hosts > 8 and tensor == within:
            yield f"strategy.tensor={tensor}", f"strategy.replicas={site.hosts // 8}"
    if sizes and site.hosts > 1:
        stages = min(MANY, site.hosts)
        yield f"strategy.pipeline={stages}", f"strategy.tensor={sizes[-1]}"
