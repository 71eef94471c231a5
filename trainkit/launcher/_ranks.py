"""The rank processes of a run, forked from this process (the agent), and the store through which those of an attempt
find each other.

torchelastic starts each and gives it its log; what follows from an end is the agent's. The environment variables are
those of torchrun. The store is kept here and not by a rank, on a port of its own for every attempt: no rank's death
takes it away, and a rank of an earlier attempt can reach neither it nor the new ranks.

A process that outlives an attempt may stay for the next one (`keep`), and a spare one may take a lost one's place.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import psutil

from trainkit import lost
from trainkit.errors import EXIT_FAILED, EXIT_STOPPED
from trainkit.launcher import _machine
from trainkit.launcher._deaths import Deaths
from trainkit.launcher._family import adopt
from trainkit.launcher._part import Part, place_of, same_place
from trainkit.launcher._post import Order, Post, write_to
from trainkit.launcher._warm import WarmUp
from trainkit.protocols import Outcome

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch does not list what it exports

HOST = "127.0.0.1"
GLANCE_S, DUMP_S, KILL_S = 0.02, 3.0, 30
GONE = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)

Work = Callable[[Post], Outcome]


class Fault(NamedTuple):
    """A rank that ended before it was told to, with its exit code (negative: a signal), or that stands by because the
    attempt broke. `host`: None for this machine."""

    rank: int
    exit_code: int
    host: str | None = None


class Place(NamedTuple):
    """On which host a rank is, and how many bytes it holds there, and of GPUs: None where that is not known."""

    host: str
    memory: int
    gpu: int | None


@dataclass(slots=True)
class Member:
    """One process. `place`: what its order said of its seat; `answer`: what it has said since."""

    context: Any
    pipe: Connection
    place: Mapping[str, str] = field(default_factory=dict)
    answer: str | None = None

    @property
    def pid(self) -> int:
        return int(self.context.pids()[0])

    def state(self) -> str:
        with suppress(psutil.NoSuchProcess):  # PContext has seen its end before we did, and waited for it
            return psutil.Process(self.pid).status()
        return psutil.STATUS_DEAD

    def cpu(self) -> float:
        """Seconds of processor time that it has used; 0 once it is gone."""
        with suppress(psutil.NoSuchProcess):
            times = psutil.Process(self.pid).cpu_times()
            return float(times.user + times.system)
        return 0.0

    def memory(self) -> int:
        """Bytes that it holds; 0 once it is gone."""
        with suppress(psutil.NoSuchProcess):
            return int(psutil.Process(self.pid).memory_info().rss)
        return 0

    def hear(self) -> None:
        """Note what it has said."""
        with suppress(EOFError, ConnectionResetError):  # it is gone
            while self.pipe.poll():
                self.answer = self.pipe.recv()


class Ranks:
    """A process for every rank, which does `work`, and `spares` more that are ready to. A seat is one of the GPUs that
    are visible here, by its number, where there are some. `noted`: where a rank notes what it has imported. Linux
    only."""

    def __init__(self, work: Work, spares: int, noted: Path) -> None:
        adopt()  # loaders that a killed rank leaves behind, so that `keep` finds them
        os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = "SIGQUIT"  # the others ask the agent for a checkpoint
        self._work, self._wanted = work, spares
        self._members: dict[int, Member] = {}
        """Of this attempt, by rank."""
        self._spares: list[Member] = []
        self._door: socket.socket | None = None  # the store's, until that is there
        self._store: TCPStore | None = None
        self._logs: list[Path] = []
        self._warm_up = WarmUp(noted)

    def begin(self, attempt: int, again: bool, seats: Sequence[int], logs: Path) -> None:
        """An attempt with a rank in each of `seats`: by those that stay, by spares, else by new processes, which write
        to `logs`."""
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        self._store = None  # its threads would not survive a fork
        ranks = range(len(seats))
        self._door = door = socket.create_server((HOST, 0), backlog=len(ranks))
        port = door.getsockname()[1]
        self.begin_part(attempt, again, Part(ranks, ranks, seats, len(seats), HOST, port), logs)
        self._store = TCPStore(HOST, port, is_master=True, wait_for_workers=False, master_listen_fd=door.detach())
        self._door = None

    def begin_part(self, attempt: int, again: bool, part: Part, logs: Path) -> None:
        """The same with the ranks of `part` only, whose store is where it says."""
        self._logs = [logs / f"rank_{rank}.log" for rank in part.ranks]
        for number, rank in enumerate(part.ranks):
            log, place = self._logs[number], place_of(number, part)
            member = self._still(rank) or self._spare() or self._fork(log, place, spare=False)
            member.place, member.answer, self._members[rank] = place, None, member
            where = place | {"MASTER_ADDR": part.address, "MASTER_PORT": str(part.port)}
            with suppress(BrokenPipeError):  # it has died while it waited, which shows below
                member.pipe.send(Order(attempt, rank, again, where, log))
        while len(self._spares) < self._wanted:
            number = len(self._spares)
            size = {"LOCAL_RANK": str(len(part.places) + number), "LOCAL_WORLD_SIZE": str(len(part.places))}
            self._spares.append(self._fork(logs / f"spare_{number}.log", size, spare=True))
        self._deaths = Deaths([self._members[rank].pid for rank in part.ranks])

    def _still(self, rank: int) -> Member | None:
        """The one that has stayed for `rank`, if it lives."""
        member = self._members.get(rank)
        return member if member is not None and _lives(member) else None

    def _spare(self) -> Member | None:
        """One that lives."""
        while self._spares:
            if _lives(member := self._spares.pop(0)):
                return member
        return None

    def _fork(self, log: Path, place: Mapping[str, str], spare: bool) -> Member:
        from torch.distributed.elastic.multiprocessing import start_processes

        from trainkit.launcher._logs import RankLog

        ours, theirs = Pipe()
        context = start_processes(
            name="rank",
            entrypoint=_begin,
            args={0: (os.getpid(), self._work, theirs, spare, log, self._door)},
            envs={0: dict(place)},
            logs_specs=RankLog(log),
            start_method="fork",
        )
        theirs.close()
        return Member(context, ours)

    def warm_up(self) -> None:
        """Import a little of what a rank has noted, which those that are forked later have then (_warm.py)."""
        self._warm_up.turn()

    def wait(self, seconds: float) -> Outcome | Fault | None:
        """How the attempt ended: all returned; or one is dead, or stands by, which is told at once. None if that takes
        longer."""
        until = time.monotonic() + seconds
        while (fault := self.fault()) is None and time.monotonic() < until:
            if (outcome := self._outcome()) is not None:
                return outcome
            time.sleep(GLANCE_S)
        if fault is not None:
            self.sweep()
        return fault

    def fault(self) -> Fault | None:
        """The first rank that is dead; where none is, the first that stands by."""
        pid, exit_code = self._deaths.first or (None, 0)
        for rank, member in self._members.items():  # it is none of them any more once its end has been dealt with
            if member.pid == pid:
                return Fault(rank, exit_code)
        standing = self.standing()
        return Fault(min(standing), EXIT_FAILED) if standing else None

    def announce(self) -> None:
        """Let those that are left know if one is dead (lost.py)."""
        if self._store is not None and self._deaths.first is not None:
            lost.announce(self._store)

    def _outcome(self) -> Outcome | None:
        """How all have returned. They wait for this to be read, and then end."""
        answers = {member.answer for member in self._members.values()}
        if not answers <= {"done", "stopped"}:
            return None
        for member in self._members.values():
            member.context.wait(KILL_S)
        return "stopped" if "stopped" in answers else "done"

    def standing(self, *answers: str) -> set[int]:
        """The ranks that hold the newest step and wait; of `answers` only."""
        for member in self._members.values():
            member.hear()
        wanted = answers or ("standing", "holding")
        return {rank for rank, member in self._members.items() if member.answer in wanted}

    def cpu(self) -> list[float]:
        """Seconds of processor time that each rank has used."""
        return [member.cpu() for member in self._members.values()]

    def places(self) -> list[Place]:
        """Where each rank is, and what it holds."""
        host, gpus = socket.gethostname(), _machine.gpu_memory()
        return [Place(host, m.memory(), gpus.get(m.pid)) for _, m in sorted(self._members.items())]

    def stopped(self) -> list[int]:
        """The ranks whose process was stopped by a signal."""
        stopped = (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
        return [rank for rank, member in self._members.items() if member.state() in stopped]

    def alive(self) -> list[int]:
        """The ranks whose process has not ended."""
        return [rank for rank, member in self._members.items() if member.state() not in GONE]

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

    def kill(self, rank: int) -> None:
        """End one at once, with what it has started."""
        member, until = self._members[rank], time.monotonic() + KILL_S
        with suppress(ProcessLookupError):
            os.kill(member.pid, signal.SIGKILL)
        while member.state() not in GONE and time.monotonic() < until:
            time.sleep(GLANCE_S)
        self.sweep()

    def ask(self) -> None:
        """Ask them to save and leave."""
        self._send(signal.SIGUSR1)

    def _send(self, number: signal.Signals) -> None:
        for member in self._members.values():  # no pid is another process's before we have waited for ours
            with suppress(ProcessLookupError):
                os.kill(member.pid, number)

    def staying(self, seats: Sequence[int], blamed: int | None) -> list[int]:
        """The ranks that can be the same ranks of an attempt in `seats`: they stand by, and nothing changes for their
        process but the others. Not the one that is to blame: who knows what its process is like."""
        whole = Part(range(len(seats)), range(len(seats)), seats, len(seats), HOST, 0)
        places = {rank: place_of(rank, whole) for rank in whole.ranks}
        willing = self.standing("standing") & places.keys() - {blamed}
        return [rank for rank in willing if same_place(self._members[rank].place, places[rank])]

    def release(self, ranks: Collection[int]) -> None:
        """Tell those of `ranks` that stand by that they are to save what they hold, and leave."""
        for rank in self.standing() & {*ranks}:
            self._members[rank].answer = None
            with suppress(BrokenPipeError):  # it has just been killed
                self._members[rank].pipe.send(None)

    def keep(self, ranks: Collection[int]) -> None:
        """End whatever is left but `ranks` and the spares at once, with everything that it has started."""
        kept = {rank: self._members[rank] for rank in ranks}
        for rank, member in self._members.items():
            if rank not in kept:
                _end(member)
        self._members = kept
        self.sweep()

    def sweep(self) -> None:
        """End what ranks that are gone have left, such as loaders of data: those hold the connections of a rank that
        was killed open, and the others would not notice."""
        stay = {self._warm_up.trial, *(member.pid for member in [*self._members.values(), *self._spares])}
        orphans = [child for child in psutil.Process().children() if child.pid not in stay]
        left = [*orphans, *(grandchild for child in orphans for grandchild in _children(child))]
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left)

    def gone(self) -> list[int]:
        """The places of machines that are lost: this one is there."""
        return []

    renews, broken = False, False

    def renew(self, asked: Callable[[], bool]) -> list[int]:
        """The places of other machines: there are none."""
        return []

    def idle(self, seconds: float) -> None:
        """Let time pass."""
        time.sleep(seconds)

    def end(self) -> None:
        """End all of them at once, spares too."""
        self._warm_up.trial = 0  # that too
        for member in self._spares:
            _end(member)
        self._spares = []
        self.keep(())


def _lives(member: Member) -> bool:
    """Whether it does; if not, that is the end of it."""
    if member.state() in GONE:
        _end(member)
        return False
    return True


def _end(member: Member) -> None:
    member.context.close(signal.SIGKILL, KILL_S)
    member.pipe.close()


def _children(process: psutil.Process) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


def _begin(agent: int, work: Work, pipe: Connection, spare: bool, log: Path, door: socket.socket | None) -> Outcome:
    """A rank process, from its first step to its last. It is asked to save and leave (SIGINT, armed by torch) if the
    agent dies, and then ends by itself: PContext has it wait to be told that its outcome was read, which nobody would
    do."""
    if os.getppid() != agent:
        signal.raise_signal(signal.SIGINT)  # it died before the signal was armed
    if door is not None:
        door.close()  # or who knocks when the agent is dead would wait for an answer
    write_to(log)  # stderr too: torchelastic redirected stdout only
    outcome = work(Post(agent, pipe, spare))
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if os.getppid() != agent:
        sys.exit(EXIT_STOPPED)
    return outcome
