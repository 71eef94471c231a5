"""What a global batch sends: its gradients once, however many micro-batches it has, where memory allows that."""

from __future__ import annotations

import pytest

from tests.conformance.engines import engine_of, on_world
from tests.conformance.meters import Traffic
from tests.conformance.pool import Pool
from tests.unit.strategy.test_engine import TRAINING, share
from trainkit.protocols import World
from trainkit.strategy._spmd import SpmdEngine


def summed(world: World, name: str) -> tuple[list[int], int]:
    """Bytes that are summed over ranks in global batches of 1, 4 and 2 micro-batches; and bytes of all gradients."""
    engine = engine_of(SpmdEngine, world, name, TRAINING)
    found = []
    for micro_batches in (1, 4, 2):
        with Traffic() as seen, seen.of_horovod():
            engine.forward_backward(share(*[2] * micro_batches), 1.0)
        engine.update(1e-3)
        found.append(seen.summed())
    return found, 4 * engine.size()[0]


@pytest.mark.parametrize("name", ["ddp", "accelerate", "horovod", "zero1", "fsdp", "fsdp-kept"])
def test_gradients_are_summed_once_per_global_batch(name: str, pool: Pool) -> None:
    for (one, four, two), whole in pool.run(2, on_world, name, summed):
        assert one == four == two
        assert one == pytest.approx(whole, rel=0.02)  # fsdp and ZeRO pad what they divide


@pytest.mark.parametrize("name", ["zero2", "zero3"])
def test_and_with_every_micro_batch_where_no_rank_keeps_them_whole(name: str, pool: Pool) -> None:
    for (one, four, two), whole in pool.run(2, on_world, name, summed):
        assert (four, two) == (4 * one, 2 * one)
        assert one == pytest.approx(whole, rel=0.02)


def test_accumulate_sharded_divides_every_micro_batch_and_sums_the_replicas_once(pool: Pool) -> None:
    for (one, four, two), whole in pool.run(4, on_world, "fsdp-replicas", summed):
        over_replicas = whole / 2
        assert one == pytest.approx(whole + over_replicas, rel=0.02)
        assert four == pytest.approx(4 * whole + over_replicas, rel=0.02)
        assert two == pytest.approx(2 * whole + over_replicas, rel=0.02)
