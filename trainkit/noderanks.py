"""The ranks of a run on several machines, which its keepers (nodes.py) start: to the agent the same as `Ranks` of one
machine. The store through which they find each other is here, on a port of its own for every attempt."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainkit.errors import CheckpointError
from trainkit.launcher._part import Part
from trainkit.launcher._ranks import DUMP_S, GLANCE_S, KILL_S, Fault, Place
from trainkit.launcher._roll import Keeper
from trainkit.launcher._wire import Message
from trainkit.lost import announce
from trainkit.nodes import Nodes
from trainkit.protocols import Outcome
from trainkit.resilience import failure
from trainkit.resilience.pulse import Pulse

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch does not list what it exports


class NodeRanks:
    """The ranks of a run, in the places of `nodes`; `first`: the first attempt of the command."""

    def __init__(self, nodes: Nodes, root: Path, first: int, pulse: Pulse) -> None:
        self._nodes, self._root, self._first, self._pulse = nodes, root, first, pulse
        self._attempt, self._asked = first, False
        self._seats: list[int] = []
        self._store: TCPStore | None = None

    def begin(self, attempt: int, again: bool, seats: Sequence[int], logs: Path) -> None:
        """An attempt with a rank in each of `seats`; `logs` is where its keepers let it write."""
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        self._attempt, self._seats, self._asked = attempt, [*seats], False
        self._nodes.roll.take_in()
        door = socket.create_server((self._nodes.host, 0), backlog=len(seats))
        address, port = self._nodes.address, door.getsockname()[1]
        self._store = TCPStore(address, port, is_master=True, wait_for_workers=False, master_listen_fd=door.detach())
        most = self._nodes.order.keepers * self._nodes.order.places
        run = {"root": str(self._root), "first": self._first, "most": most, "again": again}
        for keeper in self._mine():
            keeper.state = {}
            part = Part(*self._part(keeper, seats), len(seats), address, port)
            keeper.wire.send("begin", attempt=attempt, part=[*map(_plain, part)], **run)

    def wait(self, seconds: float) -> Outcome | Fault | failure.Failure | None:
        """As Ranks.wait; a Failure where a node is lost."""
        until = time.monotonic() + seconds
        while True:
            self._pump()
            if self._nodes.asked() and not self._asked:
                self._asked = True
                self.ask()
            if (verdict := self._verdict()) is not None or time.monotonic() > until:
                return verdict

    def _verdict(self) -> Outcome | Fault | failure.Failure | None:
        lost = [keeper for keeper in self._mine() if keeper.lost]
        if lost:
            return self._loss(lost)
        outcomes = [state.get("outcome") for state in self._states(living=False)]
        if outcomes and all(outcomes):
            return "stopped" if "stopped" in outcomes else "done"
        return self.fault()

    def announce(self) -> None:
        """As Ranks.announce."""
        if self._store is not None and (any(keeper.lost for keeper in self._mine()) or any(self._dead())):
            announce(self._store)

    def _dead(self) -> list[bool]:
        """Of each rank that has failed, whether it is."""
        return [dead for state in self._states() for _, _, dead, _ in state["faults"]]

    def fault(self) -> Fault | None:
        """The first rank that is dead, one that a signal ended before all others; where none is, one that stands by."""
        found = [
            (code >= 0, not dead, at, Fault(rank, code, keeper.host))
            for keeper in self._mine()
            for rank, code, dead, at in keeper.state.get("faults", ())
            if keeper.state.get("attempt") == self._attempt
        ]
        return min(found)[-1] if found else None

    def _loss(self, lost: Sequence[Keeper]) -> failure.Failure:
        hosts = ", ".join(dict.fromkeys(keeper.host for keeper in lost))
        gone = [rank for rank in range(len(self._seats)) if self._keeper(rank).lost]
        ranks = f"rank{'s' if len(gone) > 1 else ''} {', '.join(map(str, gone))}"
        step = max(beat.step for beat in self._pulse.all())
        told = failure.event(f"{hosts} is lost with {ranks}: {lost[0].wire.why}", None)
        told |= {"host": lost[0].host, "cause": "lost", "step": step, "log": ""}
        return failure.Failure("lost", step, told)

    def standing(self, *answers: str) -> set[int]:
        """The ranks that hold the newest step and wait; of `answers` only."""
        self._pump()
        wanted = answers or ("standing", "holding")
        return {rank for state in self._states() for answer in wanted for rank in state[answer]}

    def stopped(self) -> list[int]:
        return sorted(rank for state in self._states() for rank in state["stopped"])

    def cpu(self) -> list[float]:
        return [seconds for state in self._states() for seconds in state["cpu"]]

    def places(self) -> list[Place]:
        """As Ranks.places; of a rank whose keeper has told nothing yet, no bytes."""
        held: dict[int, tuple[int, int | None]] = {}
        for keeper in self._mine():
            numbers = sorted(self._part(keeper, self._seats)[0])
            held.update(zip(numbers, keeper.state.get("memory", ()), strict=False))
        return [Place(self._keeper(rank).host, *held.get(rank, (0, None))) for rank in range(len(self._seats))]

    def measure(self) -> None:
        """Have every machine read how busy it is."""
        for keeper in self._machines():
            keeper.load = {}
            keeper.wire.send("load")

    def loads(self) -> dict[str, Message]:
        """What those that have answered since have read, by host."""
        return {keeper.host: keeper.load for keeper in self._machines() if keeper.load}

    def _machines(self) -> list[Keeper]:
        """One keeper of each: ranks of one machine may have several."""
        return [*{keeper.host: keeper for keeper in reversed(self._mine()) if not keeper.lost}.values()]

    def alive(self) -> list[int]:
        self._pump()
        return sorted(rank for state in self._states() for rank in state["alive"])

    def staying(self, seats: Sequence[int], blamed: int | None) -> list[int]:
        """The ranks that can be the same ranks of an attempt in `seats`: they stand by, on the same machine, and their
        device stays theirs. Not the one that is to blame."""
        willing = self.standing("standing") & {*range(len(seats))} - {blamed}
        return [rank for rank in willing if self._place(rank, self._seats) == self._place(rank, seats)]

    def _place(self, rank: int, seats: Sequence[int]) -> tuple[int, int, Sequence[int]]:
        keeper = self._nodes.keeper_of(seats[rank])
        ranks, local, places = self._part(keeper, seats)
        return keeper.number, local[ranks.index(rank)], places

    def _part(self, keeper: Keeper, seats: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
        """Numbers, local numbers and places, for `Part`, of the ranks that `keeper` starts. Ranks of one machine may
        have several keepers: a task each."""
        keepers = [self._nodes.keeper_of(seat) for seat in seats]
        here = [rank for rank, other in enumerate(keepers) if other.host == keeper.host]
        mine = [rank for rank in here if keepers[rank] is keeper]
        taken = [keepers[rank].slot + seats[rank] % self._nodes.order.places for rank in here]
        return mine, [here.index(rank) for rank in mine], taken

    def kill(self, rank: int) -> None:
        """End one at once."""
        self._keeper(rank).wire.send("kill", attempt=self._attempt, rank=rank)

    def dump_stacks(self) -> None:
        self._all("dump", "dumped", DUMP_S + 2)

    def ask(self) -> None:
        """Ask them to save and leave."""
        self._nodes.tell("ask", attempt=self._attempt)

    def release(self, ranks: Collection[int]) -> None:
        """Tell those of `ranks` that stand by that they are to save what they hold, and leave."""
        self._nodes.tell("release", attempt=self._attempt, ranks=[*ranks])
        for state in self._states():
            for answer in ("standing", "holding"):
                state[answer] = [rank for rank in state[answer] if rank not in ranks]

    def keep(self, ranks: Collection[int]) -> None:
        """End whatever is left but `ranks`. A keeper that cannot is as good as lost."""
        for keeper in self._all("keep", "kept", KILL_S + 10, ranks=[*ranks]):
            keeper.wire.close("its ranks could not be ended")

    def warm_up(self) -> None:
        """Its keepers fork the ranks, and see to that."""

    def gone(self) -> list[int]:
        """The places of machines that are lost for good."""
        return self._nodes.roll.gone()

    @property
    def renews(self) -> bool:
        """Whether others come in the place of machines that are lost, or that are to leave."""
        return self._nodes.order.renews

    @property
    def broken(self) -> bool:
        """Whether these are to be let go for others."""
        return self.renews and self._nodes.roll.broken

    def renew(self, asked: Callable[[], bool]) -> list[int]:
        """Go on with other machines; the places that are there then. Raises TrainkitError."""
        return self._nodes.renew(asked)

    def idle(self, seconds: float) -> None:
        """Let time pass, in which the keepers see that the agent is there."""
        self._nodes.pump(seconds)

    def end(self) -> None:
        self.keep(())
        self._store = None

    def on_all(self, task: str, **about: Any) -> list[Any]:
        """Have the keepers that are left do something with the run's snapshots (checkpoint/leaving.py), however long
        that takes; what each answers."""
        self._all("memory", "memory", math.inf, root=str(self._root), task=task, about=about)
        answers = [news for keeper in self._nodes.roll for news in keeper.news if news["what"] == "memory"]
        for answer in answers:
            if "error" in answer:
                raise CheckpointError(answer["error"])
        return [answer["result"] for answer in answers]

    def _keeper(self, rank: int) -> Keeper:
        return self._nodes.keeper_of(self._seats[rank])

    def _mine(self) -> list[Keeper]:
        """The keepers that have ranks in this attempt."""
        numbers = dict.fromkeys(self._nodes.keeper_of(seat).number for seat in self._seats)
        return [self._nodes.roll.keepers[number] for number in numbers]

    def _states(self, living: bool = True) -> list[Message]:
        """What the keepers have last told of this attempt; without those that are lost, if only of the `living`. Of one
        that has not spoken yet, nothing is known: {}."""
        mine = [keeper for keeper in self._mine() if not (living and keeper.lost)]
        states = [keeper.state if keeper.state.get("attempt") == self._attempt else {} for keeper in mine]
        return [state for state in states if state] if living else states

    def _pump(self) -> None:
        self._nodes.pump(GLANCE_S)
        now = time.monotonic()
        for state in self._states():
            for rank, step, section, waited, age in state["beats"]:
                self._pulse.beat(rank, step, section, waited, now - age)

    def _all(self, order: str, answer: str, seconds: float, **more: Any) -> list[Keeper]:
        """Have all keepers do something; those that have not answered in time."""
        left = [keeper for keeper in self._nodes.roll if keeper.there]
        for keeper in self._nodes.roll:
            keeper.news = []
        self._nodes.tell(order, attempt=self._attempt, **more)
        until = time.monotonic() + seconds
        while left and time.monotonic() < until:
            self._nodes.pump(GLANCE_S)
            left = [k for k in left if not k.lost and all(news["what"] != answer for news in k.news)]
        return left


def _plain(value: Any) -> Any:
    """As JSON has it."""
    return value if isinstance(value, int | str) else [*value]
