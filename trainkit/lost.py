"""How the ranks of an attempt learn that one of them is dead, where their connections do not tell: the agent sets a key
in the store through which they have met, and who has waited for the others for a while looks for it."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # torch does not list what it exports

KEY = "trainkit/lost"
ANSWER, TRIES = timedelta(seconds=3), 2


def announce(store: TCPStore) -> None:
    """Tell the ranks that have met through `store` that one of them is dead."""
    store.set(KEY, "1")


class Lookout:
    """A rank's own connection to the store that torchrun's environment variables name, made when it first asks: torch's
    may be waiting for an answer."""

    def __init__(self) -> None:
        self._store: TCPStore | None = None
        self._unanswered = 0  # in a row

    def lost(self) -> bool:
        """Whether one of the ranks is dead, or the agent, which would say so."""
        from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined]

        try:
            if self._store is None:
                host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
                self._store = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=ANSWER)
            found = self._store.check([KEY])
            self._unanswered = 0
        except DistError:
            self._unanswered, self._store = self._unanswered + 1, None
            return self._unanswered >= TRIES
        return bool(found)
