"""Being asked to stop. A handler only raises a flag; the ranks agree on it at a step boundary (Trainer.fit)."""

from __future__ import annotations

import signal
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class StopFlag:
    """Raised by any of SIGNALS once `install` was called; never lowered."""

    def __init__(self) -> None:
        self.raised = False

    def install(self) -> None:
        for number in SIGNALS:
            signal.signal(number, self._raise)

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self.raised = True
