"""The ranks of one attempt, forked from this process (the agent), and the store through which they find each other.

The environment variables are those of torchrun. The store is kept here and not by a rank, on a port of its own for
every attempt: no rank's death takes it away, and a rank of an earlier attempt can reach neither it nor the new ranks.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import wait
from pathlib import Path

import psutil

HOST = "127.0.0.1"
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
DUMP_S = 3.0


class Ranks:
    """A process for every place of `seats`, which calls `work(rank)`; what it prints goes to logs/rank_R.log. A place
    is one of the GPUs that are visible here, by its number, where there are some. Linux only."""

    def __init__(self, seats: Sequence[int], logs: Path, work: Callable[[int], None]) -> None:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch does not list what it exports

        # Loaders that a killed rank leaves behind become children of this process, where `end` finds them.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
        count = len(seats)
        door = socket.create_server((HOST, 0), backlog=count)
        port = door.getsockname()[1]
        fork = multiprocessing.get_context("fork")
        self._logs = [logs / f"rank_{rank}.log" for rank in range(count)]
        self._processes = [
            fork.Process(target=_begin, args=(_place(rank, seats, port), log, work, rank))
            for rank, log in enumerate(self._logs)
        ]
        for process in self._processes:
            process.start()
        # Only now: its threads would not survive a fork. Who knocks before is waited for by the kernel.
        self._store = TCPStore(HOST, port, is_master=True, wait_for_workers=False, master_listen_fd=door.detach())

    def wait(self, seconds: float) -> dict[int, int]:
        """Exit codes by rank of those that have ended, negative for a signal; returns early when another one ends."""
        running = [process.sentinel for process in self._processes if process.exitcode is None]
        if running:
            wait(running, seconds)
        return {r: p.exitcode for r, p in enumerate(self._processes) if p.exitcode is not None}

    def stopped(self) -> list[int]:
        """The ranks whose process was stopped by a signal."""
        states = [psutil.Process(process.pid).status() for process in self._processes]
        return [
            rank for rank, state in enumerate(states) if state in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
        ]

    def dump_stacks(self) -> None:
        """Have every rank write its Python stacks to its log (faulthandler, see main.work), and wait until it has. One
        that was stopped goes on for that; one that does not answer in DUMP_S seconds is left out."""
        before, sizes = self._log_sizes(), None
        for number in (signal.SIGQUIT, signal.SIGCONT):
            for process in self._processes:
                os.kill(process.pid or os.getpid(), number)
        end = time.monotonic() + DUMP_S
        while time.monotonic() < end:
            time.sleep(0.1)
            last, sizes = sizes, self._log_sizes()
            if sizes == last and all(now > was for now, was in zip(sizes, before, strict=True)):
                return

    def _log_sizes(self) -> list[int]:
        return [log.stat().st_size if log.exists() else 0 for log in self._logs]

    def ask(self) -> None:
        """Ask them to save and leave."""
        for process in self._processes:
            if process.is_alive():
                os.kill(process.pid or os.getpid(), signal.SIGUSR1)

    def end(self) -> None:
        """End whatever is left of them at once, with everything that they have started."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        left = psutil.Process().children(recursive=True)
        for orphan in left:
            orphan.kill()
        psutil.wait_procs(left)


def _place(rank: int, seats: Sequence[int], port: int) -> dict[str, str]:
    """What torchrun tells a rank, and the GPUs of the places that are taken."""
    count = len(seats)
    place = {} if [*seats] == [*range(count)] else {"CUDA_VISIBLE_DEVICES": _devices(seats)}
    return place | {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": HOST,
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


def _devices(seats: Sequence[int]) -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(max(seats) + 1)]
    return ",".join(names[seat] for seat in seats if seat < len(names))


def _begin(place: dict[str, str], log: Path, work: Callable[[int], None], rank: int) -> None:
    """A rank's first steps. It is asked to save and leave (SIGINT) if the agent dies."""
    agent = os.getppid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
    if os.getppid() != agent:
        signal.raise_signal(signal.SIGINT)  # it died before the signal was armed
    os.environ.update(place)
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(out, 1)
    os.dup2(out, 2)
    work(rank)
