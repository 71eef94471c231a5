"""Starts and watches the ranks of one node for the agent of the run, which is on another (see nodes.py).

    keeper PORT PLACES LEASE ADDRESS ...     a task of srun, one per node; with one per rank, one of several here

It calls the agent back, imports torch once, and forks ranks as often as it is told to. Whoever the scheduler signals
(SIGTERM, SIGUSR1 or SIGUSR2 to all tasks): every keeper asks its ranks to save and leave, and lives on. If the agent is
gone, or not heard of for LEASE seconds, nobody may know of these ranks any more: they are ended at once.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from trainkit import main as rank
from trainkit.errors import EXIT_DONE, EXIT_FAILED
from trainkit.launcher import _address
from trainkit.launcher._order import TOKEN
from trainkit.launcher._ranks import GLANCE_S, Death, Part, Ranks
from trainkit.launcher._warm import warm_up
from trainkit.launcher._wire import Message, Wire
from trainkit.protocols import Outcome
from trainkit.resilience.pulse import Pulse
from trainkit.runfolder import RunFolder

STATE_S, CONNECT_S, KNOCKS = 0.1, 5.0, 3


def main(words: Sequence[str]) -> int:
    """Keep ranks until the agent says that it is over, or is gone."""
    rank.stop.install()  # the ranks inherit the flag, so that a signal during the imports is not lost
    port, places, lease, *addresses = words
    call = reach([*addresses], int(port))
    if call is None:
        sys.stderr.write(f"{socket.gethostname()} cannot reach the agent at {' or '.join(addresses)}, port {port}\n")
        return EXIT_FAILED
    wire, reaches = call
    card = _address.card_of(wire.own_address)
    if card is not None:  # gloo would take the card that the host's name stands for, which may be the loopback
        os.environ.setdefault("GLOO_SOCKET_IFNAME", card)
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # torch counts GPUs without touching CUDA before the fork
    me = {"number": int(os.environ["SLURM_PROCID"]), "host": os.environ.get("SLURMD_NODENAME") or socket.gethostname()}
    slot = int(os.environ.get("SLURM_LOCALID", "0")) * int(places)
    wire.send("hello", token=os.environ.pop(TOKEN), slot=slot, reaches=reaches, **me)
    return Keeper(wire, float(lease)).serve()


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


@dataclass
class Crew:
    """The ranks of one attempt that are here. `settled`: the agent knows how they ended; `asked`: to save and leave."""

    attempt: int
    numbers: Sequence[int]
    ranks: Ranks
    pulse: Pulse
    settled: bool = False
    asked: bool = False

    def state(self) -> dict[str, list[object]]:
        now, beats = time.monotonic(), [(number, self.pulse.read(number)) for number in self.numbers]
        return {
            "beats": [[number, beat.step, beat.section, now - beat.at] for number, beat in beats],
            "alive": [self.numbers[index] for index in self.ranks.alive()],
            "stopped": [self.numbers[index] for index in self.ranks.stopped()],
        }


class Keeper:
    """Does what the agent says, and tells it how the ranks are."""

    def __init__(self, wire: Wire, lease: float) -> None:
        self.wire, self.lease = wire, lease
        self.crew: Crew | None = None
        self.told_at = 0.0
        self.warming: Iterator[None] = iter(())

    def serve(self) -> int:
        import torch.distributed.elastic.multiprocessing  # noqa: F401  # the slow part

        self.wire.receive()  # how long that took says nothing of the agent
        self.wire.heard = time.monotonic()
        self.wire.send("ready")
        try:
            while True:
                for message in self.wire.receive():
                    if message["what"] == "leave":
                        return EXIT_DONE
                    self.obey(message)
                if self.wire.closed or self.wire.silence() > self.lease:
                    return EXIT_FAILED
                self.look()
        finally:
            self.end()

    def obey(self, message: Message) -> None:
        what, crew = message["what"], self.crew
        if what == "start":
            self.start(message)
        elif what == "end":
            self.end()
            self.wire.send("cleared", attempt=message["attempt"])
        elif crew is None or message.get("attempt") != crew.attempt:
            return
        elif what == "ask":
            crew.ranks.ask()
        elif what == "dump":
            crew.ranks.dump_stacks()
            self.wire.send("dumped", attempt=crew.attempt)

    def start(self, message: Message) -> None:
        folder, attempt, part = RunFolder(Path(message["root"])), message["attempt"], Part(*message["part"])
        logs, pulse = folder.logs(attempt), Pulse(part.size)
        logs.mkdir(parents=True, exist_ok=True)  # a network disk may not show it here yet
        work = partial(rank.work, message["root"], attempt, message["again"], pulse)
        self.crew = Crew(attempt, part.ranks, Ranks(range(len(part.ranks)), logs, work, part), pulse)
        if not message["again"]:
            self.warming = warm_up(folder.modules(attempt))

    def look(self) -> None:
        crew = self.crew
        if crew is None:
            time.sleep(GLANCE_S)
            return
        if rank.stop.raised and not crew.asked:
            crew.asked = True
            crew.ranks.ask()
        if crew.settled:
            time.sleep(GLANCE_S)
        elif (outcome := crew.ranks.wait(STATE_S)) is None:
            next(self.warming, None)
        else:
            crew.settled = True
            self.report(crew, outcome)
        if time.monotonic() - self.told_at > STATE_S:
            self.told_at = time.monotonic()
            self.wire.send("state", attempt=crew.attempt, **crew.state())

    def report(self, crew: Crew, outcome: Outcome | Death) -> None:
        if isinstance(outcome, Death):
            number = crew.numbers[outcome.rank]
            self.wire.send("death", attempt=crew.attempt, rank=number, exit_code=outcome.exit_code)
        else:
            self.wire.send("outcome", attempt=crew.attempt, outcome=outcome)

    def end(self) -> None:
        if self.crew is not None:
            self.crew.ranks.end()
            self.crew = None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
