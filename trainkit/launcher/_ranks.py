"""The ranks of one attempt, forked from this process (the agent), and the store through which they find each other.

torchelastic starts them and gives each its log; what follows from an end is the agent's. The environment variables are
those of torchrun. The store is kept here and not by a rank, on a port of its own for every attempt: no rank's death
takes it away, and a rank of an earlier attempt can reach neither it nor the new ranks.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from trainkit.errors import EXIT_STOPPED
from trainkit.launcher._deaths import Deaths
from trainkit.protocols import Outcome

HOST = "127.0.0.1"
PR_SET_CHILD_SUBREAPER = 36
GLANCE_S, DUMP_S, KILL_S = 0.02, 3.0, 30


class Death(NamedTuple):
    """The rank that ended before it was told to; its exit code is negative for a signal. `host`: None for this one."""

    rank: int
    exit_code: int
    host: str | None = None


class Part(NamedTuple):
    """The ranks of one machine, or some of them, where a run has several machines (see trainkit/nodes.py).

    ranks   the number of each rank that is started here
    local   its number on this machine
    places  the places of all ranks of this machine, in the order of their local numbers
    """

    ranks: Sequence[int]
    local: Sequence[int]
    places: Sequence[int]
    size: int
    address: str
    port: int


class Ranks:
    """A process for every place of `seats`, which returns `work(rank)`; what it prints goes to logs/rank_R.log. A place
    is one of the GPUs that are visible here, by its number, where there are some. Linux only.

    Of a `part` of a run the ranks are numbered here from 0 on, whatever their number in the run, and their store is
    where the part says."""

    def __init__(
        self, seats: Sequence[int], logs: Path, work: Callable[[int], Outcome], part: Part | None = None
    ) -> None:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch does not list what it exports
        from torch.distributed.elastic.multiprocessing import start_processes

        from trainkit.launcher._logs import RankLogs

        # Loaders that a killed rank leaves behind become children of this process, where `end` finds them.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"  # the others ask the agent for a checkpoint
        count, alone = len(seats), part is None
        door = socket.create_server((HOST, 0), backlog=count)
        part = part or Part(range(count), range(count), seats, count, HOST, door.getsockname()[1])
        self._logs = [logs / f"rank_{rank}.log" for rank in part.ranks]
        self._context = start_processes(
            name="rank",
            entrypoint=_begin,
            args={number: (os.getpid(), work, rank) for number, rank in enumerate(part.ranks)},
            envs={number: _place(number, part) for number in range(count)},
            logs_specs=RankLogs(logs),
            start_method="fork",
        )
        self._pids = [pid for _, pid in sorted(self._context.pids().items())]
        self._deaths = Deaths(self._pids)
        # Only now: its threads would not survive a fork. Who knocks before is waited for by the kernel.
        if alone:
            self._store = TCPStore(
                HOST, part.port, is_master=True, wait_for_workers=False, master_listen_fd=door.detach()
            )

    def wait(self, seconds: float) -> Outcome | Death | None:
        """How the attempt ended: all returned, or one is dead, which is told at once. None if that takes longer."""
        until = time.monotonic() + seconds
        while self._deaths.first is None and time.monotonic() < until:
            time.sleep(GLANCE_S)
        # When PContext sees a death before we do, it waits up to 30 s for the others to heed SIGTERM.
        ended = None if self._deaths.first else self._context.wait(0)
        if ended is not None and not ended.is_failed():
            return "stopped" if "stopped" in ended.return_values.values() else "done"
        if self._deaths.first is not None:
            pid, exit_code = self._deaths.first
            return Death(self._pids.index(pid), exit_code)
        if ended is not None:  # it was gone, and waited for, before its death could be watched
            return min(Death(rank, failure.exitcode) for rank, failure in ended.failures.items())
        return None

    def stopped(self) -> list[int]:
        """The ranks whose process was stopped by a signal."""
        stopped = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
        return [rank for rank, state in enumerate(self._states()) if state in stopped]

    def alive(self) -> list[int]:
        """The ranks whose process has not ended."""
        gone = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        return [rank for rank, state in enumerate(self._states()) if state not in gone]

    def _states(self) -> list[str]:
        states = [psutil.STATUS_DEAD] * len(self._pids)
        for rank, pid in enumerate(self._pids):
            with suppress(psutil.NoSuchProcess):  # PContext has seen its end before we did, and waited for it
                states[rank] = psutil.Process(pid).status()
        return states

    def dump_stacks(self) -> None:
        """Have every rank write its Python stacks to its log (faulthandler, see main.work), and wait until it has. One
        that was stopped goes on for that; one that does not answer in DUMP_S seconds is left out."""
        before, sizes = self._log_sizes(), None
        self._send(signal.SIGQUIT)
        self._send(signal.SIGCONT)
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
        self._send(signal.SIGUSR1)

    def _send(self, number: signal.Signals) -> None:
        for pid in self._pids:  # none is free for another process before `end`: nobody else waits for ours
            os.kill(pid, number)

    def end(self) -> None:
        """End whatever is left of them at once, with everything that they have started."""
        self._context.close(signal.SIGKILL, KILL_S)
        left = psutil.Process().children(recursive=True)
        for orphan in left:
            orphan.kill()
        psutil.wait_procs(left)


def _place(number: int, part: Part) -> dict[str, str]:
    """What torchrun tells a rank, and the GPUs of the places that are taken."""
    places = part.places
    place = {} if [*places] == [*range(len(places))] else {"CUDA_VISIBLE_DEVICES": _devices(places)}
    return place | {
        "RANK": str(part.ranks[number]),
        "LOCAL_RANK": str(part.local[number]),
        "WORLD_SIZE": str(part.size),
        "LOCAL_WORLD_SIZE": str(len(places)),
        "MASTER_ADDR": part.address,
        "MASTER_PORT": str(part.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }


def _devices(seats: Sequence[int]) -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(number) for number in range(max(seats) + 1)]
    return ",".join(names[seat] for seat in seats if seat < len(names))


def _begin(agent: int, work: Callable[[int], Outcome], rank: int) -> Outcome:
    """A rank, from its first step to its last. It is asked to save and leave (SIGINT, armed by torch) if the agent
    dies, and then ends by itself: PContext has it wait to be told that its outcome was read, which nobody would do."""
    if os.getppid() != agent:
        signal.raise_signal(signal.SIGINT)  # it died before the signal was armed
    os.dup2(1, 2)  # one log file per rank: torchelastic redirected stdout only
    outcome = work(rank)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if os.getppid() != agent:
        sys.exit(EXIT_STOPPED)
    return outcome
