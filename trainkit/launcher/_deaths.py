"""Which rank failed first. torchelastic looks ten times a second and names any of those that have failed by then; the
others of a killed rank fail within milliseconds, because their connection to it is gone."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from types import FrameType

import psutil


class Deaths:
    """Watches the children of this process from now on; `first` is (pid, exit code) of the first that ended badly,
    the code negative for a signal. It only looks (WNOWAIT): whoever started a child still has to wait for it."""

    def __init__(self) -> None:
        self.first: tuple[int, int] | None = None
        self._pid = os.getpid()
        signal.signal(signal.SIGCHLD, self._look)

    def _look(self, number: int, frame: FrameType | None) -> None:
        if self.first is not None or os.getpid() != self._pid:  # forked children inherit the handler
            return
        found: list[tuple[int, int]] = []
        for child in psutil.Process().children():
            with suppress(ChildProcessError):
                ended = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
                if ended is not None and ended.si_status != 0:
                    exited = ended.si_code == os.CLD_EXITED
                    found.append((child.pid, ended.si_status if exited else -ended.si_status))
        if found:  # of several at once, the one that a signal ended is the cause
            self.first = min(found, key=lambda death: death[1] >= 0)
