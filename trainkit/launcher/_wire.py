"""Messages between the agent of a run and the keepers on its nodes: JSON, one a line, over TCP."""

from __future__ import annotations

import json
import socket
import time
from typing import Any

Message = dict[str, Any]


class Wire:
    """One connection. Neither sending nor receiving waits; `closed` once the other side is gone or takes nothing more,
    `heard` (monotonic seconds) when it was last heard of."""

    def __init__(self, door: socket.socket) -> None:
        door.setblocking(False)
        door.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket, self._rest = door, b""
        self.closed, self.heard = False, time.monotonic()

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def own_address(self) -> str:
        """The address of this side."""
        return str(self._socket.getsockname()[0])

    def send(self, what: str, **fields: Any) -> None:
        if self.closed:
            return
        try:
            self._socket.sendall((json.dumps({"what": what, **fields}) + "\n").encode())
        except OSError:  # gone, or it has taken nothing for so long that the buffers are full
            self.closed = True

    def receive(self) -> list[Message]:
        """What has come since the last call."""
        while not self.closed:
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
            self.heard = time.monotonic()
        *lines, self._rest = self._rest.split(b"\n")
        return [json.loads(line) for line in lines]

    def silence(self) -> float:
        """Seconds since it was last heard of."""
        return time.monotonic() - self.heard

    def close(self) -> None:
        self.closed = True
        self._socket.close()
