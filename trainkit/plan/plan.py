"""Every way to spread a run over a site, with what it needs and how long a step takes, or why it does not do."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from trainkit.config import refused, sound
from trainkit.errors import ConfigError, Problem
from trainkit.plan import cost, flops
from trainkit.plan.figures import Figures, Load, Once
from trainkit.plan.machine import GIGA, Site
from trainkit.plan.variants import Words, variants
from trainkit.preflight import Layered
from trainkit.settings import Settings
from trainkit.simulation.report import size
from trainkit.strategy._meshed import Meshed
from trainkit.strategy._zero import Zero

USABLE = 0.92
"""Of a GPU's memory: the rest is CUDA's own, NCCL's buffers and what fragmentation costs."""

ALIKE = 1.005
"""So much slower counts as equally fast: each micro-batch costs time that the model does not know of."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way. `passes` micro-batches of `samples` samples; `load` and `times` are None where it was refused."""

    words: Words
    verdict: Literal["fits", "too large", "refused"]
    why: str = ""
    samples: int = 0
    passes: int = 0
    load: Load | None = None
    times: cost.Times | None = None
    mfu: float = 0.0

    @property
    def name(self) -> str:
        return " ".join(word.removeprefix("strategy.").removeprefix("strategy=") for word in self.words)


def plan(words: Sequence[str], site: Site) -> list[Row]:
    """Those that fit, the fastest first (of some that are about as fast the simplest), then the others. `words` as of a
    run; where they choose a strategy only that one is looked at. Raises ConfigError where they are no run under any
    strategy."""
    own = tuple(word for word in words if word.startswith(("strategy=", "strategy.")))
    rest = [word for word in words if word not in own and not word.startswith("launcher")]
    ways = [own] if own else list(variants(site))
    settled(rest if not own else [*rest, *own], site)
    counted, once = Counted(), Once()
    rows = [row(rest, way, site, counted, once) for way in ways]
    fitting = sorted([r for r in rows if r.verdict == "fits"], key=_step)
    alike = [r for r in rows if r in fitting and _step(r) <= ALIKE * _step(fitting[0])]
    first = alike[:1]  # in the order of the variants: the simplest
    return [
        *first,
        *(r for r in fitting if r not in first),
        *sorted([r for r in rows if r.verdict == "too large"], key=_step),
        *(r for r in rows if r.verdict == "refused"),
    ]


def unfit(rows: Sequence[Row], site: Site) -> Problem:
    """What is wrong where no row fits: how near the nearest comes."""
    hint = "more devices, train.activation_checkpointing=true, train.precision=bf16 or a smaller train.micro_batch"
    large = [(row.load.peak, row) for row in rows if row.load is not None]
    if not large:
        return Problem("cluster", site.word, f"no strategy runs there; {rows[0].name}: {rows[0].why}")
    nearest = min(large, key=lambda each: each[0])[1]
    return Problem("cluster", site.word, f"nothing fits; the least is {nearest.name}, which {nearest.why}", hint)


class Counted:
    """Floating-point operations of one sample, counted once: they do not depend on the strategy."""

    def __init__(self) -> None:
        self._found: float | None = None

    def of(self, settings: Settings) -> float:
        if self._found is None:
            recipe, shape = settings.recipe, settings.recipe.model_shape()
            if shape is None or not isinstance(recipe, Layered):
                self._found = flops.forward(recipe, recipe.example(1))
            else:
                batch = recipe.example(1)
                one, two = (flops.forward(recipe.with_layers(n), batch) for n in (1, 2))
                self._found = one + (shape.layers - 1) * (two - one)
        return self._found


def settled(words: Sequence[str], site: Site) -> Settings:
    """Raises ConfigError with what is wrong whatever the strategy."""
    settings = sound([*words, f"launcher.ranks={site.ranks}"])
    if found := settings.recipe.problems():
        raise ConfigError(list(found))
    return settings


