"""The random numbers of a step."""

from __future__ import annotations

import torch

from trainkit.data.order import derive
from trainkit.protocols import World


def reseed(seed: int, step: int, world: World) -> None:
    """Random numbers (dropout) are a function of (seed, step, data-parallel rank): a resumed run draws what an
    uninterrupted one draws, and no generator state has to travel."""
    own = derive(seed, step, world.dp_rank)
    torch.default_generator.manual_seed(own)
    if world.device.type == "cuda":
        torch.cuda.manual_seed(own)
