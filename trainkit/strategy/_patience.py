"""Waiting for other ranks, which ends when one of them is dead.

gloo wakes most of those who wait for a rank when its connection closes, but not all: in torch 2.13
Pair::signalException (gloo/transport/tcp/pair.cc) leaves out a message of which a part has come, and what could not be
sent any more. A broadcast of much hangs in this way as a rule, what is small now and then; it ends with the group's
timeout, ten minutes or more. So the wait is given up when the agent says that a rank is dead.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from threading import Thread

import torch.distributed as dist

from trainkit.lost import Lookout

LOOK_S = 0.5  # between two looks at whether a rank is dead
GRACE_S = 0.5  # in which what all have sent arrives: who is dead may have taken part
GIVEN_UP = "a rank is dead, and gloo does not end the wait for it"

_LEFT: list[dist.ProcessGroup | None] = []
"""Groups in which a wait was given up, while this process lives: one that nobody holds waits for its threads to end."""


class Patience:
    """That of one rank in one attempt."""

    def __init__(self, lookout: Lookout | None = None) -> None:
        self._lookout = lookout or Lookout()

    def __call__(self, work: dist.Work | None, group: dist.ProcessGroup | None = None) -> None:
        """Wait until a collective of tensors in host memory, begun in `group` (None: torch's default), is done. `work`:
        None where there is nothing to wait for. Raises RuntimeError, as gloo does, if it does not end because a rank is
        dead."""
        if work is not None:
            self._wait(lambda seconds: _ended(work, seconds), group)

    def beside(self, wait: Callable[[], object], group: dist.ProcessGroup | None) -> None:
        """The same for what is sent between two: gloo closes all connections when such a wait times out, so it is left
        to a thread."""
        faults: list[BaseException] = []

        def work() -> None:
            try:
                wait()
            except BaseException as fault:  # raised below
                faults.append(fault)

        def ended(seconds: float) -> bool:
            thread.join(seconds)
            return not thread.is_alive()

        thread = Thread(target=work, name="exchange", daemon=True)
        thread.start()
        self._wait(ended, group)
        if faults:
            raise faults[0]

    def _wait(self, ended: Callable[[float], bool], group: dist.ProcessGroup | None) -> None:
        while not ended(LOOK_S):
            if self._lookout.lost() and not ended(GRACE_S):
                _LEFT.append(group or dist.group.WORLD)
                raise RuntimeError(GIVEN_UP)


def _ended(work: dist.Work, seconds: float) -> bool:
    """Whether it ends in that time; raises what it failed with."""
    try:
        work.wait(timedelta(seconds=seconds))
    except RuntimeError:
        if not work.is_completed():
            return False
        work.wait()  # it may have ended just now: raises if it has failed
    return True
