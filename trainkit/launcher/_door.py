"""Where the keepers of a run call its agent (trainkit/nodes.py). A port is open to everybody: scanners, health checks
and browsers come too, and are let go."""

from __future__ import annotations

import secrets
import select
import socket
import time
from collections.abc import Collection, Iterator, Sequence

from trainkit.launcher._wire import Message, Wire

TOKEN_WRONG = "it is called with another token"
HELLO_S = 10.0
"""So long a caller may take to say who it is, once it has tried all addresses."""


class Door:
    """Open on `host` and `port` (0: one that is free) for `keepers` callers that know `token`, each within `patience`
    seconds."""

    def __init__(self, host: str, port: int, keepers: int, token: str, patience: float) -> None:
        self._token, self._patience = token.encode(), patience
        self._socket = socket.create_server((host, port), backlog=keepers)
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]
        self._strangers: dict[Wire, float] = {}
        """Callers that have not said who they are, and since when they are here."""

    def wait(self, seconds: float, known: Collection[Wire]) -> None:
        """Until somebody calls, or one of those that are here says something."""
        poll = select.poll()  # select takes no file above 1024
        for file in (self._socket.fileno(), *(wire.fileno() for wire in (*self._strangers, *known))):
            poll.register(file, select.POLLIN)
        poll.poll(seconds * 1000)

    def admit(self) -> Iterator[tuple[Wire, Sequence[Message]]]:
        """Those that have proved to be keepers, each with what it has said: a hello, and what came together with it."""
        now = time.monotonic()
        for wire in self._callers():
            self._strangers[wire] = now
        for wire, since in [*self._strangers.items()]:
            said = wire.receive()
            if said and self._knows(said[0]):
                del self._strangers[wire]
                yield wire, said
            elif said or wire.closed or now - since > self._patience:
                del self._strangers[wire]
                if said and said[0]["what"] == "hello":
                    wire.send("refused", why=TOKEN_WRONG)
                wire.close()

    def _callers(self) -> Iterator[Wire]:
        while True:
            try:
                caller, _ = self._socket.accept()
            except OSError:  # nobody is left, this one has gone again, or files are short: the next look tries again
                return
            yield Wire(caller)

    def _knows(self, hello: Message) -> bool:
        given = str(hello.get("token")).encode(errors="replace")  # a text that is not ASCII cannot be compared
        return hello["what"] == "hello" and secrets.compare_digest(given, self._token)

    def close(self) -> None:
        for wire in self._strangers:
            wire.close()
        self._socket.close()
