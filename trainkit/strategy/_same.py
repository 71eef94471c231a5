"""A look at the start that all ranks build the same model: each keeps its own part of it, so that what differs would
be trained as a mixture, and no loss would tell."""

from __future__ import annotations

import torch
from torch import nn

from trainkit.errors import TrainkitError
from trainkit.protocols import World


@torch.no_grad()
def same_start(model: nn.Module, world: World) -> None:
    """Compare names, shapes and sums of all parameters over the ranks. Raises TrainkitError, on every rank, that names
    the first difference. Collective."""
    mine = [(name, tuple(p.shape), p.sum(dtype=torch.float64).item()) for name, p in model.named_parameters()]
    theirs = world.gather(mine)
    for rank, other in enumerate(theirs):
        different = next((a for a, b in zip(theirs[0], other, strict=False) if a != b), None)
        if different is not None or len(other) != len(theirs[0]):
            what = f"the parameter {different[0]}" if different else "the number of parameters"
            raise TrainkitError(
                f"rank {rank} has built another model than rank 0: {what} differs\n"
                "    build_model() may depend on nothing but the recipe's keys and torch's seed"
            )
