"""Starts and watches the ranks of one node for the agent of the run, which is on another (see nodes.py).

    keeper PORT PLACES LEASE ADDRESS ...     a task of srun, one per node; with one per rank, one of several here
    guest.py                                 a command that comes by itself, where there is no scheduler

It calls the agent back, imports torch once, and forks ranks as often as it is told to. Whoever the scheduler signals
(SIGTERM, SIGUSR1 or SIGUSR2 to all tasks): every keeper asks its ranks to save and leave, and lives on. If the agent is
gone, or not heard of for LEASE seconds, nobody may know of these ranks any more: they are ended at once.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from trainkit import rank
from trainkit.checkpoint import leaving
from trainkit.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED
from trainkit.launcher import _address
from trainkit.launcher._meter import Meter
from trainkit.launcher._order import TOKEN
from trainkit.launcher._part import Part
from trainkit.launcher._ranks import GLANCE_S, Fault, Ranks
from trainkit.launcher._seat import Seat
from trainkit.launcher._wire import CONNECT_S, Message, Wire
from trainkit.main import stop
from trainkit.protocols import Outcome
from trainkit.resilience.pulse import Pulse
from trainkit.runfolder import RunFolder

STATE_S, BEAT_S, KNOCKS = 0.1, 1.0, 3
ANSWER_S = 30.0  # the agent looks at its door many times a second, unless its machine is at a standstill
NO_ANSWER = "the agent does not answer"


def main(words: Sequence[str]) -> int:
    """Keep ranks until the agent says that it is over, or is gone."""
    stop.install()  # the ranks inherit the flag, so that a signal during the imports is not lost
    port, places, lease, *addresses = words
    token = os.environ.pop(TOKEN, None)
    if token is None:
        why = "what started this did not pass its environment on"
        sys.stderr.write(f"{socket.gethostname()}: {TOKEN} is not set here: {why}\n")
        return EXIT_FAILED
    call = reach([*addresses], int(port))
    if call is None:
        sys.stderr.write(f"{socket.gethostname()} cannot reach the agent at {' or '.join(addresses)}, port {port}\n")
        return EXIT_FAILED
    wire, reaches = call
    if refused := introduce(wire, token, Seat.here(), int(places), reaches):
        sys.stderr.write(f"{socket.gethostname()} is not taken: {refused}\n")
        return EXIT_FAILED
    return Keeper(wire, float(lease)).serve()


def introduce(wire: Wire, token: str, seat: Seat, places: int, reaches: Sequence[str]) -> str:
    """Tell the agent who this is; why it takes no keeper that is, or an empty text."""
    slot = seat.slot * places
    group = {"group": seat.group, "size": seat.size}
    wire.send("hello", token=token, number=seat.number, host=seat.host, slot=slot, reaches=reaches, **group)
    while not wire.closed and wire.silence() < ANSWER_S:
        if said := wire.receive():
            return str(said[0]["why"]) if said[0]["what"] == "refused" else ""
        time.sleep(GLANCE_S)
    return NO_ANSWER


def reach(addresses: Sequence[str], port: int) -> tuple[Wire, list[str]] | None:
    """A connection to the agent, and under which of `addresses` it can be reached; None for none."""
    doors: dict[str, socket.socket] = {}
    for _ in range(KNOCKS):
        for address in addresses:
            try:
                doors[address] = socket.create_connection((address, port), CONNECT_S)
            except OSError:  # a network that this machine has no part in
                continue
        if doors:
            (_, taken), *others = doors.items()
            for _, door in others:
                door.close()
            return Wire(taken), [*doors]
    return None


class Keeper:
    """Does what the agent says, and tells it how the ranks are."""

    def __init__(self, wire: Wire, lease: float) -> None:
        self.wire, self.lease = wire, lease
        self.crew: Ranks | None = None
        self.meter = Meter(disk=None)
        self.pulse, self.attempt, self.numbers = Pulse(1), 0, list[int]()
        self.faults: dict[int, float] = {}
        self.outcome: Outcome | None = None
        self.told: Mapping[str, object] = {}
        self.told_at, self.asked = 0.0, False
        self.moving: Future[dict[str, Any]] | None = None

    def serve(self) -> int:
        card = _address.card_of(self.wire.own_address)
        if card is not None:  # gloo would take the card that the host's name stands for, which may be the loopback
            os.environ.setdefault("GLOO_SOCKET_IFNAME", card)
        os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # torch counts GPUs without touching CUDA before the fork

        import torch.distributed.elastic.multiprocessing  # noqa: F401  # the slow part

        self.wire.receive()  # how long that took says nothing of the agent
        self.wire.heard = time.monotonic()
        self.wire.send("ready")
        try:
            while True:
                for message in self.wire.receive():
                    if message["what"] == "leave":
                        return EXIT_STOPPED if message["again"] else EXIT_DONE
                    self.obey(message)
                if self.wire.closed or self.wire.silence() > self.lease:
                    return EXIT_FAILED
                self.look()
        finally:
            if self.crew is not None:
                self.crew.end()

    def obey(self, message: Message) -> None:
        what = message["what"]
        if what == "begin":
            self.begin(message)
        elif what == "ping":
            if not self.numbers:  # else how the ranks are is told as often
                self.wire.send("alive")
        elif what == "load":
            self.wire.send("load", load=self.meter.read())
        elif what == "keep":
            self.keep({*message["ranks"]})
            self.wire.send("kept")
        elif what == "memory":
            work = partial(leaving.perform, RunFolder(Path(message["root"])), message["task"], message["about"])
            self.moving = ThreadPoolExecutor(1).submit(work)  # it may take long, and the agent wants signs of life
        elif self.crew is None or message.get("attempt") != self.attempt or not self.numbers:
            return
        elif what == "ask":
            self.crew.ask()
        elif what == "release":
            self.crew.release({*message["ranks"]} & {*self.numbers})
        elif what == "kill":
            self.crew.kill(message["rank"])
        elif what == "dump":
            self.crew.dump_stacks()
            self.wire.send("dumped")

    def begin(self, message: Message) -> None:
        folder, part = RunFolder(Path(message["root"])), Part(*message["part"])
        self.attempt, self.numbers = message["attempt"], [*part.ranks]
        self.faults, self.outcome, self.asked = {}, None, False
        logs = folder.logs(self.attempt)
        logs.mkdir(parents=True, exist_ok=True)  # a network disk may not show it here yet
        if self.crew is None:
            self.pulse = Pulse(message["most"])
            work = partial(rank.work, message["root"], message["first"], self.pulse, kept=True)
            self.crew = Ranks(work, spares=0, noted=folder.modules(message["first"]))
        self.pulse.begin(part.size)
        self.crew.begin_part(self.attempt, message["again"], part, logs)

    def keep(self, ranks: set[int]) -> None:
        if self.crew is not None:
            kept = ranks & {*self.numbers}
            self.crew.keep(kept)
            self.numbers = sorted(kept)

    def look(self) -> None:
        if self.moving is not None and self.moving.done():
            self.wire.send("memory", **self.moving.result())
            self.moving = None
        if self.crew is None or not self.numbers:
            time.sleep(GLANCE_S)
            return
        if stop.raised and not self.asked:
            self.asked = True
            self.crew.ask()
        if self.faults or self.outcome is not None:
            time.sleep(GLANCE_S)
        elif (outcome := self.crew.wait(STATE_S)) is None:
            self.crew.warm_up()
        elif not isinstance(outcome, Fault):
            self.outcome = outcome
        if (late := time.monotonic() - self.told_at) > STATE_S:
            self.tell(self.crew, late > BEAT_S)

    def tell(self, crew: Ranks, late: bool) -> None:
        """Tell the agent how the ranks are, at once if that is news, else when it is `late`: there may be a thousand
        keepers."""
        state = {"attempt": self.attempt, "outcome": self.outcome, **self.state(crew)}
        if late or state != self.told:
            self.told, self.told_at = state, time.monotonic()
            self.wire.send("state", **state, **self.pace(crew))

    def pace(self, crew: Ranks) -> dict[str, object]:
        """How far the ranks are, and what they have used."""
        now, beats = time.monotonic(), [(number, self.pulse.read(number)) for number in self.numbers]
        return {
            "beats": [[number, beat.step, beat.section, beat.waited, now - beat.at] for number, beat in beats],
            "cpu": crew.cpu(),
            "memory": [[place.memory, place.gpu] for place in crew.places()],
        }

    def state(self, crew: Ranks) -> dict[str, object]:
        """How the ranks are; of one that has failed, since when that is known."""
        standing, holding = crew.standing("standing"), crew.standing("holding")
        faults = []
        if self.outcome is None and (fault := crew.fault()) is not None:
            since = self.faults.setdefault(fault.rank, time.time())
            faults.append([fault.rank, fault.exit_code, fault.rank not in standing | holding, since])
        return {
            "alive": crew.alive(),
            "stopped": crew.stopped(),
            "standing": [*standing],
            "holding": [*holding],
            "faults": faults,
        }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
