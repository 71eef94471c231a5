"""What the agent tells a rank process, and how that answers.

    agent  ---- Order: be rank R of attempt A ----->  rank
           <--- "standing": the attempt broke, I hold its newest step, and can be a rank of the next
           <--- "holding":  I hold it, and cannot
           ---- another Order, or None: save, leave ->
           <--- "done", "stopped"

A process may get its first order only later (a spare), and another one when it has outlived an attempt.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

from trainkit.protocols import Outcome

LOOK_S = 0.5  # between two looks at whether the agent lives: its other children hold the pipe open, too

Answer = Outcome | Literal["standing", "holding"]


@dataclass(frozen=True, slots=True)
class Order:
    """Be `rank` of `attempt`; `again`: it goes on from an attempt of the same command.

    place  what torchrun's environment variables say, and the GPUs of the seat
    log    where the process writes from now on
    """

    attempt: int
    rank: int
    again: bool
    place: Mapping[str, str]
    log: Path


class Post:
    """The rank's end of the connection. `spare`: no order has come yet."""

    def __init__(self, agent: int, pipe: Connection, spare: bool) -> None:
        self._agent, self._pipe, self.spare = agent, pipe, spare

    def take(self, idle: Callable[[], None] | None = None) -> Order | None:
        """Wait for the next order and carry out what it says of this process. None: there is nothing to do any more.
        `idle` is called now and then."""
        while not self._pipe.poll(LOOK_S):
            if self.orphaned:
                return None
            if idle is not None:
                idle()
        order: Order | None = self._pipe.recv()
        if order is not None:
            os.environ.update(order.place)
            write_to(order.log)
        return order

    @property
    def orphaned(self) -> bool:
        """Whether who would give the next order has died."""
        return os.getppid() != self._agent

    def tell(self, answer: Answer) -> None:
        with suppress(BrokenPipeError):  # the agent has died, which `take` notices
            self._pipe.send(answer)


def write_to(log: Path) -> None:
    """Send what this process prints to `log`: stdout and stderr, Python's and what is below it."""
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    os.close(fd)
