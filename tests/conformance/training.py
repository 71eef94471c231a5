"""Runs one training on a rank of the pool, and reads what it left."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from tests.conformance.settings import make
from trainkit import main
from trainkit.runfolder import RunFolder, read_lines


def train(folder: str, attempt: int, stop_at: int | None, options: dict[str, Any]) -> str:
    """One rank: train with settings.make(**options); with `stop_at` the stop flag is raised at that step's data."""
    root = RunFolder(Path(folder))
    root.root.mkdir(parents=True, exist_ok=True)
    settings = make(folder, **options)
    main.stop.raised = False
    if stop_at is not None:
        object.__setattr__(settings, "recipe", StopsAt(settings.recipe, stop_at))
    return main.fit(main.with_data(settings), root, attempt)


class StopsAt:
    """A recipe whose data raises the stop flag on rank 0 in its n-th fetch, as a signal would at that moment."""

    def __new__(cls, task: Any, fetch: int) -> Any:
        data = task.build_data()
        stopping_data = type(data)(_Stopping(data.train, fetch), data.heldout)
        kind = type("Stopping", (type(task),), {"build_data": lambda self: stopping_data})
        stopping = object.__new__(kind)
        for name, value in vars(task).items():
            object.__setattr__(stopping, name, value)
        return stopping


class _Stopping:
    def __init__(self, source: Any, fetch: int) -> None:
        looked_at = int(os.environ["WORLD_SIZE"]) > 1  # the ranks compare one batch before the start
        self.source, self.left = source, fetch + looked_at

    def __len__(self) -> int:
        return len(self.source)

    def fetch(self, ids: Any) -> Any:
        self.left -= 1
        if self.left == 0 and os.environ["RANK"] == "0":
            main.stop.raised = True
        return self.source.fetch(ids)


def curve(folder: Path) -> list[dict[str, Any]]:
    return [row for row in read_lines(folder / "metrics.jsonl") if "loss" in row]


def trained_ids(folder: Path) -> dict[int, list[int]]:
    """Sample ids per step, over all ranks and attempts."""
    steps: dict[int, list[int]] = {}
    for path in sorted(folder.glob("ledger/*/*.jsonl")):
        for row in read_lines(path):
            steps.setdefault(row["step"], []).extend(row["ids"])
    return {step: sorted(ids) for step, ids in steps.items()}


def tensors(folder: Path, step: int) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint by its canonical name, read by torch's own reader."""
    from torch.distributed.checkpoint import FileSystemReader
    from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
    from torch.distributed.checkpoint.state_dict_loader import _load_state_dict

    state: dict[str, Any] = {}
    reader = FileSystemReader(folder / "checkpoints" / f"step_{step}")
    _load_state_dict(state, storage_reader=reader, planner=_EmptyStateDictLoadPlanner(), no_dist=True)
    return dict(_flat(state))


def _flat(state: dict[str, Any], prefix: str = "") -> Any:
    for name, value in state.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
