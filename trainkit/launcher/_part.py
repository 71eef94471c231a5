"""The ranks that one machine has of an attempt, and what each is told of its seat: torchrun's environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple


class Part(NamedTuple):
    """The ranks of one machine, or some of them, where a run has several machines (see trainkit/noderanks.py).

    ranks   the number of each rank that is started here
    local   its number on this machine
    places  the seats of all ranks of this machine, in the order of their local numbers
    """

    ranks: Sequence[int]
    local: Sequence[int]
    places: Sequence[int]
    size: int
    address: str
    port: int


def same_place(place: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Whether a process in one place may go on in the other: its device is chosen, and its number is known to it."""
    fixed = ("LOCAL_RANK", "CUDA_VISIBLE_DEVICES")
    return all(place.get(name) == other.get(name) for name in fixed)


def place_of(number: int, part: Part) -> dict[str, str]:
    """What torchrun tells a rank of where it is, and the GPUs of the seats that are taken."""
    places = part.places
    place = {} if [*places] == [*range(len(places))] else {"CUDA_VISIBLE_DEVICES": _devices(places)}
    return place | {
        "RANK": str(part.ranks[number]),
        "LOCAL_RANK": str(part.local[number]),
        "WORLD_SIZE": str(part.size),
        "LOCAL_WORLD_SIZE": str(len(places)),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


def _devices(seats: Sequence[int]) -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(max(seats) + 1)]
    return ",".join(names[seat] for seat in seats if seat < len(names))