def row(words: Sequence[str], way: Words, site: Site, counted: Counted, once: Once) -> Row:
    try:
        settings = settled([*words, *way], site)
        if wrong := refused(settings, site.cluster()):
            return Row(words=way, verdict="refused", why=_reason(wrong))
        figures = Figures(settings, site.ranks, once)
        return _best(way, figures, site, counted.of(settings))
    except ConfigError as error:
        return Row(words=way, verdict="refused", why=_reason(error.problems))
    except NotImplementedError as error:
        return Row(words=way, verdict="refused", why=str(error))


def _reason(problems: Sequence[Problem]) -> str:
    """The first of them in one line."""
    first = problems[0]
    return f"{first.key}={first.value}: {first.message}" if first.key else first.message


def _best(way: Words, figures: Figures, site: Site, forward: float) -> Row:
    """With the micro-batch that is asked for; with train.micro_batch=null the fastest of those that fit, and of those
    that are about as fast the largest; where none fits, the smallest."""
    rows = [_row(way, figures, site, forward, samples) for samples in _sizes(figures)]
    fitting = [row for row in rows if row.verdict == "fits"]
    if not fitting:
        return rows[0]
    fastest = min(_step(row) for row in fitting)
    return max((row for row in fitting if _step(row) <= ALIKE * fastest), key=lambda row: row.samples)


def _step(row: Row) -> float:
    return row.times.step if row.times else 0.0


def _sizes(figures: Figures) -> Iterator[int]:
    """Samples of a micro-batch, ascending."""
    train = figures.settings.train
    each = train.global_batch // figures.readers
    if train.micro_batch is not None:
        yield train.micro_batch
        return
    size = 1
    while size <= each:
        if each % size == 0:
            yield size
        size *= 2
    if each & (each - 1):  # no power of two
        yield each


def _row(way: Words, figures: Figures, site: Site, forward: float, samples: int) -> Row:
    settings, machine = figures.settings, site.machine
    passes = settings.train.global_batch // figures.readers // samples
    load = figures.load(samples, passes)
    whole = forward * settings.train.global_batch
    model = (1 + flops.BACKWARD) * whole
    work = cost.Work(
        flops=model,
        again=whole if settings.train.activation_checkpointing else 0.0,
        touched=2 * load.each * passes + 2 * load.parameters + load.gradients + 2 * load.moments,
        collectives=load.collectives,
        axes=figures.axes.sizes(),
        passes=passes,
        stages=figures.axes.pipeline,
        bubble=_bubble(settings),
        late=isinstance(settings.strategy, Zero) and settings.strategy.spread().stage < 3,
    )
    times = cost.times(work, machine, site.ranks, settings.train.precision)
    peak = machine.tflops[settings.train.precision] * cost.TERA * site.ranks
    room = USABLE * machine.memory_gb * GIGA
    found = Row(
        words=way,
        verdict="fits",
        samples=samples,
        passes=passes,
        load=load,
        times=times,
        mfu=model / times.step / peak,
    )
    if load.peak <= room:
        return found
    told = f"needs {size(round(load.peak))} of {size(round(room))}"
    return replace(found, verdict="too large", why=told)


def _bubble(settings: Settings) -> float:
    """By the schedule (docs/plan.md)."""
    if not isinstance(settings.strategy, Meshed):
        return 0.0
    staging = settings.strategy.staging()
    return {"zero_bubble": 1 / 3}.get(staging.schedule, 1.0 / staging.virtual_stages)


def command(words: Sequence[str], row: Row, site: Site) -> str:
    """What to type for it."""
    kept = [w for w in words if not w.startswith(("strategy", "launcher"))]
    micro = [] if any(w.startswith("train.micro_batch=") for w in words) else [f"train.micro_batch={row.samples}"]
    if site.hosts == 1:
        where = [f"launcher.ranks={site.ranks}"]
    else:
        where = ["launcher=slurm", f"launcher.nodes={site.hosts}", f"launcher.ranks={site.machine.per_node}"]
    return f"python -m trainkit {shlex.join([*kept, *row.words, *micro, *where])}"
