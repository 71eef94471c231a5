"""Who keeps ranks for a run: who is taken, who is not and why, and who takes the place of one that is lost."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from trainkit.launcher._order import Order
from trainkit.launcher._roll import Roll
from trainkit.launcher._wire import Wire

Come = Callable[..., tuple[Wire, Wire]]


@pytest.fixture
def roll() -> Roll:
    return Roll(Order(start=(), keepers=3, guests=2, places=2, lost_s=5.0, owner={}))


@pytest.fixture
def come(roll: Roll) -> Iterator[Come]:
    """Somebody knocks who knows the token: both ends of the connection."""
    door, ends = socket.create_server(("127.0.0.1", 0)), list[Wire]()

    def knock(host: str, number: int | None = None, slot: int = 0, ready: bool = True) -> tuple[Wire, Wire]:
        there = Wire(socket.create_connection(door.getsockname()))
        here = Wire(door.accept()[0])
        ends.extend((there, here))
        hello: dict[str, Any] = {"host": host, "number": number, "slot": slot, "reaches": ["192.0.2.1"]}
        roll.admit(here, hello, [{"what": "ready"}] if ready else [])
        return there, here

    yield knock
    for wire in ends:
        wire.close()
    door.close()


def answer(wire: Wire) -> str:
    """What it is told; the text of a refusal."""
    while not (said := wire.receive()):
        pass
    return str(said[0].get("why", said[0]["what"]))


def test_guests_get_numbers_and_the_first_is_started(roll: Roll, come: Come) -> None:
    assert [answer(come(host)[0]) for host in ("b", "c")] == ["welcome", "welcome"]
    come("a", number=0)
    assert {number: keeper.host for number, keeper in sorted(roll.keepers.items())} == {0: "a", 1: "b", 2: "c"}


def test_who_is_not_taken_is_told_why(roll: Roll, come: Come) -> None:
    come("a", number=0)
    come("b")
    assert answer(come("b")[0]) == "b is there already"
    come("c")
    assert answer(come("d")[0]) == "all 3 places are taken"
    roll.address = "192.0.2.9"
    roll.keepers[2].wire.close()
    assert answer(come("c")[0]) == "it cannot reach 192.0.2.9, where the ranks meet"


def test_one_that_is_back_gets_its_own_place_between_attempts(roll: Roll, come: Come) -> None:
    for host, number in (("a", 0), ("b", None), ("c", None)):
        come(host, number)
    before = roll.keepers[2]
    roll.keepers[1].wire.close()
    before.wire.close()
    assert roll.gone() == [2, 3, 4, 5]
    come("c", ready=False)
    assert roll.gone() == [2, 3, 4, 5]  # it imports torch
    newcomer = next(keeper for keeper in roll if keeper.host == "c" and not keeper.lost)
    newcomer.hear([{"what": "ready"}])
    assert roll.gone() == [2, 3]
    assert roll.keepers[2] is before
    roll.take_in()
    assert roll.keepers[2] is newcomer
    assert roll.gone() == [2, 3]


def test_a_guest_that_leaves_before_the_start_is_forgotten(roll: Roll, come: Come) -> None:
    come("a", number=0)
    come("b")
    for keeper in roll:
        keeper.wire.close()
    roll.forget()
    assert [keeper.host for keeper in roll] == ["a"]  # whose end is told
