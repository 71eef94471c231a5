"""What a plan says of memory is what real ranks have."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from recipes.llm_pretrain import LlmPretrain
from tests.conformance.engines import on_world
from tests.conformance.meters import Peak, stored
from tests.conformance.pool import Pool
from tests.conformance.settings import make
from trainkit import main
from trainkit.plan.figures import Figures
from trainkit.protocols import World
from trainkit.settings import Settings
from trainkit.simulation.simulate import share
from trainkit.strategy._deepspeed import ZeroEngine
from trainkit.strategy._norm import local

PASSES, SAMPLES = 4, 2
TASK = LlmPretrain(
    size="tiny",
    width=256,
    layers=6,
    heads=4,
    kv_heads=4,
    corpus="kjv",
    vocab=2048,
    seq_len=128,
    heldout=0.1,
    sample_prompt=None,
)


def settings_of(name: str, readers: int, passes: int) -> Settings:
    return make("", name, task=TASK, global_batch=readers * passes * SAMPLES, micro_batch=SAMPLES)


def measured(world: World, name: str, passes: int) -> tuple[float, float, float, float]:
    """Bytes of parameters, gradients and moments of a real rank in its second step, and the most it has at once."""
    settings = settings_of(name, world.dp_size, passes)
    engine: Any = settings.strategy.build(main.training(settings), world)
    batches = share(settings, world.size)
    for _ in range(2):  # in the first the moments come into being
        engine.forward_backward(batches, 1.0)
        engine.update(0.0)
    gc.collect()
    zero = isinstance(engine, ZeroEngine)
    weights = [local(p.detach()) for p in engine.model.parameters()]
    states = engine.optimizer.state.values()
    if zero:
        weights = [*(vars(p).get("ds_tensor", p.detach()) for p in engine.model.parameters())]
        weights += [*engine.partitions.weights]
    moments = [local(t) for state in states for key, t in state.items() if key != "step"]
    held = stored(weights) + stored(moments)
    with Peak() as peak:
        engine.forward_backward(batches, 1.0)
        gradients = stored([local(p.grad) for p in engine.model.parameters() if p.grad is not None])
        engine.update(0.0)
    return stored(weights), gradients, stored(moments), held + peak.bytes


@pytest.mark.parametrize(
    ("name", "ranks", "passes"),
    [
        ("fsdp", 2, 4),
        *(
            pytest.param(*cell, marks=pytest.mark.slow)
            for cell in [
                *(("ddp", 2, 4), ("fsdp", 2, 1), ("tensor", 2, 4), ("pipeline", 2, 4), ("mesh-shard-tensor", 4, 4)),
                *(("zero1", 2, 4), ("zero2", 2, 4), ("zero3", 2, 4)),
            ]
        ),
    ],
)
def test_memory_is_as_planned(name: str, ranks: int, passes: int, pool: Pool) -> None:
    settings = settings_of(name, make("", name).strategy.dp_size(ranks), passes)
    load = Figures(settings, ranks).load(SAMPLES, passes)
    found = [max(values) for values in zip(*pool.run(ranks, on_world, name, measured, passes), strict=True)]
    assert load.parameters == pytest.approx(found[0], rel=0.1)
    if "zero" not in name:  # DeepSpeed keeps them in places of its own
        assert load.gradients == pytest.approx(found[1], rel=0.1)
    assert load.moments == pytest.approx(found[2], rel=0.1)
    assert load.peak == pytest.approx(found[3], rel=0.2)
