"""Which of the keepers of a run this process is (trainkit/keeper.py), by the variables that its starter has set."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from trainkit.errors import TrainkitError

NUMBER, SLOT, HOST = "TRAINKIT_KEEPER", "TRAINKIT_KEEPER_SLOT", "TRAINKIT_KEEPER_HOST"
"""What a starter of ours sets."""
GROUP, SIZE = "TRAINKIT_KEEPER_GROUP", "TRAINKIT_KEEPER_GROUP_SIZE"
"""What one sets, too, that lets all keepers go and starts others: the later group has the greater number."""
Starters = tuple[tuple[str, str, str], ...]
MPI: Starters = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK", ""),
    ("PMI_RANK", "MPI_LOCALRANKID", ""),  # MPICH, Intel MPI
)
STARTERS: Starters = ((NUMBER, SLOT, HOST), ("SLURM_PROCID", "SLURM_LOCALID", "SLURMD_NODENAME"), *MPI)


@dataclass(frozen=True, kw_only=True)
class Seat:
    """`number`: of the keeper among all, None for any that is free; `slot`: among those of its machine; `host`: what
    the machine is called; `group`: which of the groups that follow each other; `size`: how many are in it, None for as
    many as were ordered."""

    number: int | None
    slot: int
    host: str
    group: int = 0
    size: int | None = None

    @classmethod
    def here(cls, around: Mapping[str, str] = os.environ, starters: Starters = STARTERS) -> Seat:
        """Of this process. Raises TrainkitError where none of `starters` has said which it is."""
        for number, slot, host in starters:
            if number in around:
                named = around.get(host) or socket.gethostname()
                group = int(around.get(GROUP, "0"))
                size = int(around[SIZE]) if SIZE in around else None
                place = int(around.get(slot, "0"))
                return cls(number=int(around[number]), slot=place, host=named, group=group, size=size)
        names = ", ".join(number for number, _, _ in starters)
        raise TrainkitError(f"{socket.gethostname()}: none of {names} is set here: which task is this?")

    @classmethod
    def guest(cls, around: Mapping[str, str] = os.environ) -> Seat:
        """Of this process, which nobody has started for the run: all of its machine."""
        return cls(number=None, slot=0, host=around.get(HOST) or socket.gethostname())
