"""Whether all ranks have the same model.

At the start, under every strategy: each keeps its own part of it, so that what differs would be trained as a mixture,
and no loss would tell. Later, where each keeps the whole: the same gradients give the same bits, so that what differs
was changed by a fault of the machine.
"""

from __future__ import annotations

import zlib

from torch import Tensor, nn

from trainkit.agreement import agree, bits
from trainkit.errors import CorruptError
from trainkit.protocols import World


def same_start(model: nn.Module, world: World) -> None:
    """Compare names, shapes and values of all parameters over the ranks. Raises TrainkitError, on every rank, that
    names the first differences. Collective."""
    if world.size == 1:
        return
    hint = "build_model() may depend on nothing but the recipe's keys and torch's seed"
    agree(world, _facts(model), "the ranks have built different models", hint)


def same_still(model: nn.Module, world: World) -> None:
    """The same while it is trained, for a model that every rank keeps whole. Raises CorruptError."""
    if world.size == 1:
        return
    hint = "a fault of memory or of a device; or something sets parameters beside the optimizer"
    agree(world, _facts(model), "the ranks' parameters have come apart", hint, CorruptError)


def _facts(model: nn.Module) -> dict[str, str]:
    return {f"the parameter {name}": f"{tuple(p.shape)} {_checksum(p)}" for name, p in model.named_parameters()}


def _checksum(parameter: Tensor) -> str:
    """Of the bits; ten times as fast as an exact sum, and the same for any number of threads."""
    return f"checksum {zlib.crc32(bits(parameter)):08x}"
