"""What only shows where a model is divided: places in the mesh, norms over parts, what the switches divide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.conformance import engines
from tests.conformance.decoder import DecoderTask
from tests.conformance.engines import on_world
from tests.conformance.pool import Pool
from tests.unit.strategy.test_engine import TRAINING, share
from trainkit.errors import ConfigError, TrainkitError
from trainkit.protocols import Task, World
from trainkit.strategy._mesh_engine import MeshEngine
from trainkit.strategy._norm import local

engine_of = partial(engines.engine_of, MeshEngine)


# ------------------------------------------------------------------------------------------------ world


def sums(world: World, name: str) -> tuple[int, int, list[float], float, list[int]]:
    stop = world.rank == world.size - 1
    reduced = world.reduce(torch.tensor(float(world.dp_rank + 1))).item()
    return world.dp_rank, world.dp_size, world.total([world.dp_rank + 1, stop]), reduced, world.gather(world.rank)


@pytest.mark.parametrize(
    ("name", "dp_ranks"),
    [
        ("fsdp", [0, 1, 2, 3]),
        ("tensor", [0, 0, 0, 0]),
        ("mesh-shard-tensor", [0, 0, 1, 1]),
        ("mesh-replicas-tensor", [0, 0, 1, 1]),
        ("mesh-replicas-shard", [0, 1, 2, 3]),
    ],
)
def test_ranks_that_read_the_same_samples_count_once(name: str, dp_ranks: list[int], pool: Pool) -> None:
    found = pool.run(4, on_world, name, sums)
    size = len(set(dp_ranks))
    once = sum(range(1, size + 1))
    assert [dp_rank for dp_rank, *_ in found] == dp_ranks
    for _, dp_size, (total, stop), reduced, ranks in found:
        assert (dp_size, total, reduced, ranks) == (size, once, once, [0, 1, 2, 3])
        assert stop  # asked of one rank, which may be any


# ------------------------------------------------------------------------------------------------- norm


def norms(world: World, name: str) -> tuple[float, float, list[str]]:
    """The engine's norm; and that of all gradients made whole by torch."""
    engine = engine_of(world, name, replace(TRAINING, clip_norm=1e-3))
    batches = share(8)
    engine.forward_backward(batches, batches[0].weight)
    whole = [whole_of(p.grad).clone() for p in engine.parameters if p.grad is not None]
    expected = torch.cat([g.flatten() for g in whole]).norm().item()
    found = engine._clip().item()
    clipped = torch.cat([whole_of(p.grad).flatten() for p in engine.parameters if p.grad is not None]).norm().item()
    assert clipped == pytest.approx(1e-3, rel=1e-3)
    return expected, found, sorted({type(p).__name__ + str(_mesh(p)) for p in engine.parameters})


def whole_of(tensor: Any) -> Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor  # type: ignore[no-any-return]


def _mesh(p: Any) -> Any:
    return p.device_mesh.mesh_dim_names if hasattr(p, "device_mesh") else ""


@pytest.mark.parametrize(
    ("name", "kinds"), [("fsdp", 1), ("tensor", 2), ("tensor-sequence", 2), ("mesh-shard-tensor", 2)]
)
def test_the_norm_is_that_of_the_whole_gradient(name: str, kinds: int, pool: Pool) -> None:
    for expected, found, layouts in pool.run(4, on_world, name, norms):
        assert found == pytest.approx(expected, rel=1e-5)
        assert len(layouts) == kinds  # plain tensors and DTensors, or DTensors of two meshes, are in play


# -------------------------------------------------------------------------------------------- switches


def shapes(world: World, name: str) -> tuple[list[int], list[int]]:
    """The local shapes of what goes from the first block to the second, and of the logits that the loss sees."""
    engine = engine_of(world, name)
    seen: list[list[int]] = []
    model: Any = engine.model
    model.layers[1].register_forward_pre_hook(lambda _, args: seen.append(list(args[0].shape)))
    model.register_forward_hook(lambda _, args, output: seen.append(list(local(output.detach()).shape)))
    engine.forward_backward(share(2), 1.0)
    return seen[0], seen[1]


@pytest.mark.parametrize(
    ("name", "between", "logits"),
    [("tensor", 12, 61), ("tensor-sequence", 6, 61), ("tensor-loss", 12, 31)],
)
def test_the_switches_divide_what_they_say(name: str, between: int, logits: int, pool: Pool) -> None:
    found, output = pool.run(2, on_world, name, shapes)[0]
    assert (found, output) == ([2, between, 32], [2, 12, logits])


# -------------------------------------------------------------------------------------------- refusals


class NoPlan(DecoderTask):
    def tensor_plan(self, model: nn.Module) -> Mapping[str, Any] | None:  # type: ignore[override]
        return None


class OddWidth(DecoderTask):
    """Its heads are not known before it is built."""

    def model_shape(self) -> Any:
        return None

    def build_model(self) -> nn.Module:
        model: Any = super().build_model()
        model.layers[1].up, model.layers[1].down = nn.Linear(32, 7), nn.Linear(7, 32)
        return model  # type: ignore[no-any-return]


class Misnamed(DecoderTask):
    def tensor_plan(self, model: nn.Module) -> Mapping[str, Any]:
        return {"layers.*.qkv": "colwize"}


class NoSequence(DecoderTask):
    def tensor_plan(self, model: nn.Module) -> Mapping[str, Any]:
        return {name: style for name, style in super().tensor_plan(model).items() if "sequence" not in style}


def refusal(world: World, name: str, task: Task) -> str:
    with pytest.raises(TrainkitError) as raised:
        engine_of(world, name, replace(TRAINING, task=task))
    assert isinstance(raised.value, ConfigError) or not isinstance(task, NoPlan)
    return str(raised.value)


@pytest.mark.parametrize(
    ("name", "task", "told"),
    [
        ("tensor", NoPlan(), "the model Decoder has no plan for a tensor axis"),
        ("tensor", OddWidth(), "Decoder: layers.1.up (7 channels) does not divide by 2 ranks"),
        ("tensor", OddWidth(), "Decoder: layers.1.down (7 channels) does not divide by 2 ranks"),
        ("tensor", Misnamed(), "Decoder: layers.0.qkv has the unknown style colwize"),
        ("tensor-sequence", NoSequence(), "says nothing about the sequence"),
    ],
)
def test_a_model_that_does_not_divide_is_refused_on_every_rank(name: str, task: Task, told: str, pool: Pool) -> None:
    assert all(told in message for message in pool.run(2, on_world, name, refusal, task))


def test_heads_that_a_tensor_axis_does_not_divide_are_refused(pool: Pool) -> None:
    for message in pool.run(3, on_world, "tensor", refusal, DecoderTask(width=36)):
        assert "a tensor axis of 3 does not divide the model's 4 attention heads" in message
