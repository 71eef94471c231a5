"""A model with running statistics (BatchNorm) is one model on all ranks, under every strategy."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import Any

import pytest
from torch import nn

from tests.conformance.cells import STRATEGIES
from tests.conformance.decoder import LENGTH, DecoderTask
from tests.conformance.engines import on_world
from tests.conformance.pool import Pool
from tests.unit.strategy.test_engine import TRAINING, engine_of, share
from trainkit.protocols import World


@dataclass(frozen=True, kw_only=True)
class Normed(DecoderTask):
    def build_model(self) -> nn.Module:
        model: Any = super().build_model()
        norm = nn.BatchNorm1d(self.width)
        model.head = nn.Sequential(nn.Flatten(0, 1), norm, model.head, nn.Unflatten(0, (-1, LENGTH)))
        return model  # type: ignore[no-any-return]


def statistics(world: World, name: str) -> dict[str, list[float]]:
    """What this rank goes on with after a global batch of which each data-parallel rank has read another number, and
    two more that are dropped."""
    engine = STRATEGIES[name].build(replace(TRAINING, task=Normed()), world)
    engine.forward_backward(share(world.dp_rank + 2, world.dp_rank + 3), 1.0)
    engine.update(1e-3)
    engine.forward_backward(share(4, 4), 1.0)
    engine.discard()
    engine.forward_backward(share(5, 5), float("nan"))  # as a bad gradient on all ranks
    engine.update(1e-3)
    state = engine.state_dict()["model"]
    kept = ("head.1.running_mean", "head.1.running_var", "head.1.num_batches_tracked")
    return {key: state[key].flatten().tolist() for key in kept if key in state}


@pytest.mark.parametrize(
    ("name", "ranks"),
    [
        *(("ddp", 2), ("accelerate", 2), ("horovod", 2), ("fsdp", 2), ("mesh-replicas-shard", 4)),
        *(("pipeline-shard", 4), ("zero2", 2), ("zero3", 2)),
    ],
)
def test_all_ranks_go_on_with_the_running_statistics_of_the_first(name: str, ranks: int, pool: Pool) -> None:
    (expected,) = pool.run(1, on_world, "local", statistics)
    held = [found for found in pool.run(ranks, on_world, name, statistics) if found]
    assert len(held) == (2 if name == "pipeline-shard" else ranks)  # only the last stage has any
    for found in held:
        assert found.keys() == expected.keys()
        for key, values in expected.items():
            assert found[key] == pytest.approx(values, rel=1e-4, abs=1e-6)


def test_who_trains_batch_norm_is_told_that_the_curve_depends_on_how_it_is_computed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "trainkit"):
        engine_of()
        assert not caplog.records
        engine_of(replace(TRAINING, task=Normed()))
    assert "head.1 is a BatchNorm, which normalises by the samples that a rank computes together" in caplog.text
