"""What only shows in a pipeline: schedules, micro-batches of different shapes, weights that two stages have, memory."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests.conformance import engines
from tests.conformance.cells import STRATEGIES
from tests.conformance.decoder import LENGTH, Copies, Decoder, DecoderTask
from tests.conformance.engines import on_world
from tests.conformance.llama import LlamaTask
from tests.conformance.pool import Pool
from tests.conformance.test_mesh import whole_of
from tests.conformance.test_same_run import same_run
from tests.conformance.training import train
from tests.unit.strategy.test_engine import TRAINING, share
from trainkit.errors import ConfigError
from trainkit.protocols import Batch, Data, Training, World
from trainkit.strategy._pipeline import PipelineEngine

SCHEDULES = [("pipeline-gpipe", 4), ("pipeline", 4), ("pipeline-interleaved", 2), ("pipeline-zero", 2)]


engine_of = partial(engines.engine_of, PipelineEngine)


# --------------------------------------------------------------------------------------- micro-batches


class Ragged(Copies):
    """Sample i has 4 to LENGTH tokens; a micro-batch is as long as its longest sample."""

    def fetch(self, ids: Sequence[int]) -> Batch:
        batch = super().fetch(ids)
        lengths = torch.tensor([4 + i % (LENGTH - 3) for i in ids])
        longest = int(lengths.max())
        rows = batch.targets["labels"][:, :longest]
        labels = torch.where(torch.arange(longest)[None] < lengths[:, None], rows, -100)
        counted = int((labels != -100).sum())
        return Batch({"ids": batch.inputs["ids"][:, :longest]}, {"labels": labels}, counted, int(lengths.sum()))


@dataclass(frozen=True, kw_only=True)
class RaggedTask(DecoderTask):
    def build_data(self) -> Data:
        return Data(Ragged(self.samples, 1), Ragged(self.heldout, 2))


@pytest.fixture(scope="module")
def ragged(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ragged")
    pool.run(1, train, str(folder), 1, None, {"strategy": "local", "task": RaggedTask()})
    return folder


@pytest.mark.parametrize("micro_batch", [1, 2, 5, None])
@pytest.mark.parametrize(("strategy", "ranks"), SCHEDULES)
def test_any_number_of_micro_batches_of_any_shapes(
    strategy: str, ranks: int, micro_batch: int | None, pool: Pool, ragged: Path, tmp_path: Path
) -> None:
    """Twelve, six, three or one, and fewer at the end of an epoch; no schedule but gpipe takes all of these."""
    options = {"strategy": strategy, "task": RaggedTask(), "micro_batch": micro_batch}
    pool.run(ranks, train, str(tmp_path), 1, None, options)
    same_run(tmp_path, ragged, 1e-5, 1e-4)


# -------------------------------------------------------------------------------- weights in two stages


def copies(world: World, name: str) -> list[Any]:
    """What this rank holds of the tied weights after some steps."""
    engine = engine_of(world, name, replace(TRAINING, task=LlamaTask(), clip_norm=0.1, ema=0.9))
    for first in range(5):
        batches = [LlamaTask().build_data().train.fetch([first, first + 1])]
        engine.forward_backward(batches, batches[0].weight)
        engine.update(1e-2)
    tied = "model.embed_tokens.weight"
    state = engine.state_dict()
    held = [state["model"][tied], state["ema"][tied], *state["optimizer"][tied].values()]
    return [whole_of(tensor).clone().numpy() for tensor in held]


def test_both_copies_of_tied_weights_stay_equal_to_the_bit(pool: Pool) -> None:
    first, last = pool.run(2, on_world, "pipeline", copies)
    assert len(first) == len(last) == 5
    for ours, theirs in zip(first, last, strict=True):
        assert (ours == theirs).all()


# ------------------------------------------------------------------------------------------ evaluation


class Noisy(Decoder):
    """Its own forward, not a module in it, drops values while it is trained."""

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        return super().decode(nn.functional.dropout(x, 0.5, self.training))


class NoisyTask(DecoderTask):
    def build_model(self) -> nn.Module:
        return Noisy(self.width, self.layers, self.dropout)


def evaluated(world: World, name: str) -> list[float]:
    """Sums of the held-out loss, before and after a training pass, on all ranks together."""
    engine = STRATEGIES[name].build(replace(TRAINING, task=NoisyTask()), world)
    data = NoisyTask().build_data().heldout
    found = []
    for _ in range(2):
        sums, weight = engine.evaluate([data.fetch([i]) for i in range(11)] if data else [])
        found += [world.reduce(sums["loss"]).item(), *world.total([weight])]
        engine.forward_backward(share(2, 2), 1.0)
        engine.discard()
    return found


@pytest.mark.parametrize(("name", "ranks"), [("pipeline", 2), ("pipeline-interleaved", 2), ("pipeline-shard", 4)])
def test_evaluation_drops_nothing_and_counts_once(name: str, ranks: int, pool: Pool) -> None:
    (expected,) = pool.run(1, on_world, "local", evaluated)
    copies_read = 2 if name == "pipeline-shard" else 1  # here both data-parallel ranks are given all samples
    for found in pool.run(ranks, on_world, name, evaluated):
        assert found == pytest.approx([copies_read * value for value in expected], rel=1e-6)


# ---------------------------------------------------------------------------------------------- memory


def held(world: World, name: str) -> tuple[int, int, int]:
    """Elements of all parameters in this process, of the engine's, and of the whole model."""
    gc.collect()
    before = {id(p) for p in gc.get_objects() if isinstance(p, nn.Parameter)}
    engine = engine_of(world, name, replace(TRAINING, task=DecoderTask(width=64)))
    batches = share(2, 2)
    engine.forward_backward(batches, sum(b.weight for b in batches))
    gc.collect()
    alive = [p for p in gc.get_objects() if isinstance(p, nn.Parameter) and id(p) not in before]
    return sum(p.numel() for p in alive), sum(p.numel() for p in engine.parameters), engine.size()[0]


