"""Rows of metrics.jsonl, written by rank 0 without making the training loop wait for a GPU."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainkit.protocols import World
from trainkit.runfolder import append, guard, guarded

_encode = json.JSONEncoder(separators=(",", ":")).encode


def over_all_ranks(loss_sum: Tensor, world: World) -> Tensor:
    """The loss sum of the whole global batch, from that of each rank: in fp32, because a recipe may sum in bf16.
    Collective."""
    return world.reduce(loss_sum.float())


class MetricLog:
    """Appends rows, each in one write call. The loss and the gradient norm are device tensors: on a GPU they are
    copied to page-locked memory and read when the next row comes, by which time they have arrived."""

    def __init__(self, path: Path, world: World) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) if world.rank == 0 else None
        self._guarded = guarded()
        self._held: tuple[dict[str, Any], Tensor, torch.cuda.Event] | None = None
        self._newest: tuple[dict[str, Any], Tensor | None, Tensor | None] | None = None

    def train_row(self, row: dict[str, Any], weight: float, loss_sum: Tensor, norm: Tensor) -> None:
        """Log `row` with the loss and gradient norm of the whole global batch."""
        row["loss"] = 1.0 / weight if weight else 0.0  # times the sum, which may still be on its way
        self._newest = (row, loss_sum, norm)
        if self._fd is None:
            return
        if loss_sum.device.type == "cpu":
            self._complete(row, loss_sum.item(), norm.item())
            return
        self.flush()
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        held = torch.empty(2, pin_memory=True)
        held.copy_(torch.stack([loss_sum, norm.float()]), non_blocking=True)
        arrived.record()
        self._held = (row, held, arrived)

    def _complete(self, row: dict[str, Any], loss_sum: float, norm: float) -> None:
        row["loss"], row["grad_norm"] = row["loss"] * loss_sum, norm
        self.row(row)

    def row(self, row: Mapping[str, Any]) -> None:
        """Log one row as it is."""
        self.flush()  # the one before is not to come after it
        self._newest = (dict(row), None, None)
        if self._fd is not None:
            if self._guarded:
                guard()
            append(self._fd, _encode(row))

    def newest(self) -> dict[str, Any] | None:
        """The last row, on every rank: another one than rank 0 may have to write it."""
        self.flush()
        if self._newest is None:
            return None
        row, loss_sum, norm = self._newest
        if loss_sum is None or norm is None:
            return row
        return row | {"loss": row["loss"] * loss_sum.item(), "grad_norm": norm.item()}

    def flush(self) -> None:
        """Write the row that is still held back, if any."""
        if self._held is not None:
            row, held, arrived = self._held
            self._held = None
            arrived.synchronize()
            self._complete(row, *held.tolist())

    def close(self) -> None:
        self.flush()
        self.abandon()

    def abandon(self) -> None:
        """Close the file without the row that is held back."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class Meter:
    """Throughput between two rows; what is not training (evaluation, saving) is left out by `restart`. `waited` is the
    time in seconds for which the loop has waited for data since the start."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._tokens = self.waited = self._told = 0.0
        self._since = time.perf_counter()

    def restart(self) -> None:
        self._tokens, self._since = 0.0, time.perf_counter()

    def add(self, tokens: float) -> None:
        self._tokens += tokens

    def read(self) -> dict[str, Any]:
        """tokens per second over all ranks since the last reading; seconds of waiting for data since then; peak memory
        of this rank in MiB (of the device if that is a GPU); seconds since the epoch."""
        now = time.perf_counter()
        rate = self._tokens / (now - self._since)
        self._tokens, self._since = 0.0, now
        waited, self._told = self.waited - self._told, self.waited
        peak = torch.cuda.max_memory_allocated() / 2**20 if self._cuda else peak_rss_mib()
        rates = {"tokens_per_second": round(rate, 1), "data_wait": round(waited, 6)}
        return rates | {"memory_mb": round(peak), "time": time.time()}


def peak_rss_mib() -> float:
    """Peak resident memory of this process in MiB (Linux counts ru_maxrss in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
