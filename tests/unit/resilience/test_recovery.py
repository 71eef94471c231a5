"""Whatever happens to a run, in whatever order: it restarts within its budgets, and it ends."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainkit.resilience import recovery
from trainkit.resilience.failure import Failure
from trainkit.resilience.recovery import LONGEST_PAUSE_S, IllegalMove, State
from trainkit.settings import Recovery

POLICY = Recovery(killed=8, raised=2, hung=2, corrupt=2, repeats=2, pause_s=1.0, place=2, rest_s=600.0)
POLICIES = st.builds(
    Recovery,
    killed=st.integers(0, 5),
    raised=st.integers(0, 5),
    hung=st.integers(0, 5),
    corrupt=st.integers(0, 5),
    repeats=st.integers(1, 4),
    pause_s=st.floats(0, 100),
    place=st.integers(1, 3),
    rest_s=st.floats(0, 100),
)


def failure(cause: Any = "killed", step: int = 1, message: str = "it was killed", rank: int | None = 1) -> Failure:
    return Failure(cause, step, {"message": message, "exit_code": 1, "rank": rank})


FAILURES = st.builds(
    failure,
    st.sampled_from(["killed", "raised", "hung", "corrupt"]),
    st.integers(1, 3),
    st.sampled_from(["this", "that"]),
)


def history(policy: Recovery, what: list[tuple[Failure, int]]) -> list[State]:
    """The states of a run that fails as `what` says: the failure, and the newest checkpoint then."""
    states = [recovery.start(1, [4], -1)]
    for each, saved in what:
        states.append(recovery.failed(states[-1], each))
        states.append(recovery.decide(policy, states[-1], saved, asked=False, now=0.0))
        if states[-1].phase != "restarting":
            break
        states.append(recovery.go(states[-1]))
    return states


@given(POLICIES, st.lists(FAILURES, min_size=40, max_size=40))
def test_a_run_that_gets_nowhere_ends_within_its_budgets(policy: Recovery, failures: list[Failure]) -> None:
    states = history(policy, [(each, -1) for each in failures])
    restarts = sum(state.phase == "restarting" for state in states)
    assert states[-1].phase == "gave up"
    assert restarts <= policy.killed + policy.raised + policy.hung + policy.corrupt
    budgets = {"killed": policy.killed, "raised": policy.raised, "hung": policy.hung, "corrupt": policy.corrupt}
    for cause, budget in budgets.items():
        assert (
            sum(s.phase == "restarting" and s.failure is not None and s.failure.cause == cause for s in states)
            <= budget
        )


@given(POLICIES, st.lists(st.tuples(FAILURES, st.integers(-1, 5)), max_size=30))
def test_attempts_only_grow_and_pauses_stay_bearable(policy: Recovery, what: list[tuple[Failure, int]]) -> None:
    for before, after in pairwise(history(policy, what)):
        assert after.attempt == before.attempt + (after.phase == "running")
        assert after.saved >= before.saved
        assert 0 <= after.pause_s <= LONGEST_PAUSE_S
        assert after.ranks == 4


@given(POLICIES.filter(lambda p: p.killed > 0), st.integers(2, 30))
def test_a_run_that_gets_on_is_never_given_up(policy: Recovery, times: int) -> None:
    policy = replace(policy, repeats=2)
    states = history(policy, [(failure(step=7), saved) for saved in range(times)])
    assert states[-1].phase == "running"
    assert {state.pause_s for state in states} == {0.0}


@given(st.integers(1, 6), st.integers(0, 9))
def test_the_same_failure_in_the_same_step_ends_the_run_early(repeats: int, saved: int) -> None:
    policy = replace(POLICY, killed=100, repeats=repeats)
    states = history(policy, [(failure(step=38), saved)] * 50)
    assert states[-1].attempt == repeats
    assert states[-1].phase == "gave up"
    assert "step 38 fails in the same way" in states[-1].reason


def test_another_step_or_another_message_is_another_failure() -> None:
    others = [failure(step=1), failure(step=2), failure(step=2, message="that"), failure(step=1)]
    assert history(POLICY, [(each, -1) for each in others])[-1].phase == "running"


def test_each_cause_has_its_own_budget() -> None:
    mixed = [failure("raised", 1), failure("hung", 2), failure("raised", 3), failure("hung", 4), failure("raised", 5)]
    last = history(POLICY, [(each, -1) for each in mixed])[-1]
    assert (last.phase, last.attempt) == ("gave up", 5)
    assert last.reason == "recovery.raised=2 restarts without a new checkpoint are used up"


def test_the_first_restart_is_at_once_and_the_next_ones_wait_longer_and_longer() -> None:
    states = history(POLICY, [(failure(step=step), -1) for step in range(8)])
    pauses = [state.pause_s for state in states if state.phase == "restarting"]
    assert pauses == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0]


@given(POLICIES, FAILURES)
def test_what_was_refused_or_was_to_stop_is_not_tried_again(policy: Recovery, each: Failure) -> None:
    started = recovery.start(3, [2], -1)
    refused = recovery.failed(started, replace(each, cause="refused"))
    assert recovery.decide(policy, refused, 5, asked=False, now=0.0).phase == "gave up"
    assert recovery.decide(policy, recovery.failed(started, each), 5, asked=True, now=0.0).phase == "gave up"


def test_a_checkpoint_that_was_there_before_the_command_is_no_progress() -> None:
    state = recovery.failed(recovery.start(1, [2], 40), failure(step=50))
    state = recovery.decide(POLICY, state, 40, asked=False, now=0.0)
    state = recovery.failed(recovery.go(state), failure(step=51))
    assert recovery.decide(POLICY, state, 40, asked=False, now=0.0).spent == {"killed": 2}
    assert recovery.decide(POLICY, state, 50, asked=False, now=0.0).spent == {"killed": 1}


def test_only_what_runs_can_end_or_fail_and_nothing_follows_an_end() -> None:
    running = recovery.start(1, [2], -1)
    waiting = recovery.decide(POLICY, recovery.failed(running, failure()), -1, asked=False, now=0.0)
    ends = [recovery.ended(running, "done"), recovery.ended(running, "stopped"), recovery.called_off(waiting)]
    assert [end.phase for end in ends] == ["done", "stopped", "stopped"]
    for state in [*ends, waiting]:
        for move in (lambda s: recovery.ended(s, "done"), lambda s: recovery.failed(s, failure())):
            with pytest.raises(IllegalMove):
                move(state)
    for state in [*ends, running]:
        with pytest.raises(IllegalMove):
            recovery.go(state)
        with pytest.raises(IllegalMove):
            recovery.decide(POLICY, state, -1, asked=False, now=0.0)


# -------------------------------------------------------------------------------------- fewer ranks, and more


SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=4, unique=True).map(sorted)


@given(POLICIES, SIZES, st.data())
def test_ranks_sit_in_places_of_their_own_and_their_number_is_an_allowed_one(
    policy: Recovery, sizes: list[int], data: st.DataObject
) -> None:
    """Over failures of any rank, at any time, and places that come back."""
    state, now = recovery.start(1, sizes, -1), 0.0
    for saved in range(20):
        assert state.ranks in sizes
        assert len({*state.seats}) == state.ranks
        assert {*state.seats} <= {*range(sizes[-1])} - {*state.resting}
        now += data.draw(st.floats(0, 200))
        if recovery.due(state, now):
            more = recovery.rejoin(state, saved, now)
            assert more.ranks > state.ranks
            state = recovery.go(more)
            continue
        rank = data.draw(st.integers(0, state.ranks - 1))
        cause = data.draw(st.sampled_from(["killed", "hung", "corrupt", "raised"]))
        state = recovery.failed(state, failure(cause, rank=rank, step=saved))
        state = recovery.decide(policy, state, data.draw(st.sampled_from([saved, -1])), asked=False, now=now)
        if state.phase == "gave up":
            return
        state = recovery.go(state)


def lose(state: State, rank: int | None, now: float, cause: str = "killed") -> State:
    state = recovery.decide(POLICY, recovery.failed(state, failure(cause, rank=rank)), -1, asked=False, now=now)
    assert state.phase == "restarting"
    return recovery.go(state)


def test_a_place_that_fails_again_is_left_out_and_comes_back() -> None:
    once = lose(recovery.start(1, [2, 4], -1), 1, 10.0)
    assert once.seats == (0, 1, 2, 3)
    twice = lose(once, 1, 20.0)  # the same failure in the same step; but the place is another circumstance
    assert twice.seats == (0, 2)
    assert "without place 1" in twice.reason
    assert not recovery.due(twice, 619.0)
    assert recovery.due(twice, 621.0)
    back = recovery.rejoin(twice, 30, 621.0)
    assert (back.phase, back.seats, back.saved, back.reason) == (
        "restarting",
        (0, 1, 2, 3),
        30,
        "place 1 is taken in again",
    )


def test_a_place_that_corrupts_its_parameters_is_left_out_too() -> None:
    once = lose(recovery.start(1, [2, 4], -1), 1, 0.0, "corrupt")
    assert lose(once, 1, 0.0, "corrupt").seats == (0, 2)
    unknown = lose(lose(recovery.start(1, [1, 2], -1), None, 0.0, "corrupt"), 1, 0.0)
    assert unknown.seats == (0, 1)  # of two ranks none can be told


def test_another_place_is_taken_where_one_is_spare() -> None:
    state = lose(lose(recovery.start(1, [2, 4], -1), 1, 0.0), 1, 0.0)
    assert state.seats == (0, 2)
    state = recovery.failed(state, failure(step=5))
    state = recovery.go(recovery.decide(POLICY, state, -1, asked=False, now=1.0))
    state = recovery.failed(state, failure(step=6))
    state = recovery.go(recovery.decide(POLICY, state, -1, asked=False, now=2.0))
    assert state.seats == (0, 3)


def test_an_error_blames_no_place_and_the_least_number_stays() -> None:
    raised = recovery.failed(recovery.start(1, [1, 2], -1), failure("raised", step=1))
    state = recovery.go(recovery.decide(POLICY, raised, -1, asked=False, now=0.0))
    raised = recovery.failed(state, failure("raised", step=2))
    assert recovery.decide(POLICY, raised, -1, asked=False, now=0.0).ranks == 2
    alone = lose(lose(recovery.start(1, [1, 2], -1), 1, 0.0), 1, 0.0)
    assert alone.seats == (0,)
    again = recovery.failed(alone, failure(step=9, rank=0))
    again = recovery.decide(POLICY, again, -1, asked=False, now=0.0)
    again = recovery.failed(recovery.go(again), failure(step=10, rank=0))
    assert recovery.decide(POLICY, again, -1, asked=False, now=0.0).seats == (0,)


def test_a_machine_that_is_lost_takes_its_places_with_it() -> None:
    """At once, and for ever: no matter how often they are to blame, and how long they have rested."""
    state = recovery.failed(recovery.start(1, [2, 4], -1), failure("lost", rank=None))
    state = recovery.decide(POLICY, recovery.without(state, [0, 1]), -1, asked=False, now=0.0)
    assert (state.phase, state.seats) == ("restarting", (2, 3))
    assert state.reason == "restart 1 of 8 (lost), without place 0, 1"
    state = recovery.go(state)
    assert not recovery.due(state, now=1e9)
    state = recovery.without(recovery.failed(state, failure("lost", rank=None)), [0, 1, 2])
    ended = recovery.decide(POLICY, state, -1, asked=False, now=1e9)
    assert (ended.phase, ended.reason) == ("gave up", "1 places are left, and it needs 2")


def test_places_that_had_gone_are_taken_in_again_when_they_are_back() -> None:
    state = recovery.failed(recovery.start(1, [2, 4], -1), failure("lost", rank=None))
    lost = recovery.go(recovery.decide(POLICY, recovery.without(state, [2, 3]), 7, asked=False, now=0.0))
    assert lost.seats == (0, 1)
    assert not recovery.due(recovery.back(lost, [2, 3]), now=1e9)
    assert not recovery.due(recovery.back(lost, [3]), now=1e9)  # three are none of the sizes
    assert recovery.due(recovery.back(lost, []), now=0.0)
    again = recovery.rejoin(recovery.back(lost, []), 9, now=0.0)
    assert (again.seats, again.resting, again.reason) == ((0, 1, 2, 3), {}, "place 2, 3 is taken in again")
