"""What all ranks agree on before the first step: who they are, what they were told, and what they read.

Each rank sees only its own share, so that ranks which differ would train a mixture, and no loss would tell. The model's
parameters are compared where they are made (strategy/_same.py).
"""

from __future__ import annotations

import hashlib
import os
import platform
from collections import Counter
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

import torch

import trainkit
from trainkit.agreement import agree, bits
from trainkit.errors import TrainkitError
from trainkit.secrets import flat
from trainkit.settings import name_of

if TYPE_CHECKING:
    from trainkit.protocols import Data, Source, World
    from trainkit.settings import Settings


def shake_hands(settings: Settings, data: Data, world: World) -> None:
    """Compare world size, mesh, versions, configuration and data over all ranks. Raises TrainkitError, on every rank
    alike, that names the ranks and the first differences. Collective."""
    expected = int(os.environ.get("WORLD_SIZE", "1"))
    if world.size != expected:
        raise TrainkitError(
            f"the launcher started {expected} ranks, but strategy={name_of(settings.strategy)} joined a group of "
            f"{world.size}\n    ranks that do not know of each other would train {expected} models"
        )
    if world.size == 1:
        return
    agree(
        world,
        {
            "world size": str(world.size),
            "data-parallel ranks": str(world.dp_size),
            "device": world.device.type,
            "trainkit": trainkit.__version__,
            "torch": torch.__version__,
            "Python": platform.python_version(),
        },
        "the ranks do not run alike",
        "start all of them from the same environment, on the same kind of machine",
    )
    agree(
        world,
        _configuration(settings),
        "the ranks have read different configurations",
        "all of them read config.yaml in the run folder: is it on a file system that all machines share?",
    )
    agree(
        world,
        _fingerprint("train", data.train) | (_fingerprint("heldout", data.heldout) if data.heldout is not None else {}),
        "the ranks have different data",
        "build_data() and fetch() may depend on nothing but the recipe's keys and the sample ids; files must be equal",
    )
    seats = Counter(world.gather(world.dp_rank))
    each = world.size // world.dp_size
    if seats != dict.fromkeys(range(world.dp_size), each):
        wrong = next(seat for seat in sorted({*seats, *range(world.dp_size)}) if seats[seat] != each)
        raise TrainkitError(
            f"{seats[wrong]} of {world.size} ranks say that they read share {wrong} of {world.dp_size} of the data; "
            f"{each} should\n    this is a fault of strategy={name_of(settings.strategy)}"
        )


def _configuration(settings: Settings) -> dict[str, str]:
    """Every key with its value, and of which class each component is."""
    classes = {field.name: name_of(getattr(settings, field.name)) for field in fields(settings)}
    return classes | dict(flat(asdict(settings)))


def digests(data: Data) -> dict[str, int | str]:
    """How many samples are trained on and held out, and a checksum of some of them."""
    told: dict[str, int | str] = {}
    for name, source in (("train", data.train), ("heldout", data.heldout)):
        if source is not None and len(source) > 0:
            told |= {f"{name}_samples": len(source), f"{name}_digest": _checksum(source, _some(source))}
    return told


def _fingerprint(name: str, source: Source) -> dict[str, str]:
    ids = _some(source)
    return {f"{name} samples": str(len(source)), f"{name} samples {ids}": f"checksum {_checksum(source, ids)}"}


def _some(source: Source) -> list[int]:
    """The first, the middle and the last sample."""
    return sorted({0, len(source) // 2, len(source) - 1})


def _checksum(source: Source, ids: list[int]) -> str:
    """Of how many samples there are, and of the samples `ids` as one batch."""
    batch = source.fetch(ids)
    seen = hashlib.sha256(str(len(source)).encode())
    for kind in (batch.inputs, batch.targets):
        for key, tensor in sorted(kind.items()):
            seen.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
            seen.update(bits(tensor))
    seen.update(f"{batch.weight} {batch.tokens}".encode())
    return seen.hexdigest()[:12]
