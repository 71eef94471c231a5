"""Which rank ended first. PContext names any of those that have failed when it looks, and ends the others itself; the
others of a killed rank fail within milliseconds, because their connection to it is gone."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType


class Deaths:
    """Watches the children `pids` of this process from now on; `first` is (pid, exit code) of the first that ended,
    the code negative for a signal. It only looks (WNOWAIT): whoever started a child still has to wait for it."""

    def __init__(self, pids: Sequence[int]) -> None:
        self.first: tuple[int, int] | None = None
        self._pids, self._parent = pids, os.getpid()
        signal.signal(signal.SIGCHLD, self._look)
        self._look()  # one may have ended before
        if self.first is None:  # or was even waited for, when another one was started: a signal has ended it then
            self.first = next(((pid, -signal.SIGKILL) for pid in pids if not _ours(pid)), None)

    def _look(self, number: int = 0, frame: FrameType | None = None) -> None:
        if self.first is not None or os.getpid() != self._parent:  # forked children inherit the handler
            return
        found: list[tuple[int, int]] = []
        for pid in self._pids:
            with suppress(ChildProcessError):
                ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if ended is not None:
                    found.append((pid, ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status))
        if found:  # of several at once, the one that a signal ended is the cause
            self.first = min(found, key=lambda death: death[1] >= 0)


def _ours(pid: int) -> bool:
    """Whether a child of this process has that number, be it a zombie."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True
