"""An engine on the ranks of the pool, without a Trainer around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from tests.conformance.cells import STRATEGIES
from tests.unit.strategy.test_engine import TRAINING
from trainkit.protocols import Training, World

E = TypeVar("E")


def on_world(name: str, work: Callable[..., Any], *args: Any) -> Any:
    """On a rank of the pool: what `work(world, name, *args)` returns in the world of the strategy `name`."""
    world = STRATEGIES[name].connect("cpu")
    try:
        return work(world, name, *args)
    finally:
        world.close()


def engine_of(kind: type[E], world: World, name: str, training: Training = TRAINING) -> E:
    """The engine of the strategy `name`, which has to be of `kind`."""
    engine = STRATEGIES[name].build(training, world)
    if not isinstance(engine, kind):
        raise TypeError(engine)
    return engine