@pytest.mark.parametrize(("name", "ranks"), [("pipeline", 4), ("pipeline-interleaved", 2)])
def test_a_rank_keeps_nothing_but_its_stages(name: str, ranks: int, pool: Pool) -> None:
    found = pool.run(ranks, on_world, name, held)
    assert [alive for alive, *_ in found] == [own for _, own, _ in found]
    assert sum(own for _, own, _ in found) == found[0][2]


def masks(world: World, name: str) -> list[float]:
    """What dropout leaves of ones in this rank's first block."""
    engine = engine_of(world, name, replace(TRAINING, task=DecoderTask(dropout=0.5)))
    seen: list[torch.Tensor] = []
    stages = engine._line.stages.values()
    block: Any = next(m for stage in stages for n, m in stage.named_modules() if n.endswith("dropout"))
    block.register_forward_hook(lambda _, args, output: seen.append((output == 0).float().flatten()))
    torch.manual_seed(11)
    engine.forward_backward(share(2), 1.0)
    return seen[0].tolist()


def test_stages_draw_different_random_numbers(pool: Pool) -> None:
    first, last = pool.run(2, on_world, "pipeline", masks)
    assert 0.3 < sum(first) / len(first) < 0.7
    assert first != last


# -------------------------------------------------------------------------------- refusals, frozen parts


class Frozen(DecoderTask):
    """The first half is not trained."""

    def build_model(self) -> nn.Module:
        model: Any = super().build_model()
        for part in (model.tokens, model.places, *model.layers[:2]):
            part.requires_grad_(False)
        return model  # type: ignore[no-any-return]


@pytest.mark.parametrize(("strategy", "ranks"), [("pipeline-interleaved", 2), ("pipeline-zero", 2)])
def test_a_stage_may_be_frozen(strategy: str, ranks: int, pool: Pool, tmp_path: Path) -> None:
    pool.run(1, train, str(tmp_path / "local"), 1, None, {"strategy": "local", "task": Frozen()})
    pool.run(ranks, train, str(tmp_path / "ours"), 1, None, {"strategy": strategy, "task": Frozen()})
    same_run(tmp_path / "ours", tmp_path / "local", 1e-5, 1e-4)


def refusal(world: World, name: str, training: Training) -> str:
    with pytest.raises(ConfigError) as raised:
        engine_of(world, name, training)
    return str(raised.value)


class Whole(DecoderTask):
    def pipeline(self, model: nn.Module) -> None:
        return None


@pytest.mark.parametrize(
    ("name", "training", "told"),
    [
        ("pipeline", replace(TRAINING, task=Whole()), "the model Decoder does not say how it is cut into stages"),
        ("pipeline", replace(TRAINING, task=Frozen()), "rank 0 of the pipeline would train nothing"),
        ("pipeline", replace(TRAINING, task=DecoderTask(layers=1)), "2 stages need as many blocks"),
    ],
)
def test_what_cannot_be_known_before_launch_is_refused_on_every_rank(
    name: str, training: Training, told: str, pool: Pool
) -> None:
    assert all(told in message for message in pool.run(2, on_world, name, refusal, training))
