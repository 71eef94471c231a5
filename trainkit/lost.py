"""How the ranks of an attempt learn that one of them is dead, where their connections do not tell: the agent sets a key
in the store through which they have met, and who has waited for the others for a while looks for it."""

from __future__ import annotations

import os
from datetime import timedelta
from threading import Lock, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch does not list what it exports

KEY = "trainkit/lost"
CONNECT, ANSWER_S = timedelta(seconds=3), 0.5


def announce(store: TCPStore) -> None:
    """Tell the ranks that have met through `store` that one of them is dead."""
    store.set(KEY, "1")


class Lookout:
    """A rank's own connection to the store that torchrun's environment variables name, made when it first asks: torch's
    may be waiting for an answer. An agent that does not answer says nothing of the ranks, and holds nobody up."""

    def __init__(self) -> None:
        self._store: TCPStore | None = None
        self._asking: Thread | None = None
        self._lost, self._lock = False, Lock()

    def lost(self) -> bool:
        """Whether one of the ranks is dead, as far as it is known half a second later."""
        with self._lock:
            if self._asking is None or not self._asking.is_alive():
                self._asking = Thread(target=self._ask, name="lookout", daemon=True)
                self._asking.start()
            asking = self._asking
        asking.join(ANSWER_S)
        return self._lost

    def _ask(self) -> None:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        try:
            if self._store is None:
                host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
                self._store = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=CONNECT)
            self._lost = bool(self._store.check([KEY]))
        except RuntimeError:  # torch's: it is gone, or too busy
            self._store = None
