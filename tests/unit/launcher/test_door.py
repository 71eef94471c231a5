"""The port that keepers call: who is let in, and that nobody else disturbs a run."""

from __future__ import annotations

import json
import resource
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.unit.conftest import until
from trainkit.launcher._door import TOKEN_WRONG, Door
from trainkit.launcher._roll import Keeper
from trainkit.launcher._wire import LINE, Message, Wire

HELLO = {"what": "hello", "token": "secret", "number": 1, "host": "h", "slot": 0, "reaches": []}

Call = Callable[[bytes], socket.socket]


@pytest.fixture
def door() -> Iterator[Door]:
    made = Door("127.0.0.1", 0, 4, "secret", 0.3)
    yield made
    made.close()


@pytest.fixture
def call(door: Door) -> Iterator[Call]:
    """Connects and says something."""
    callers: list[socket.socket] = []

    def connect(said: bytes) -> socket.socket:
        callers.append(socket.create_connection(("127.0.0.1", door.port), 5))
        callers[-1].sendall(said)
        return callers[-1]

    yield connect
    for caller in callers:
        caller.close()


def line(message: object) -> bytes:
    return json.dumps(message).encode() + b"\n"


def admitted(door: Door, seconds: float = 0.2) -> list[tuple[Wire, list[Message]]]:
    end, found = time.monotonic() + seconds, list[tuple[Wire, list[Message]]]()
    while time.monotonic() < end:
        door.wait(0.02, [])
        found += [(wire, [*said]) for wire, said in door.admit()]
    return found


def closed(caller: socket.socket) -> bool:
    """Whatever it was told before."""
    caller.settimeout(0.01)
    try:
        while caller.recv(4096):
            pass
        return True
    except TimeoutError:
        return False
    except ConnectionResetError:  # it was closed before all of what was said had been read
        return True


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        line([]),
        line(7),
        b"\xff\xfe\n",
        b"[" * 100_000 + b"\n",
        line({}),
        line({**HELLO, "what": "ready"}),
        line({**HELLO, "token": "guessed"}),
        line({**HELLO, "token": "schlüssel"}),
        line({**HELLO, "token": "\ud800"}),
        line({**HELLO, "token": None}),
    ],
)
def test_who_says_no_hello_is_let_go(door: Door, call: Call, said: bytes) -> None:
    stranger, keeper = call(said), call(line(HELLO))
    ((_, (hello,)),) = admitted(door)
    assert hello == HELLO
    assert closed(stranger)
    assert not closed(keeper)


def test_who_knows_another_token_is_told_so(door: Door, call: Call) -> None:
    """A person may have given it, and is to hear that it is wrong."""
    stranger = call(line({**HELLO, "token": "guessed"}))
    admitted(door)
    assert json.loads(stranger.recv(4096)) == {"what": "refused", "why": TOKEN_WRONG}


def test_who_never_ends_its_line_is_let_go(call: Call, door: Door) -> None:
    wordy, door._patience = call(b""), 3600.0
    wordy.setblocking(False)

    def let_go() -> bool:
        try:
            wordy.send(b"x" * LINE)
        except BlockingIOError:
            admitted(door, 0.01)
        except ConnectionError:
            return True
        return False

    until(let_go, "it is let go", 20)


def test_who_says_nothing_is_let_go_in_time(door: Door, call: Call) -> None:
    silent, keeper = call(b""), call(line(HELLO))
    ((_, said),) = admitted(door, 0.1)
    assert said == [HELLO]
    assert not closed(silent)
    admitted(door, 0.4)
    assert closed(silent)
    assert not closed(keeper)


def test_what_came_with_the_hello_is_heard(door: Door, call: Call) -> None:
    """A keeper that imports fast says that it is ready before the agent has looked."""
    call(line(HELLO) + line({"what": "ready"}) + line({"what": "state", "attempt": 1}))
    ((wire, (_, *more)),) = admitted(door)
    keeper = Keeper(1, "h", 0, wire, [])
    keeper.hear(more)
    assert (keeper.ready, keeper.state["attempt"]) == (True, 1)


def test_all_that_wait_come_in_at_once(door: Door, call: Call) -> None:
    for number in range(4):
        call(line({**HELLO, "number": number}))
    assert sorted(said[0]["number"] for _, said in admitted(door, 0.01)) == [0, 1, 2, 3]


def test_more_files_than_select_takes(door: Door, call: Call) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1300:
        pytest.skip("this machine allows no more files than select takes")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 1300), hard))
    try:
        held: list[Any] = [socket.socket() for _ in range(1100)]
        call(line(HELLO))
        assert len(admitted(door)) == 1
        for each in held:
            each.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_keeper_that_talks_nonsense_is_lost_and_it_is_told_why() -> None:
    here, there = socket.socketpair()
    with there:
        wire = Wire.__new__(Wire)  # a pair has no TCP_NODELAY
        here.setblocking(False)
        wire._socket, wire._rest, wire.closed, wire.why = here, b"", False, ""
        wire.heard = wire._looked = time.monotonic()
        there.sendall(line({"what": "ready"}) + b"nonsense\n")
        assert wire.receive() == [{"what": "ready"}]
        assert (wire.closed, wire.why) == (True, "it sent what is no message")
        wire.close()
