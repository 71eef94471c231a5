"""What a row of metrics.jsonl says, and that it is on the disk when its step is over."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path

import pytest
import torch

from tests.conformance.pool import Pool
from trainkit.metrics import Meter, MetricLog, over_all_ranks
from trainkit.runfolder import read_lines
from trainkit.strategy._world import Solo, connect

CPU = torch.device("cpu")


def test_a_row_is_there_before_the_next_step_begins(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricLog(path, Solo(device=CPU))
    log.train_row({"step": 1}, 4.0, torch.tensor(6.0), torch.tensor(0.5))
    assert list(read_lines(path)) == [{"step": 1, "loss": 1.5, "grad_norm": 0.5}]
    log.row({"step": 1, "eval_loss": 2.0})
    assert list(read_lines(path))[1:] == [{"step": 1, "eval_loss": 2.0}]
    log.close()
    again = MetricLog(path, Solo(device=CPU))  # the next attempt goes on in the same file
    again.train_row({"step": 2}, 4.0, torch.tensor(math.nan), torch.tensor(math.inf))
    again.close()
    *before, last = read_lines(path)
    assert len(before) == 2
    assert math.isnan(last["loss"])
    assert last["grad_norm"] == math.inf


def test_a_batch_that_counts_nothing_has_loss_zero(tmp_path: Path) -> None:
    log = MetricLog(tmp_path / "m.jsonl", Solo(device=CPU))
    log.train_row({"step": 1}, 0.0, torch.tensor(0.0), torch.tensor(0.0))
    assert [row["loss"] for row in read_lines(tmp_path / "m.jsonl")] == [0.0]


def log_together(path: str, dtype: torch.dtype, losses: tuple[float, float]) -> None:
    world = connect("cpu", 60)
    log = MetricLog(Path(path), world)
    loss = over_all_ranks(torch.tensor(losses[world.rank], dtype=dtype), world)
    log.train_row({"step": 1}, 6.0, loss, torch.tensor(0.5))
    log.row({"step": 2})
    log.close()
    world.close()


def test_rank_0_alone_writes_the_loss_of_all(pool: Pool, tmp_path: Path) -> None:
    pool.run(2, log_together, str(tmp_path / "m.jsonl"), torch.float32, (1.0, 2.0))
    assert list(read_lines(tmp_path / "m.jsonl")) == [{"step": 1, "loss": 0.5, "grad_norm": 0.5}, {"step": 2}]


def test_losses_in_bf16_are_summed_over_the_ranks_in_fp32(pool: Pool, tmp_path: Path) -> None:
    """In bf16 256 + 1 is 256."""
    pool.run(2, log_together, str(tmp_path / "m.jsonl"), torch.bfloat16, (256.0, 1.0))
    assert next(read_lines(tmp_path / "m.jsonl"))["loss"] == pytest.approx(257 / 6, rel=1e-6)


def test_speed_counts_neither_what_came_before_a_restart_nor_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    meter = Meter(CPU)
    meter.add(1e6)
    now[0] += 50  # an evaluation
    meter.restart()
    meter.add(30)
    meter.add(30)
    now[0] += 2
    assert meter.read()["tokens_per_second"] == 30.0
    meter.add(5)
    now[0] += 1
    assert meter.read()["tokens_per_second"] == 5.0


def test_memory_is_that_of_this_process_in_mib() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    now = pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    assert now * 0.5 < Meter(CPU).read()["memory_mb"] < 64 * now
