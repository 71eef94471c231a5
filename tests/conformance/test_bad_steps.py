"""What is bad is bad on every rank and under every strategy, and leaves the same run behind."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.conformance.cells import DIVIDED, EACH, STRATEGIES, WHOLE
from tests.conformance.decoder import DecoderTask
from tests.conformance.engines import on_world
from tests.conformance.pool import Pool
from tests.conformance.test_same_run import same_averages
from tests.conformance.training import curve, tensors, train
from tests.unit.strategy.test_engine import TRAINING, share
from trainkit.protocols import Batch, Data, World
from trainkit.runfolder import read_lines


class Spoilt:
    """Samples of which some count as often as `factors` says."""

    def __init__(self, source: Any, factors: Mapping[int, float]) -> None:
        self.source, self.factors = source, factors

    def __len__(self) -> int:
        return len(self.source)

    def fetch(self, ids: Sequence[int]) -> Batch:
        batch = self.source.fetch(ids)
        factor = torch.tensor([self.factors.get(i, 1.0) for i in ids])
        return replace(batch, targets={**batch.targets, "factor": factor})


@dataclass(frozen=True, kw_only=True)
class SpoiltTask(DecoderTask):
    """One sample in 53 has a loss that is not a number, another one 40 times its loss."""

    def build_data(self) -> Data:
        data = super().build_data()
        return replace(data, train=Spoilt(data.train, {11: math.nan, 29: 40.0}))

    def loss(self, output: Any, targets: Mapping[str, Tensor]) -> Tensor:
        whole = super().loss(output, targets)
        return whole * targets["factor"].max() if "factor" in targets else whole

    def sequence_part(self, batch: Batch, part: int, parts: int) -> Batch:
        here = super().sequence_part(batch, part, parts)
        return replace(here, targets={**here.targets, **{k: v for k, v in batch.targets.items() if k == "factor"}})


OPTIONS: dict[str, Any] = {"task": SpoiltTask(), "ema": 0.9, "anomaly": {"spike": 6.0}, "steps": 30, "micro_batch": 1}


@pytest.fixture(scope="module")
def alone(pool: Pool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    assert pool.run(1, train, str(folder), 1, None, OPTIONS) == ["done"]
    return folder


def bad_steps(folder: Path) -> list[int]:
    return [event["step"] for event in read_lines(folder / "events.jsonl") if event["event"] == "bad_step"]


def test_both_kinds_are_met(alone: Path) -> None:
    told = [event["why"] for event in read_lines(alone / "events.jsonl") if event["event"] == "bad_step"]
    assert any("nan" in why for why in told)
    assert any("deviations" in why for why in told)


LATER = [("zero3", 2), ("tensor", 2), *(cell for cell in WHOLE + DIVIDED if cell not in EACH)]
CELLS = [
    *(cell for cell in EACH if cell not in LATER),
    *(pytest.param(*cell, marks=(pytest.mark.slow, pytest.mark.drill)) for cell in LATER),
]


@pytest.mark.parametrize(("strategy", "ranks"), CELLS)
def test_bad_steps_leave_the_same_run_under_every_strategy(
    strategy: str, ranks: int, pool: Pool, alone: Path, tmp_path: Path
) -> None:
    pool.run(ranks, train, str(tmp_path), 1, None, OPTIONS | {"strategy": strategy})
    assert bad_steps(tmp_path) == bad_steps(alone)
    ours, theirs = curve(tmp_path), curve(alone)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs]
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in theirs], rel=1e-5)
    same_averages(tmp_path, alone, 1e-4, step=30)
    assert all(torch.isfinite(tensor).all() for tensor in tensors(tmp_path, 30).values())


def test_zero3_goes_on_after_a_step_that_deepspeed_left_out(pool: Pool, tmp_path: Path) -> None:
    """With one forward pass per step, and what is small kept whole, it expects to find that gathered."""
    changed = {"strategy": "zero3-kept", "micro_batch": None, "steps": 8}
    assert pool.run(2, train, str(tmp_path), 1, None, OPTIONS | changed) == ["done"] * 2
    assert any(step < 8 for step in bad_steps(tmp_path))


def judged_by(world: World, name: str) -> tuple[float, float]:
    """Loss and norm of a step, as this rank sees them."""
    engine: Any = STRATEGIES[name].build(TRAINING, world)
    loss = world.reduce(engine.forward_backward(share(2), 3.0).float().clone())
    return loss.item(), engine.update(1e-3).item()


@pytest.mark.parametrize(("strategy", "ranks"), CELLS)
def test_every_rank_sees_the_same_numbers_to_the_bit(strategy: str, ranks: int, pool: Pool) -> None:
    """So that none has to ask the others whether a step is bad."""
    assert len(set(pool.run(ranks, on_world, strategy, judged_by))) == 1
