"""What a plan says of memory is what real ranks have."""

from __future__ import annotations

import gc
from typing import Any

import pytest

from recipes.image_classification import ImageClassification
from recipes.llm_pretrain import LlmPretrain
from tests.conformance.engines import on_world
from tests.conformance.meters import Peak, stored
from tests.conformance.pool import Pool
from tests.conformance.settings import make
from trainkit import main
from trainkit.plan.figures import Figures
from trainkit.protocols import Task, World
from trainkit.settings import Settings
from trainkit.simulation.simulate import share
from trainkit.strategy._deepspeed import ZeroEngine
from trainkit.strategy._norm import local

TEXT = LlmPretrain(
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
TASKS: dict[str, tuple[Task, int]] = {"text": (TEXT, 2), "images": (ImageClassification(width=64, dropout=0.1), 64)}
"""With the samples of a micro-batch. The layers of the second are unequal, and the unit of sharding themselves."""


def settings_of(name: str, readers: int, passes: int, kind: str) -> Settings:
    task, samples = TASKS[kind]
    return make("", name, task=task, global_batch=readers * passes * samples, micro_batch=samples)


def measured(world: World, name: str, passes: int, kind: str) -> tuple[float, float, float, float]:
    """Bytes of parameters, gradients and moments of a real rank in its second step, and the most it has at once."""
    settings = settings_of(name, world.dp_size, passes, kind)
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
    ("name", "ranks", "passes", "kind"),
    [
        ("fsdp", 2, 4, "images"),
        *(
            pytest.param(*cell, "text", marks=pytest.mark.slow)
            for cell in [("fsdp", 2, 4), ("tensor", 2, 4), ("pipeline", 2, 4), ("zero3", 2, 4)]
        ),
        *(
            pytest.param(*cell, marks=(pytest.mark.slow, pytest.mark.drill))
            for cell in [
                *(("fsdp", 2, 1, "text"), ("ddp", 2, 4, "text"), ("mesh-shard-tensor", 4, 4, "text")),
                *(("zero1", 2, 4, "text"), ("zero2", 2, 4, "text"), ("ddp", 2, 4, "images"), ("fsdp", 2, 1, "images")),
            ]
        ),
    ],
)
def test_memory_is_as_planned(name: str, ranks: int, passes: int, kind: str, pool: Pool) -> None:
    settings = settings_of(name, make("", name).strategy.dp_size(ranks), passes, kind)
    load = Figures(settings, ranks).load(TASKS[kind][1], passes)
    found = [max(values) for values in zip(*pool.run(ranks, on_world, name, measured, passes, kind), strict=True)]
    assert load.parameters == pytest.approx(found[0], rel=0.1)
    if "zero" not in name:  # DeepSpeed keeps them in places of its own
        assert load.gradients == pytest.approx(found[1], rel=0.1)
    assert load.moments == pytest.approx(found[2], rel=0.1)
    assert load.peak == pytest.approx(found[3], rel=0.2)
