"""What a rank holds of a model that is divided, and that a save needs no second copy of it."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.conformance.decoder import DecoderTask
from tests.conformance.engines import engine_of, on_world
from tests.conformance.meters import Peak, stored
from tests.conformance.pool import Pool
from tests.unit.strategy.test_engine import TRAINING, share
from trainkit.checkpoint.store import CheckpointStore
from trainkit.protocols import World
from trainkit.strategy._deepspeed import ZeroEngine
from trainkit.strategy._mesh_engine import MeshEngine
from trainkit.strategy._norm import local
from trainkit.strategy._spmd import SpmdEngine

MIB = 1 << 20
SMALL = replace(TRAINING, task=DecoderTask(width=64, layers=4))  # 800 KB
DEEP = replace(TRAINING, task=DecoderTask(width=32, layers=48))  # 2.4 MB, in tensors of 16 KB at most
LARGE = replace(TRAINING, task=DecoderTask(width=512, layers=4))  # 48 MiB, and twice as much of moments

# ------------------------------------------------------------------------------------------------ parts


def parts(world: World, name: str) -> tuple[int, int, int, int]:
    """Bytes of weights, gradients and moments on this rank, and of the whole model's weights."""
    engine = engine_of(MeshEngine, world, name, SMALL)
    engine.state_dict()
    engine.forward_backward(share(4), 1.0)
    weights = [local(p.detach()) for p in engine.model.parameters()]
    gradients = [local(p.grad) for p in engine.model.parameters() if p.grad is not None]
    moments = [local(t) for s in engine.optimizer.state.values() for key, t in s.items() if key != "step"]
    return stored(weights), stored(gradients), stored(moments), 4 * engine.size()[0]


@pytest.mark.parametrize(
    ("name", "ranks", "divided"),
    [("fsdp", 2, 2), ("fsdp", 4, 4), ("fsdp-kept", 2, 2), ("fsdp-replicas", 4, 2), ("mesh-replicas-shard", 4, 2)],
)
def test_every_rank_holds_its_part(name: str, ranks: int, divided: int, pool: Pool) -> None:
    for weights, gradients, moments, whole in pool.run(ranks, on_world, name, parts):
        assert weights == pytest.approx(whole / divided, rel=0.05)
        assert gradients == pytest.approx(whole / divided, rel=0.05)
        assert moments == pytest.approx(2 * whole / divided, rel=0.05)


def zero_parts(world: World, name: str) -> tuple[int, int, int, int, int]:
    """Bytes of what the model computes with, of the fp32 weights that are stepped, of their gradients and moments; and
    of the whole model's weights."""
    engine = engine_of(ZeroEngine, world, name, DEEP if name == "zero2" else SMALL)
    engine.state_dict()
    engine.forward_backward(share(4), 1.0)
    zero = engine.partitions.zero
    of_rank = [p.ds_tensor if name == "zero3" else p.detach() for p in engine.model.parameters()]
    gradients = [t for tensors in zero.averaged_gradients.values() for t in tensors]
    moments = [t for w in engine.partitions.weights for k, t in engine.optimizer.state[w].items() if k != "step"]
    held = stored(of_rank), stored(engine.partitions.weights), stored(gradients), stored(moments)
    return *held, 4 * engine.size()[0]


@pytest.mark.parametrize("name", ["zero1", "zero2", "zero3"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_every_rank_holds_what_zero_divides(name: str, ranks: int, pool: Pool) -> None:
    """Stage 1 divides the moments, stage 2 the gradients, too (but for the tensor in which it cuts), and stage 3 also
    what the model computes with."""
    for model, weights, gradients, moments, whole in pool.run(ranks, on_world, name, zero_parts):
        assert model == pytest.approx(whole / ranks if name == "zero3" else whole, rel=0.05)
        assert weights == pytest.approx(whole / ranks, rel=0.05)
        assert moments == pytest.approx(2 * whole / ranks, rel=0.05)
        if name != "zero1":
            assert gradients == pytest.approx(whole / ranks, rel=0.05)


# ------------------------------------------------------------------------------------------------ saving


def saving(world: World, name: str, folder: str) -> tuple[float, float]:
    """MiB that a save needs over what the rank holds, and MiB of its largest tensor."""
    engine = engine_of(SpmdEngine, world, name, LARGE)
    state = engine.state_dict()
    store = CheckpointStore(Path(folder), world, 1, {}, print)
    store.save(1, {"imports": torch.zeros(1)}, {})
    gc.collect()
    with Peak() as needed:
        store.save(2, state, {})
    largest = max(p.numel() for p in DecoderTask(width=512, layers=1).build_model().parameters())
    return needed.bytes / MIB, 4 * largest / MIB


@pytest.mark.parametrize(
    "name", ["fsdp", "zero1", *(pytest.param(name, marks=pytest.mark.slow) for name in ("pipeline", "zero3-kept"))]
)
def test_a_save_needs_a_tensor_more_and_not_another_shard(name: str, pool: Pool, tmp_path: Path) -> None:
    """A part of a larger piece of memory, as under ZeRO, is copied to be written: one after another."""
    for needed, largest in pool.run(2, on_world, name, saving, str(tmp_path)):
        assert needed < largest + 1
