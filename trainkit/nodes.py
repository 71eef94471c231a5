"""The ranks of a run on several machines, for the agent, which is on the first one.

    agent --srun--> a keeper per node (or per rank), which calls back over TCP (trainkit/keeper.py)
    agent --------> keepers    start (an attempt), ask (to save and leave), dump (stacks), end; and a sign of life
    keepers ------> agent      where every rank is, who has ended and how

`Nodes` lasts as long as the command: keepers stay from one attempt to the next, with torch imported. `NodeRanks` is one
attempt, and to the agent the same as `Ranks` of one machine. The store through which the ranks find each other is
here, on a port of its own for every attempt.

A node that is not heard of for `lost_s` is lost, and so is one whose keeper has ended. Its keeper, which may still be
alive behind a cut cable, ends its ranks before that (LEASE of that time), so that no two attempts write.
"""

from __future__ import annotations

import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainkit.errors import TrainkitError
from trainkit.launcher import _address
from trainkit.launcher._order import TOKEN, Order
from trainkit.launcher._ranks import DUMP_S, GLANCE_S, KILL_S, Death
from trainkit.launcher._wire import Message, Wire
from trainkit.protocols import Outcome
from trainkit.resilience import failure
from trainkit.resilience.pulse import Pulse

PING_S, START_S, LEASE = 1.0, 300.0, 0.6
TOGETHER_S = 0.3
"""What follows from a rank's death shows on other machines within this time: of all that, a signal is the cause."""


@dataclass
class Keeper:
    """One of them, as it is seen from here. `slot`: the first of its places on its machine."""

    number: int
    host: str
    slot: int
    wire: Wire
    reaches: Sequence[str]
    ready: bool = False
    state: Message = field(default_factory=dict)
    news: list[Message] = field(default_factory=list)

    @property
    def lost(self) -> bool:
        return self.wire.closed


