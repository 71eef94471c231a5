"""The tasks of mpirun, one per rank: task 0 leads the run, and each of the others keeps a rank for it (see guest.py).
Of MPI only the variables are used by which a task knows its number.

    mpirun -n 4 python -m trainkit ... launcher=mpi
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Gt
from pydantic import Field

from trainkit.errors import ConfigError, Problem
from trainkit.launcher import _hosts, _machine
from trainkit.launcher._order import Order
from trainkit.launcher._seat import MPI, Seat
from trainkit.launcher._visit import Visit
from trainkit.launcher._watched import Watched
from trainkit.launcher.local import lead
from trainkit.protocols import Cluster, Strategy
from trainkit.runfolder import RunFolder, own_here, ownership

SIZES = (("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"), ("PMI_SIZE", "MPI_LOCALNRANKS"))
"""Variables that say how many tasks there are, and how many of them on this machine."""


@dataclass(frozen=True, kw_only=True)
class Mpi:
    """Ranks in tasks of mpirun, one in each.

    ranks   a number; or 'auto': as many as there are tasks; or a span such as '2:4': four tasks, and as few as two when
            some are lost
    lost_s  a task that is not heard of for so long is lost
    wait_s  so long the tasks wait for each other
    """

    ranks: Annotated[int, Gt(0)] | Literal["auto"] | Annotated[str, Field(pattern=_hosts.SPAN)]
    lost_s: Annotated[float, Ge(5)]
    wait_s: Annotated[float, Gt(0)]

    def cluster(self, strategy: Strategy, device: str) -> Cluster:
        """The tasks that were started; where none were, those that are asked for."""
        asked = (1, 1) if self.ranks == "auto" else _hosts.span(self.ranks)
        size, here = tasks() or (asked[1], asked[1])
        hosts = -(-size // here)
        gpus = 0 if device == "cpu" else hosts * _machine.gpus()
        whole = Cluster(hosts=hosts, ranks=size, gpus=gpus, cores=size * _machine.cores())
        return whole if self.ranks == "auto" else replace(whole, fewer=tuple(range(min(asked[0], size), size)))

    def problems(self, cluster: Cluster) -> Sequence[Problem]:
        found = [*_hosts.upside_down("launcher.ranks", self.ranks, "ranks")]
        started = tasks()
        if started and self.ranks != "auto" and started[0] != (most := _hosts.span(self.ranks)[1]):
            hint = f"set launcher.ranks={started[0]}, or mpirun -n {most}"
            found.append(Problem("launcher.ranks", self.ranks, f"mpirun has started {started[0]} task(s)", hint))
        if cluster.gpus and cluster.ranks > cluster.gpus:
            said = f"there are {cluster.gpus} GPU(s) for {cluster.ranks} tasks, and every rank needs its own"
            found.append(Problem("launcher.ranks", self.ranks, said, "start fewer tasks, or set train.device=cpu"))
        return found

    def visit(self, words: Sequence[str], cluster: Cluster) -> Visit | None:
        """Implements _visit.Meets."""
        if tasks() is None:
            hint = "mpirun -n 4 python -m trainkit ... launcher=mpi; launcher=local needs no mpirun"
            raise ConfigError([Problem("launcher", "mpi", "no mpirun has started this", hint)])
        _hosts.demand_folder(words)
        seat = Seat.here(starters=MPI)
        return None if seat.number == 0 else Visit(seat=seat, places=1, wait_s=self.wait_s, silent=True)

    def start(self, run: Path, cluster: Cluster, attempt: int) -> Watched:
        folder = RunFolder(run)
        own_here(folder, attempt)
        order = Order(
            start=(),
            keepers=cluster.ranks,
            guests=cluster.ranks - 1,
            places=1,
            lost_s=self.lost_s,
            wait_s=self.wait_s,
            owner=ownership(),
            address="127.0.0.1" if cluster.hosts == 1 else None,
            invitation=str(folder.invitation),
        )
        return lead(run, cluster, attempt, order)


def tasks() -> tuple[int, int] | None:
    """How many tasks mpirun has started, and how many of them on this machine; None where it has not."""
    for size, here in SIZES:
        if size in os.environ:
            return int(os.environ[size]), int(os.environ.get(here, os.environ[size]))
    return None
