"""Waiting for other ranks, which ends when one of them is dead.

gloo wakes most of those who wait for a rank when its connection closes, but not all: in torch 2.13
Pair::signalException (gloo/transport/tcp/pair.cc) leaves out a message of which a part has come, and what could not be
sent any more. A broadcast hangs in this way as a rule, a gather now and then, a sum never; it ends with the group's
timeout, ten minutes or more. So the wait is left to a thread, and is given up when the agent says that a rank is dead.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Thread

from trainkit.lost import Lookout

LOOK_S = 0.5  # between two looks at whether a rank is dead
GIVEN_UP = "a rank is dead, and gloo does not end the wait for it"
GRACE_S = 0.5  # in which what all have sent arrives: who is dead may have taken part


class Patience:
    """That of one rank in one attempt."""

    def __init__(self, lookout: Lookout | None = None) -> None:
        self._lookout = lookout or Lookout()

    def __call__(self, wait: Callable[[], object]) -> None:
        """Do `wait`, in which other ranks take part. Raises ConnectionError if it does not end because one is dead: its
        thread is left alone then, and keeps its connections and tensors until gloo's own timeout."""
        faults: list[BaseException] = []

        def work() -> None:
            try:
                wait()
            except BaseException as fault:  # raised below
                faults.append(fault)

        thread = Thread(target=work, name="collective", daemon=True)
        thread.start()
        thread.join(LOOK_S)
        while thread.is_alive():
            dead = self._lookout.lost()
            thread.join(GRACE_S if dead else LOOK_S)
            if dead and thread.is_alive():
                raise ConnectionError(GIVEN_UP)
        if faults:
            raise faults[0]
