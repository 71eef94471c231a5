"""Messages between the agent of a run and the keepers on its nodes: JSON, one a line, over TCP."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any

Message = dict[str, Any]

CONNECT_S = 5.0  # so long a keeper tries each address of the agent
LINE = 1 << 20
"""A longer line is no message."""


class Wire:
    """One connection. Neither sending, which threads may share, nor receiving waits; `closed` once the other side is
    gone or takes nothing more, `heard` (monotonic seconds) when it was last heard of. Who sends what is no message is
    closed; `why` says so."""

    def __init__(self, door: socket.socket) -> None:
        door.setblocking(False)
        door.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket, self._rest, self._sending = door, b"", threading.Lock()
        self.closed, self.heard, self.why = False, time.monotonic(), "the connection to it is closed"

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def own_address(self) -> str:
        """The address of this side."""
        return str(self._socket.getsockname()[0])

    def send(self, what: str, **fields: Any) -> None:
        line = (json.dumps({"what": what, **fields}) + "\n").encode()
        with self._sending:
            if self.closed:
                return
            try:
                self._socket.sendall(line)
            except OSError:  # gone, or it has taken nothing for so long that the buffers are full
                self.closed = True

    def receive(self) -> list[Message]:
        """What has come since the last call; of a lot, a part, so that nobody keeps the others waiting."""
        came = 0
        while not self.closed and came <= LINE:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self.closed = True
                break
            self._rest += data
            came += len(data)
            self.heard = time.monotonic()
        *lines, self._rest = self._rest.split(b"\n")
        found = [message for line in lines if (message := parsed(line)) is not None]
        if len(found) < len(lines) or len(self._rest) > LINE:
            self.closed, self.why = True, "it sent what is no message"
        return found

    def silence(self) -> float:
        """Seconds since it was last heard of."""
        return time.monotonic() - self.heard

    def close(self, why: str | None = None) -> None:
        self.closed, self.why = True, why or self.why
        self._socket.close()


def parsed(line: bytes) -> Message | None:
    """The message in `line`; None if it is none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("what"), str) else None
