"""What only shows where sequences are divided: attention over all parts, activations in parts, what is refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from tests.conformance import engines
from tests.conformance.cells import MESH, STRATEGIES
from tests.conformance.decoder import LENGTH, DecoderTask
from tests.conformance.engines import on_world
from tests.conformance.pool import Pool
from tests.unit.strategy.test_engine import TRAINING, share
from trainkit.errors import ConfigError, TrainkitError
from trainkit.protocols import Cluster, Task, World
from trainkit.strategy._context import Attention
from trainkit.strategy._mesh_engine import MeshEngine
from trainkit.strategy.mesh import Mesh

engine_of = partial(engines.engine_of, MeshEngine)


def attended(world: World, name: str, options: dict[str, Any]) -> list[float]:
    """How far output and gradients of a part of the sequence are from those of torch's attention over all of it."""
    mesh, size = init_device_mesh("cpu", (world.size,)), 4 * world.size
    torch.manual_seed(1)
    query, key, value = (torch.randn(2, heads, size, 8, dtype=torch.float64) for heads in (4, 2, 2))
    wanted = torch.randn_like(query)
    whole = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
    expected = F.scaled_dot_product_attention(*whole, enable_gqa=True, **options)
    (expected * wanted).sum().backward()
    here = slice(4 * world.rank, 4 * world.rank + 4)
    parts = [tensor[:, :, here].clone().requires_grad_() for tensor in (query, key, value)]
    with Attention(mesh):
        found = F.scaled_dot_product_attention(*parts, enable_gqa=True, **options)
    (found * wanted[:, :, here]).sum().backward()
    pairs = [(found, expected), *zip([p.grad for p in parts], [w.grad for w in whole], strict=True)]
    return [(ours - theirs[:, :, here]).abs().max().item() for ours, theirs in pairs if ours is not None]


@pytest.mark.parametrize("options", [{"is_causal": True}, {"is_causal": True, "scale": 0.3}, {}])
@pytest.mark.parametrize("ranks", [2, 3])
def test_attention_of_a_part_is_that_over_the_whole_sequence(ranks: int, options: dict[str, Any], pool: Pool) -> None:
    for differences in pool.run(ranks, on_world, "ddp", attended, options):
        assert len(differences) == 4
        assert max(differences) < 1e-12


def shapes(world: World, name: str) -> list[list[int]]:
    """Of what each block is given, in training, in evaluation and while a sample is drawn."""
    engine = engine_of(world, name, replace(TRAINING, task=Samples()))
    seen: list[list[int]] = []
    model: Any = engine.model
    model.layers[1].register_forward_pre_hook(lambda _, args: seen.append(list(args[0].shape)))
    engine.forward_backward(share(2), 1.0)
    engine.evaluate(share(3))
    engine.sample()
    return seen


class Samples(DecoderTask):
    def sample(self, model: nn.Module) -> str:
        return str(model(torch.arange(5)[None]).shape)


def test_blocks_are_given_a_part_of_the_sequence_and_a_sample_is_drawn_of_the_whole(pool: Pool) -> None:
    for seen in pool.run(2, on_world, "mesh-context", shapes):
        assert seen == [[2, LENGTH // 2, 32], [3, LENGTH // 2, 32], [1, 5, 32]]


def places(world: World, name: str) -> tuple[int, int, int]:
    found: Any = world
    return found.coordinate("shard"), found.coordinate("context"), world.dp_rank


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mesh-context", [(0, 0, 0), (1, 1, 0), (2, 0, 1), (3, 1, 1)]),
        ("mesh-context-tensor", [(0, 0, 0), (0, 0, 0), (1, 1, 0), (1, 1, 0)]),
    ],
)
def test_parts_of_a_sequence_are_at_neighbours(name: str, expected: list[tuple[int, ...]], pool: Pool) -> None:
    assert pool.run(4, on_world, name, places) == expected


# -------------------------------------------------------------------------------------------- refusals


class Shapeless(DecoderTask):
    def model_shape(self) -> Any:
        return None


class Masked(nn.Module):
    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        heads = x[:, None]
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool)
        return F.scaled_dot_product_attention(heads, heads, heads, mask)[:, 0] + self.block(x)  # type: ignore[no-any-return]


@dataclass(frozen=True, kw_only=True)
class Other(DecoderTask):
    """Its second block attends through a mask, or not at all."""

    masked: bool

    def build_model(self) -> nn.Module:
        model: Any = super().build_model()
        model.layers[1] = Masked(model.layers[1]) if self.masked else nn.LayerNorm(self.width)
        return model  # type: ignore[no-any-return]


def refusal(world: World, name: str, task: Task) -> str:
    with pytest.raises(TrainkitError) as raised:
        engine_of(world, name, replace(TRAINING, task=task)).forward_backward(share(2), 1.0)
    assert isinstance(raised.value, ConfigError) == isinstance(task, Shapeless)
    return str(raised.value)


@pytest.mark.parametrize(
    ("task", "told"),
    [
        (Shapeless(), "the recipe does not say how its sequences are divided"),
        (Other(masked=True), "and not one with a mask"),
        (Other(masked=False), "layers.1 calls no scaled_dot_product_attention of torch"),
    ],
)
def test_what_would_not_see_the_whole_sequence_is_refused_on_every_rank(task: Task, told: str, pool: Pool) -> None:
    assert all(told in message for message in pool.run(2, on_world, "mesh-context", refusal, task))


def test_sequences_that_do_not_divide_and_a_pipeline_are_refused_before_launch() -> None:
    shape = DecoderTask().model_shape()
    for size, fits in ((2, True), (4, True), (5, False), (LENGTH, False)):
        found = Mesh(**MESH | {"context": size}).model_problems(shape, size)
        assert bool(found) != fits
        assert all((p.key, p.hint) == ("strategy.context", "sizes that fit: 1, 2, 3, 4, 6") for p in found)
    (problem,) = Mesh(**MESH | {"context": 2}).model_problems(replace(shape, sequence_length=None), 2)
    assert "does not say how its sequences are divided" in problem.message
    cluster = Cluster(hosts=1, ranks=4, gpus=0, cores=8)
    assert [p.key for p in Mesh(**MESH | {"context": 2, "pipeline": 2}).problems(cluster)] == ["strategy.context"]
    assert {claim.key for claim in STRATEGIES["mesh-context"].claims(cluster)} == {"integrity.every", "train.compile"}  # type: ignore[attr-defined]
