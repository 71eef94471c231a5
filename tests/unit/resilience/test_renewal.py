"""A run whose machines are replaced as a whole goes on in the places that there are then."""

from __future__ import annotations

from math import inf

import pytest

from trainkit.resilience import recovery
from trainkit.resilience.failure import Failure
from trainkit.resilience.recovery import IllegalMove
from trainkit.settings import Recovery

POLICY = Recovery(killed=8, raised=2, hung=2, corrupt=2, repeats=2, pause_s=1.0, place=2, rest_s=600.0)
LOST = Failure("lost", 1, {"message": "it is gone", "exit_code": 1, "rank": None})


def restarting(sizes: tuple[int, ...] = (2, 4)) -> recovery.State:
    failed = recovery.failed(recovery.start(1, sizes, -1), LOST)
    return recovery.decide(POLICY, failed, -1, False, 0.0)


def test_it_begins_in_the_places_that_there_are() -> None:
    assert recovery.start(1, (2, 4), -1).seats == (0, 1, 2, 3)
    assert recovery.start(1, (2, 4), -1, gone=[3]).seats == (0, 1)  # it cannot run with three


def test_it_goes_on_with_fewer_and_with_more_again() -> None:
    fewer = recovery.renewed(restarting(), [0, 1], 0.0)
    assert (fewer.seats, fewer.resting) == ((0, 1), {2: inf, 3: inf})
    assert not recovery.due(fewer, 1e9)  # its places come back with other machines only
    left = recovery.leave(recovery.go(fewer), 7)
    assert (left.phase, left.saved, left.pause_s) == ("restarting", 7, 0.0)
    assert recovery.renewed(left, [0, 1, 2, 3], 0.0).seats == (0, 1, 2, 3)


def test_without_machines_it_ends() -> None:
    assert recovery.abandoned(restarting(), "nobody came").reason == "nobody came"


def test_a_run_that_has_not_left_has_no_other_machines() -> None:
    with pytest.raises(IllegalMove):
        recovery.renewed(recovery.start(1, (2,), -1), [0, 1], 0.0)
