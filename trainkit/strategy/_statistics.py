"""What a model remembers of its samples besides its weights: the running statistics of BatchNorm.

Ranks that read different samples each count their own. So that a run has one model under every strategy, all ranks go
on with those of the first after every global batch.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trainkit.canonical import trainable, trained_state
from trainkit.protocols import World
from trainkit.strategy._norm import local

log = logging.getLogger(__name__)


def names(model: nn.Module) -> Sequence[str]:
    """The buffers that belong to the state of `model`."""
    weights = dict(trainable(model))
    return [name for name in trained_state(model) if name not in weights]


@torch.no_grad()
def settle(statistics: Sequence[Tensor], world: World) -> None:
    """Overwrite `statistics` with those of the first data-parallel rank, in one broadcast per dtype. Collective."""
    ours = [local(tensor) for tensor in statistics]
    for dtype in dict.fromkeys(tensor.dtype for tensor in ours):
        some = [tensor for tensor in ours if tensor.dtype == dtype]
        theirs = world.broadcast(torch.cat([tensor.flatten() for tensor in some]))
        for tensor, part in zip(some, torch.split(theirs, [tensor.numel() for tensor in some]), strict=True):
            tensor.copy_(part.view_as(tensor))


def warn(model: nn.Module) -> None:
    """Say it where the curve of `model` is not one of its samples alone."""
    normed = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    if normed:
        told = (
            "%s%s is a BatchNorm, which normalises by the samples that a rank computes together: the curve changes "
            "with train.micro_batch and the number of ranks. GroupNorm or LayerNorm would keep it the same"
        )
        log.warning(told, normed[0], f" (and {len(normed) - 1} more)" if len(normed) > 1 else "")
