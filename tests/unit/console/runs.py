"""Run folders as training leaves them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from trainkit.runfolder import RunFolder, append_line


def start(folder: RunFolder, total: int = 10, step: int = 0, attempt: int = 1) -> None:
    numbers = {"parameters": 1_234_567, "trainable": 4_600, "ranks": 2, "total_steps": total}
    folder.event("start", step=step, attempt=attempt, strategy="ddp", device="cpu", **numbers)


def row(folder: RunFolder, step: int, at: float | None = None, **metrics: float) -> None:
    when = time.time() if at is None else at
    append_line(folder.metrics, {"step": step, "samples": 4 * step, **metrics, "time": when})


def trained(folder: RunFolder, step: int, at: float | None = None, **metrics: float) -> None:
    speed: dict[str, Any] = {"lr": 1e-3, "tokens_per_second": 1000.0 * step, "memory_mb": 512 * step}
    row(folder, step, at, loss=8 / (1 + step), grad_norm=1.0, **speed, **metrics)


def made(root: Path) -> RunFolder:
    (root / "logs/attempt_1").mkdir(parents=True)
    return RunFolder(root)
