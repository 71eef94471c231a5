"""One comparison over all ranks: equal facts cost one small gather; different ones end in an error that says which
ranks say what."""

from __future__ import annotations

import hashlib
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainkit.errors import TrainkitError

if TYPE_CHECKING:
    from trainkit.protocols import World

MOST_TOLD = 5


def agree(world: World, facts: Mapping[str, str], title: str, hint: str) -> None:
    """Compare `facts` over the ranks. Raises TrainkitError, on every rank alike, that tells what the odd ranks have and
    what most have. Collective; the facts themselves travel only where they differ."""
    digests = world.gather(hashlib.sha256(repr(sorted(facts.items())).encode()).hexdigest())
    (usual, _), *others = Counter(digests).most_common()
    if not others:
        return
    everybody = world.gather((socket.gethostname(), dict(facts)))
    odd = [rank for rank, digest in enumerate(digests) if digest != usual]
    lines = _differences(odd[0], digests.index(usual), everybody)
    told = lines[:MOST_TOLD] + ([f"... and {len(lines) - MOST_TOLD} more"] if len(lines) > MOST_TOLD else [])
    who = f"rank {odd[0]} on {everybody[odd[0]][0]}"
    if len(odd) > 1:
        who += f" and {len(odd) - 1} more ({', '.join(map(str, odd[1:9]))}{', ...' if len(odd) > 9 else ''})"
    raise TrainkitError("\n    ".join([f"{title}: {who} against the others", *told, hint]))


def bits(tensor: Tensor) -> memoryview:
    """The bytes of `tensor`, not copied if it is contiguous and on the CPU: what a checksum is made of."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def _differences(odd: int, usual: int, everybody: Sequence[tuple[str, Mapping[str, str]]]) -> list[str]:
    """One line for each fact that rank `odd` states in another way than rank `usual`."""
    ours, theirs = everybody[odd][1], everybody[usual][1]
    return [
        f"{name}: {ours.get(name, 'missing')} on rank {odd}, {theirs.get(name, 'missing')} on rank {usual}"
        for name in (*theirs, *(name for name in ours if name not in theirs))
        if ours.get(name) != theirs.get(name)
    ]
