"""A keeper knows its number by what has started it."""

from __future__ import annotations

import socket

import pytest

from trainkit.errors import TrainkitError
from trainkit.launcher._seat import Seat


@pytest.mark.parametrize(
    ("around", "seat"),
    [
        ({"SLURM_PROCID": "3", "SLURM_LOCALID": "1", "SLURMD_NODENAME": "n1"}, (3, 1, "n1")),
        ({"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0"}, (2, 0, socket.gethostname())),
        ({"PMI_RANK": "5", "MPI_LOCALRANKID": "4"}, (5, 4, socket.gethostname())),
        # Inside a job of Slurm, whatever started the keeper knows better.
        ({"SLURM_PROCID": "0", "TRAINKIT_KEEPER": "1", "TRAINKIT_KEEPER_HOST": "a"}, (1, 0, "a")),
    ],
)
def test_what_started_a_keeper_says_which_it_is(around: dict[str, str], seat: tuple[int, int, str]) -> None:
    found = Seat.here(around)
    assert (found.number, found.slot, found.host) == seat


def test_nobody_has_said_which_it_is() -> None:
    with pytest.raises(TrainkitError, match="SLURM_PROCID"):
        Seat.here({})
