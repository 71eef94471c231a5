"""strategy=auto: the first of the plan for what the launcher has, written into the run as if it had been typed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trainkit.config import sound
from trainkit.config.bundle import components
from trainkit.errors import ConfigError, Problem
from trainkit.launcher import _machine
from trainkit.plan.machine import GIGA, Site, site
from trainkit.protocols import Cluster

AUTO = "strategy=auto"
LIKE = "h100"
"""The figures of a GPU that no file describes, but for its memory: they only put strategies in order."""


def chosen(words: Sequence[str]) -> tuple[list[str], str]:
    """`words` with a strategy in place of auto, and the line that tells it. Raises ConfigError."""
    rest = [word for word in words if word != AUTO]
    if own := [word for word in rest if word.startswith("strategy.")]:
        key, _, value = own[0].partition("=")
        told = "is a key of one strategy, and strategy=auto may choose another"
        raise ConfigError([Problem(key, value, told, "leave it out, or name the strategy")])
    cluster = _cluster(rest)
    if cluster.gpus == 0:
        name = "ddp" if cluster.ranks > 1 else "local"
        return [*rest, f"strategy={name}"], f"{AUTO}: {name}, for {cluster.ranks} rank(s) without a GPU"

    from trainkit.plan.plan import plan, unfit

    where = _site(cluster)
    rows = plan(rest, where)
    first = rows[0]
    if first.verdict != "fits" or first.times is None:
        found = unfit(rows, where)
        raise ConfigError([Problem("strategy", "auto", found.message, found.hint)])
    given = any(word.startswith("train.micro_batch=") for word in rest)
    micro = [] if given else [f"train.micro_batch={first.samples}"]
    told = f"{AUTO}: {first.name}, the fastest of those that fit ({first.times.step:.3g} s a step, by the plan)"
    return [*rest, *first.words, *micro], told


def _cluster(words: Sequence[str]) -> Cluster:
    """What there is. ddp takes all of it, where launcher.ranks=auto leaves that to the strategy."""
    settings = sound([*words, "strategy=ddp"])
    return settings.launcher.cluster(settings.strategy, settings.train.device)


def _site(cluster: Cluster) -> Site:
    """The GPUs here, which those of the other nodes are taken to be like."""
    names, memory = _machine.gpu_names(), _machine.least_gpu()
    if not names or not memory:
        told = "there is no GPU here to look at"
        raise ConfigError(
            [Problem("strategy", "auto", told, "`trainkit plan cluster=8xh100` plans for another machine")]
        )
    kind = next((kind for kind in components("cluster") if kind in names[0].lower()), LIKE)
    each = max(1, cluster.ranks // cluster.hosts)
    machine = replace(site(kind).machine, memory_gb=memory / GIGA, per_node=each)
    return Site(word=f"{cluster.ranks}x{kind}", machine=machine, ranks=cluster.ranks)
