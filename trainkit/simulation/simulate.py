"""The function that this package is for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from trainkit.data.plan import split
from trainkit.errors import ConfigError, Problem
from trainkit.main import training
from trainkit.protocols import Batch, Cluster
from trainkit.settings import Settings
from trainkit.simulation.values import Simulation

if TYPE_CHECKING:
    from trainkit.simulation.whole import Evaluate


def simulate(settings: Settings, ranks: int, evaluate: Evaluate | None = None) -> Simulation:
    """One optimizer step of `settings` on `ranks` ranks, none of which is there. `rank(number)` of what is returned has
    the shapes of that rank's parts of the parameters, its memory by kind in bytes, and the collectives that it starts
    per step, with bytes. Tensors have no values, and nothing is sent; torch's random state is not kept.

    A rank's step is made when the rank is asked for, once for all ranks that differ along the data axes only. Where the
    recipe has no `example` of its own, its data has to be prepared. `evaluate` in place of whole.alone may remember.

    Raises ConfigError where the ranks do not fit, the model does not divide, or the strategy cannot be simulated, and
    RuntimeError in a process that is a rank of a real run.
    """
    return _by_strategy(settings, ranks, share(settings, ranks), evaluate)


def share(settings: Settings, ranks: int) -> list[Batch]:
    """The micro-batches of the rank with the most samples, by their shapes."""
    train, readers = settings.train, settings.strategy.dp_size(ranks)
    ids, _ = split(range(train.global_batch), readers - 1, readers, train.micro_batch)
    return [settings.recipe.example(len(some)) for some in ids]


def _by_strategy(settings: Settings, ranks: int, batches: Sequence[Batch], evaluate: Evaluate | None) -> Simulation:
    from trainkit.simulation import mesh, whole, zero
    from trainkit.strategy._meshed import Meshed
    from trainkit.strategy._zero import Zero
    from trainkit.strategy.ddp import Ddp
    from trainkit.strategy.local import Local

    strategy = settings.strategy
    evaluate = evaluate or whole.alone
    if isinstance(strategy, Zero):  # DeepSpeed need not be here, as its problems() would say
        return zero.simulate(training(settings), strategy, ranks, batches, evaluate)
    if problems := strategy.problems(Cluster(hosts=1, ranks=ranks, gpus=0, cores=1)):
        raise ConfigError(problems)
    if isinstance(strategy, Meshed):
        return mesh.simulate(training(settings), strategy, ranks, batches)
    if isinstance(strategy, (Ddp, Local)):
        cap = strategy.bucket_cap_mb if isinstance(strategy, Ddp) else None
        return whole.simulate(training(settings), ranks, batches, cap, evaluate)
    name = type(strategy).__name__.lower()
    hint = "choose ddp, fsdp, tensor, pipeline, mesh, zero1, zero2 or zero3"
    raise ConfigError([Problem("strategy", name, "what it does is up to its framework, and is not simulated", hint)])
