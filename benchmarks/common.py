"""What the benchmarks share: one small model, its data in one order, its optimizer, and trainkit set up to train it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.conformance.settings import make
from trainkit.data.order import Order
from trainkit.optimizer.adamw import AdamW
from trainkit.protocols import Batch, Data, Task
from trainkit.schedule.constant import Constant
from trainkit.settings import Settings

SAMPLES, FEATURES, CLASSES, BATCH, SEED, LR, CLIP = 4096, 64, 10, 32, 0, 1e-3, 1.0
WIDTH = 256
_generator = torch.Generator().manual_seed(1)
X = torch.randn(SAMPLES, FEATURES, generator=_generator)
Y = torch.randint(0, CLASSES, (SAMPLES,), generator=_generator)


def make_model(width: int = WIDTH) -> nn.Module:
    torch.manual_seed(SEED)
    return nn.Sequential(
        nn.Linear(FEATURES, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, CLASSES)
    )


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.99), fused=True)


def sample_ids(steps: int) -> list[Tensor]:
    """The global batches of `steps` steps (no epoch ends inside one: BATCH divides SAMPLES)."""
    ids = Order(SAMPLES, SEED).ids(0, steps * BATCH)
    return [torch.from_numpy(ids[i : i + BATCH]) for i in range(0, steps * BATCH, BATCH)]


class Source:
    def __len__(self) -> int:
        return SAMPLES

    def fetch(self, ids: Sequence[int]) -> Batch:
        rows = torch.tensor(ids)  # once for both, as in the other loops
        return Batch({"input": X[rows]}, {"y": Y[rows]}, len(ids), len(ids))


@dataclass(frozen=True, kw_only=True)
class SmallTask(Task):
    width: int = WIDTH

    def build_model(self) -> nn.Module:
        return make_model(self.width)

    def build_data(self) -> Data:
        return Data(Source())

    def loss(self, output: Any, targets: Mapping[str, Tensor]) -> Tensor:
        return F.cross_entropy(output, targets["y"], reduction="sum")


def settings(folder: str, task: Task, steps: int, micro_batch: int | None = None, **changed: Any) -> Settings:
    """trainkit's settings for the same training, with a row of metrics in every step; `changed` are further fields
    of Settings."""
    made = make(folder, task=task, steps=steps, global_batch=BATCH, micro_batch=micro_batch, seed=SEED, clip_norm=CLIP)
    recipe = {
        "optimizer": AdamW(lr=LR, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1),
        "schedule": Constant(warmup=0),
    }
    return replace(made, **recipe | changed)


def rotated(names: Sequence[str], rounds: int) -> Iterator[str]:
    """Every name once per round, each round beginning with the next: who comes first, or last, is not always the
    same."""
    for begin in (round_ % len(names) for round_ in range(rounds)):
        yield from [*names[begin:], *names[:begin]]
