"""How long the other side of a connection has been silent."""

from __future__ import annotations

import select
import socket
from types import SimpleNamespace

import pytest

from trainkit.launcher import _wire
from trainkit.launcher._wire import Wire


def test_time_in_which_this_process_stood_still_is_no_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """It was suspended with its job, say, for an hour: then nobody could be heard."""
    now = 100.0
    monkeypatch.setattr(_wire, "time", SimpleNamespace(monotonic=lambda: now))
    with socket.create_server(("127.0.0.1", 0)) as door:
        theirs = Wire(socket.create_connection(door.getsockname()))
        wire = Wire(door.accept()[0])
    for _ in range(40):
        now += 0.1
        assert wire.receive() == []
    assert wire.silence() == pytest.approx(4.0)
    now += 3600.0
    assert wire.receive() == []
    assert wire.silence() == pytest.approx(4.0)
    now += 1.0
    assert wire.receive() == []
    assert wire.silence() == pytest.approx(5.0)
    theirs.send("alive")
    select.select([wire], [], [], 10)
    assert [message["what"] for message in wire.receive()] == ["alive"]
    assert wire.silence() == 0.0
