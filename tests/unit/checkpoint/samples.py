"""Small states and stores for the tests of the checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.conformance.settings import CHECKPOINT
from trainkit.checkpoint.manifest import step_folder
from trainkit.checkpoint.store import CheckpointStore
from trainkit.protocols import World
from trainkit.settings import Checkpoint
from trainkit.strategy._world import Solo

ABOUT: dict[str, Any] = {"recipe": "mine", "fixed": {"recipe.width": 4}, "strategy": "local", "ranks": 1}


def store_in(
    folder: Path,
    world: World | None = None,
    attempt: int = 1,
    about: dict[str, Any] = ABOUT,
    said: list[str] | None = None,
) -> CheckpointStore:
    """A store that says what it says to `said`."""
    heard: list[str] = [] if said is None else said
    return CheckpointStore(folder, world or Solo(device=torch.device("cpu")), attempt, about, heard.append)


def state(step: int, width: int = 4) -> dict[str, Any]:
    """A model and its moments as step `step` left them; every element tells the step and its place."""
    weight = torch.arange(3.0 * width).reshape(3, width) + 1000 * step
    return {
        "model": {"head.weight": weight, "head.bias": torch.full((3,), float(step)), "seen": torch.tensor(step)},
        "optimizer": {"head.weight": {"exp_avg": -weight, "step": torch.tensor(float(step))}},
    }


def trainer(step: int, **metrics: float) -> dict[str, Any]:
    return {"progress": {"step": step}, "metrics": metrics}


def keeping(newest: int, metric: str | None = None, mode: str = "min", every: int | None = None) -> Checkpoint:
    """checkpoint.* of a run that keeps these."""
    return Checkpoint(**(CHECKPOINT | {"keep": newest, "metric": metric, "mode": mode, "keep_every": every}))


def saved(folder: Path, *steps: int, **metrics: float) -> CheckpointStore:
    """A store in `folder` that has saved `steps`."""
    store = store_in(folder)
    for step in steps:
        store.save(step, state(step), trainer(step, **metrics))
    return store


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    if set(a) != set(b):
        return False
    return all(equal(v, b[k]) if isinstance(v, dict) else torch.equal(v, b[k]) for k, v in a.items())


def damage(folder: Path, step: int, file: str = "trainer.json") -> Path:
    """Flip one bit in the middle of a file of a checkpoint."""
    path = step_folder(folder, step) / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    return path