class Nodes:
    """The keepers of a run; raises TrainkitError unless all of them call back."""

    def __init__(self, order: Order, asked: Callable[[], bool]) -> None:
        self.order, self.asked = order, asked
        self._token, self._pinged = secrets.token_hex(16), 0.0
        self._door = socket.create_server(("", 0), backlog=order.keepers)
        self._strangers: list[Wire] = []
        self.keepers: dict[int, Keeper] = {}
        self.why: dict[int, str] = {}
        self._addresses = _address.candidates(alone=order.keepers == 1)
        self._start = self._begin()
        try:
            self._gather()
        except BaseException:
            self.close()
            raise
        self.address = self._meeting_place()

    def _begin(self) -> subprocess.Popen[bytes]:
        around = os.environ | {TOKEN: self._token}
        if around.get("GLOO_SOCKET_IFNAME") == "lo":  # the agent's own, for one machine
            del around["GLOO_SOCKET_IFNAME"]
        port, lease = str(self._door.getsockname()[1]), str(self.order.lost_s * LEASE)
        words = [sys.executable, "-m", "trainkit.keeper", port, str(self.order.places), lease, *self._addresses]
        # In a session of its own: srun passes signals on, and each kind means something else to it.
        return subprocess.Popen(
            [*self.order.start, *words], env=around, stdin=subprocess.DEVNULL, start_new_session=True
        )

    def _gather(self) -> None:
        until = time.monotonic() + START_S
        while sum(keeper.ready for keeper in self.keepers.values()) < self.order.keepers:
            self.pump(GLANCE_S)
            ended = self._start.poll()
            lost = any(keeper.lost for keeper in self.keepers.values())
            if ended is not None or time.monotonic() > until or lost:
                there = ", ".join(keeper.host for keeper in self.keepers.values()) or "none"
                how = (
                    f"{self.order.start[0]} ended with {ended}" if ended is not None else "they were not ready in time"
                )
                raise TrainkitError(
                    f"{len(self.keepers)} of {self.order.keepers} tasks called back ({there}): {how}\n"
                    f"    they were to reach {' or '.join(self._addresses)}; what they said is in agent.log"
                )
            if self.asked():
                raise TrainkitError("it was asked to stop before its tasks were up")

    def _meeting_place(self) -> str:
        """An address of this machine that every keeper has reached."""
        common = [a for a in self._addresses if all(a in keeper.reaches for keeper in self.keepers.values())]
        if common:
            return common[0]
        told = "; ".join(f"{keeper.host} reached {', '.join(keeper.reaches)}" for keeper in self.keepers.values())
        self.close()
        raise TrainkitError(f"no address of {socket.gethostname()} is reached by all nodes: {told}")

    def pump(self, seconds: float) -> None:
        """Take what comes within `seconds`, and let the keepers know that the agent is alive."""
        if time.monotonic() - self._pinged > PING_S:
            self._pinged = time.monotonic()
            self.tell("ping")
        alive = [keeper.wire for keeper in self.keepers.values() if not keeper.lost]
        doors = [self._door.fileno(), *(wire.fileno() for wire in (*self._strangers, *alive))]
        ready, _, _ = select.select(doors, [], [], seconds)
        if self._door.fileno() in ready:
            self._strangers.append(Wire(self._door.accept()[0]))
        for wire in [wire for wire in self._strangers if wire.fileno() in ready]:
            self._welcome(wire, wire.receive())
        for keeper in self.keepers.values():
            for message in keeper.wire.receive():
                if message["what"] == "state":
                    keeper.state = message
                elif message["what"] == "ready":
                    keeper.ready = True
                else:
                    keeper.news.append(message)
            # Until it is ready it imports torch, which takes minutes from a slow disk, and says nothing.
            if keeper.ready and not keeper.lost and keeper.wire.silence() > self.order.lost_s:
                keeper.wire.close()
                self.why[keeper.number] = f"nothing was heard of it for {self.order.lost_s:.0f} s"

    def _welcome(self, wire: Wire, messages: Sequence[Message]) -> None:
        for hello in messages[:1]:
            self._strangers.remove(wire)
            if secrets.compare_digest(str(hello.get("token")), self._token):
                number = int(hello["number"])
                self.keepers[number] = Keeper(number, hello["host"], hello["slot"], wire, hello["reaches"])
            else:
                wire.close()
        if wire.closed and wire in self._strangers:
            self._strangers.remove(wire)

    def tell(self, what: str, **fields: Any) -> None:
        """The same to all keepers."""
        for keeper in self.keepers.values():
            keeper.wire.send(what, **fields)

    def keeper_of(self, seat: int) -> Keeper:
        return self.keepers[seat // self.order.places]

    def gone(self) -> list[int]:
        """The places of the nodes that are lost."""
        places = self.order.places
        lost = [keeper.number for keeper in self.keepers.values() if keeper.lost]
        return [seat for number in lost for seat in range(number * places, (number + 1) * places)]

    def close(self) -> None:
        """Let the keepers go, and wait until they have."""
        self.tell("leave")
        try:
            self._start.wait(3.0 if any(keeper.lost for keeper in self.keepers.values()) else KILL_S)
        except subprocess.TimeoutExpired:
            self._start.send_signal(signal.SIGTERM)  # to srun: end all tasks at once
            try:
                self._start.wait(KILL_S)
            except subprocess.TimeoutExpired:
                self._start.kill()
        for keeper in self.keepers.values():
            keeper.wire.close()
        self._door.close()


class NodeRanks:
    """The ranks of one attempt, in the places `seats` of `nodes`."""

    def __init__(self, nodes: Nodes, seats: Sequence[int], attempt: int, again: bool, root: Path, pulse: Pulse) -> None:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch does not list what it exports

        self._nodes, self._attempt, self._pulse, self._asked = nodes, attempt, pulse, False
        self._deaths: list[tuple[Death, float]] = []
        self._ended: dict[int, Outcome] = {}
        self._keepers = {rank: nodes.keeper_of(seat) for rank, seat in enumerate(seats)}
        self._mine = {keeper.number: keeper for keeper in self._keepers.values()}
        door = socket.create_server(("", 0), backlog=len(seats))
        port = door.getsockname()[1]
        # torch looks the name up again: an address needs no resolver.
        self._store = TCPStore(
            nodes.address, port, is_master=True, wait_for_workers=False, master_listen_fd=door.detach()
        )
        for keeper in self._mine.values():
            keeper.state, keeper.news = {}, []
            part = _part(keeper, self._keepers, seats, nodes.order.places)
            size = {"size": len(seats), "address": nodes.address, "port": port}
            keeper.wire.send("start", root=str(root), attempt=attempt, again=again, part=[*part, *size.values()])

    def wait(self, seconds: float) -> Outcome | Death | failure.Failure | None:
        """As Ranks.wait; a Failure where a node is lost."""
        until = time.monotonic() + seconds
        while True:
            self._pump()
            if self._nodes.asked() and not self._asked:
                self._asked = True
                self.ask()
            if (verdict := self._verdict()) is not None or time.monotonic() > until:
                return verdict

    def _pump(self) -> None:
        self._nodes.pump(GLANCE_S)
        now = time.monotonic()
        for keeper in self._mine.values():
            if keeper.state.get("attempt") == self._attempt:
                for rank, step, section, age in keeper.state["beats"]:
                    self._pulse.beat(rank, step, section, now - age)
            for news in [news for news in keeper.news if news.get("attempt") == self._attempt]:
                if news["what"] == "death":
                    keeper.news.remove(news)
                    self._deaths.append((Death(news["rank"], news["exit_code"], keeper.host), now))
                elif news["what"] == "outcome":
                    keeper.news.remove(news)
                    self._ended[keeper.number] = news["outcome"]

    def _verdict(self) -> Outcome | Death | failure.Failure | None:
        lost = [keeper for keeper in self._mine.values() if keeper.lost]
        if lost:
            return self._loss(lost)
        if self._deaths:
            (first, at) = min(self._deaths, key=lambda death: (death[0].exit_code >= 0, death[1]))
            return first if time.monotonic() - at > TOGETHER_S else None
        if len(self._ended) == len(self._mine):
            return "stopped" if "stopped" in self._ended.values() else "done"
        return None

    def _loss(self, lost: Sequence[Keeper]) -> failure.Failure:
        why = self._nodes.why.get(lost[0].number, "the connection to it is closed")
        hosts = ", ".join(dict.fromkeys(keeper.host for keeper in lost))
        gone = [rank for rank, keeper in self._keepers.items() if keeper.lost]
        ranks = f"rank{'s' if len(gone) > 1 else ''} {', '.join(map(str, gone))}"
        step = max(beat.step for beat in self._pulse.all())
        told = failure.event(f"{hosts} is lost with {ranks}: {why}", None)
        told |= {"host": lost[0].host, "cause": "lost", "step": step, "log": ""}
        return failure.Failure("lost", step, told)

    def stopped(self) -> list[int]:
        return self._told("stopped")

    def alive(self) -> list[int]:
        self._pump()
        return self._told("alive")

    def _told(self, what: str) -> list[int]:
        states = [k.state for k in self._mine.values() if not k.lost and k.state.get("attempt") == self._attempt]
        return sorted(rank for state in states for rank in state[what])

    def dump_stacks(self) -> None:
        self._all("dump", "dumped", DUMP_S + 2)

    def ask(self) -> None:
        """Ask them to save and leave."""
        self._nodes.tell("ask", attempt=self._attempt)

    def end(self) -> None:
        """End whatever is left of them. A keeper that cannot is as good as lost."""
        for keeper in self._all("end", "cleared", KILL_S + 10):
            keeper.wire.close()
            self._nodes.why[keeper.number] = "its ranks could not be ended"
        del self._store

    def _all(self, order: str, answer: str, seconds: float) -> list[Keeper]:
        """Have all keepers do something; those that have not answered in time."""
        self._nodes.tell(order, attempt=self._attempt)
        until, left = time.monotonic() + seconds, [*self._mine.values()]
        while left and time.monotonic() < until:
            self._nodes.pump(GLANCE_S)
            left = [k for k in left if not k.lost and all(news["what"] != answer for news in k.news)]
        return left


def _part(
    keeper: Keeper, keepers: Mapping[int, Keeper], seats: Sequence[int], places: int
) -> tuple[list[int], list[int], list[int]]:
    """Numbers, local numbers and places, for `Part`, of the ranks that `keeper` starts. Ranks of one machine may have
    several keepers: a task each."""
    here = [rank for rank, other in keepers.items() if other.host == keeper.host]
    mine = [rank for rank in here if keepers[rank] is keeper]
    taken = [keepers[rank].slot + seats[rank] % places for rank in here]
    return mine, [here.index(rank) for rank in mine], taken
