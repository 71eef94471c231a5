"""A rank that is slow is named, though all ranks take as long as it does."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor, nn

from tests.conformance.decoder import DecoderTask
from tests.conformance.pool import Pool
from tests.conformance.training import train
from trainkit.protocols import Batch, Data
from trainkit.runfolder import read_lines

SLOW = "1"


class Throttled(nn.Module):
    """Computes slowly on one rank, while the loss of every rank is what it was."""

    def forward(self, x: Tensor) -> Tensor:
        if os.environ["RANK"] == SLOW:
            time.sleep(0.02)
        return x


class Late:
    """Samples that are long in coming on one rank."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    def fetch(self, ids: Sequence[int]) -> Batch:
        if os.environ["RANK"] == SLOW:
            time.sleep(0.05)
        batch: Batch = self.source.fetch(ids)
        return batch


@dataclass(frozen=True, kw_only=True)
class ThrottledTask(DecoderTask):
    def build_model(self) -> nn.Module:
        model = super().build_model()
        for layer in model.layers:  # type: ignore[union-attr]
            layer.dropout = Throttled()  # type: ignore[union-attr]
        return model


@dataclass(frozen=True, kw_only=True)
class LateTask(DecoderTask):
    def build_data(self) -> Data:
        data = super().build_data()
        return replace(data, train=Late(data.train))


def told(pool: Pool, folder: Path, strategy: str, ranks: int, **options: Any) -> list[dict[str, Any]]:
    options |= {"strategy": strategy, "ranks": ranks, "look_every": 2, "steps": 12}
    assert pool.run(ranks, train, str(folder), 1, None, options) == ["done"] * ranks
    return [event for event in read_lines(folder / "events.jsonl") if event["event"] == "straggler"]


CELLS = [
    ("ddp", 3),
    pytest.param("fsdp", 2, marks=pytest.mark.slow),
    *(pytest.param(name, 2, marks=(pytest.mark.slow, pytest.mark.drill)) for name in ("tensor", "zero2")),
]


@pytest.mark.parametrize(("strategy", "ranks"), CELLS)
def test_the_rank_that_computes_slowly_is_named_once(pool: Pool, tmp_path: Path, strategy: str, ranks: int) -> None:
    (event,) = told(pool, tmp_path, strategy, ranks, task=ThrottledTask())
    assert (event["rank"], event["what"], event["step"]) == (1, "compute", 6)
    assert event["seconds"] > 2 * event["usual"]


def test_the_rank_that_waits_for_its_data_is_named(pool: Pool, tmp_path: Path) -> None:
    (event,) = told(pool, tmp_path, "ddp", 2, task=LateTask())
    assert (event["rank"], event["what"]) == (1, "data")
    assert event["seconds"] > 0.05  # per step, in which it fetches at least one micro-batch


@pytest.mark.slow
def test_stages_of_a_pipeline_are_not_compared(pool: Pool, tmp_path: Path) -> None:
    """Rank 1 also has the head, and sleeps: it does other work."""
    assert told(pool, tmp_path, "pipeline", 2, task=ThrottledTask()) == []
