"""What follows when an attempt of a run ends. Pure: no process, no clock, no disk.

                ,--- a place is back: saved, `rejoin` ---> restarting
                |
      start --> running --- every rank ended well ---> done
                ^     |---- asked to stop, and saved -> stopped
                |     `---- a rank failed ------------> failed      the survivors are being ended
                |                                         |
                |                                         v
                `- go - restarting <--- budget left --- deciding --- none left, refused, or ---> gave up
                            |                                        the same again
                            `--- asked to stop ---> stopped

`failed` takes the failure; `decide` is what happens in deciding, and comes out as restarting or as gave up. An attempt
is numbered once, and the number only grows: logs, ledger and checkpoints that are being written carry it.

With more than one of `sizes` the run may go on with fewer ranks. A place (a GPU, a slot of the machine) is blamed when
its rank was killed, hung, or had other parameters than the others: an error comes from the program, and blames none.
Blamed `recovery.place` times in a row, a place is left out for `recovery.rest_s`, then `rejoin` takes it in again. That
is another circumstance, so the same failure no longer counts as the same; the budgets hold as they are.

A budget is per cause, and for failures in a row: a checkpoint that was not there at the failure before gives all of it
back, because a run of weeks may well lose a rank every day. The same failure in the same step is no bad luck but a
fault of the program or of its data, and stops the run early.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from trainkit.protocols import Outcome
from trainkit.resilience.failure import Cause, Failure
from trainkit.settings import Recovery

Phase = Literal["running", "failed", "restarting", "stopped", "done", "gave up"]
LONGEST_PAUSE_S = 60.0
ENDS: frozenset[Phase] = frozenset({"stopped", "done", "gave up"})


@dataclass(frozen=True, kw_only=True)
class State:
    """Where a run stands.

    spent    restarts per cause since there was a new checkpoint
    again    how often in a row the same failure met the same step
    saved    step of the newest regular checkpoint at the last failure; -1 for none
    sizes    numbers of ranks that it may run with, ascending
    seats    the place of every rank of this attempt
    blamed   how often in a row a place was to blame
    resting  until when (seconds of a clock that the caller keeps) a place is left out
    pause_s  how long `restarting` waits
    reason   why it restarts or gives up
    """

    phase: Phase
    attempt: int
    sizes: tuple[int, ...]
    seats: tuple[int, ...]
    failure: Failure | None = None
    spent: Mapping[Cause, int] = field(default_factory=dict)
    again: int = 0
    saved: int = -1
    blamed: Mapping[int, int] = field(default_factory=dict)
    resting: Mapping[int, float] = field(default_factory=dict)
    pause_s: float = 0.0
    reason: str = ""

    @property
    def ranks(self) -> int:
        return len(self.seats)


class IllegalMove(Exception):
    """Something happened that cannot happen in this phase: a bug of the caller."""


def regular(events: Iterable[Mapping[str, Any]], committed: Collection[int]) -> set[int]:
    """Those of the `committed` steps that were not saved because a rank failed. Such a checkpoint tells nothing of how
    the run gets on: there is one after every failure."""
    return {*committed} - {event["step"] for event in events if event["event"] == "save" and "rescued_by" in event}


def start(attempt: int, sizes: Sequence[int], saved: int, gone: Collection[int] = ()) -> State:
    """The first attempt of a command; `saved` is the step of the checkpoint that it goes on from, -1 for none; the
    places `gone` are not there."""
    seats, resting = tuple(range(sizes[-1])), dict.fromkeys(gone, math.inf)
    state = State(phase="running", attempt=attempt, sizes=tuple(sizes), seats=seats, saved=saved, resting=resting)
    return _seated(state, 0.0) if gone else state


def ended(state: State, how: Outcome) -> State:
    """Every rank ended well."""
    _only(state, "running")
    return replace(state, phase=how)


def failed(state: State, failure: Failure) -> State:
    """A rank failed."""
    _only(state, "running")
    same = state.failure is not None and _kind(state.failure) == _kind(failure)
    return replace(state, phase="failed", failure=failure, again=state.again + 1 if same else 1)


def renewed(state: State, there: Collection[int], now: float) -> State:
    """It goes on with other machines, which have the places `there`: nothing is known of those."""
    _only(state, "restarting")
    gone = {*range(state.sizes[-1])} - {*there}
    return _seated(replace(state, resting=dict.fromkeys(gone, math.inf), blamed={}), now)


def without(state: State, gone: Collection[int]) -> State:
    """The places `gone` are no longer there, such as those of a machine that is lost; they rest for ever."""
    _only(state, "failed")
    return replace(state, resting={**state.resting, **dict.fromkeys(gone, math.inf)}) if gone else state


def back(state: State, gone: Collection[int]) -> State:
    """Those places that had gone and are none of `gone` now are there again: they need not rest any longer."""
    rest = {p: -math.inf if until == math.inf and p not in gone else until for p, until in state.resting.items()}
    return replace(state, resting=rest)


def decide(policy: Recovery, state: State, saved: int, asked: bool, now: float) -> State:
    """All ranks are gone; `saved` is the step of the newest checkpoint that no failure was the cause of, -1 for none;
    `asked`: the run was to stop."""
    _only(state, "failed")
    failure = state.failure
    if failure is None:
        raise IllegalMove("failed without a failure")
    progress = saved > state.saved
    spent = {} if progress else dict(state.spent)
    spent[failure.cause] = spent.get(failure.cause, 0) + 1
    again = 1 if progress else state.again
    state = replace(state, spent=spent, again=again, saved=max(saved, state.saved))
    state = _seated(_blame(policy, state, failure, {} if progress else state.blamed, now), now)
    if reason := _against(policy, state, failure, asked, len(_awake(state, now))):
        return replace(state, phase="gave up", reason=reason)
    in_a_row = sum(spent.values())
    pause = 0.0 if in_a_row == 1 else min(policy.pause_s * 2.0 ** (in_a_row - 2), LONGEST_PAUSE_S)
    reason = f"restart {spent[failure.cause]} of {_budget(policy, failure.cause)} ({failure.cause}){_without(state)}"
    return replace(state, phase="restarting", pause_s=pause, reason=reason)


def go(state: State) -> State:
    """The pause is over."""
    _only(state, "restarting")
    return replace(state, phase="running", attempt=state.attempt + 1)


def called_off(state: State) -> State:
    """The run was asked to stop while it was to restart: what is saved is what there is."""
    _only(state, "restarting")
    return replace(state, phase="stopped")


def due(state: State, now: float) -> bool:
    """Whether a place has rested long enough for the run to go on with more ranks."""
    return len(_seats(state.sizes, _awake(state, now))) > state.ranks


def leave(state: State, saved: int) -> State:
    """The ranks have saved and left, because the machines are to be others."""
    _only(state, "running")
    return replace(state, phase="restarting", saved=saved, pause_s=0.0, reason="machines come or go")


def abandoned(state: State, why: str) -> State:
    """There are no machines to restart on."""
    _only(state, "restarting")
    return replace(state, phase="gave up", reason=why)


def rejoin(state: State, saved: int, now: float) -> State:
    """The ranks have saved and left because of `due`."""
    _only(state, "running")
    seated = _seated(state, now)
    back = ", ".join(str(seat) for seat in sorted({*state.resting} - {*seated.resting}))
    reason = f"place {back} is taken in again{_without(seated)}"
    return replace(seated, phase="restarting", saved=saved, pause_s=0.0, reason=reason)


def _blame(policy: Recovery, state: State, failure: Failure, blamed: Mapping[int, int], now: float) -> State:
    """Leave the place of the rank that failed out, if it is to blame often enough and the run can do without it."""
    rank = failure.told.get("rank")
    if failure.cause not in ("killed", "hung", "corrupt") or rank is None:
        return replace(state, blamed=blamed)
    seat = state.seats[rank]
    times = blamed.get(seat, 0) + 1
    others = [other for other in _awake(state, now) if other != seat]
    if times < policy.place or len(others) < state.sizes[0]:
        return replace(state, blamed={**blamed, seat: times})
    kept = {other: n for other, n in blamed.items() if other != seat}
    return replace(state, resting={**state.resting, seat: now + policy.rest_s}, blamed=kept, again=1)


def _seated(state: State, now: float) -> State:
    """With every rank in a place that does not rest. Where too few are left nothing changes, and the run ends."""
    awake = _awake(state, now)
    if len(awake) < state.sizes[0]:
        return state
    resting = {seat: until for seat, until in state.resting.items() if seat not in awake}
    return replace(state, seats=_seats(state.sizes, awake), resting=resting)


def _awake(state: State, now: float) -> list[int]:
    return [seat for seat in range(state.sizes[-1]) if state.resting.get(seat, now) <= now]


def _seats(sizes: Sequence[int], awake: Sequence[int]) -> tuple[int, ...]:
    """As many of the places as make one of `sizes`."""
    return tuple(awake[: max(size for size in sizes if size <= len(awake))])


def _without(state: State) -> str:
    out = ", ".join(map(str, sorted(state.resting)))
    return f", without place {out}" if out else ""


def _against(policy: Recovery, state: State, failure: Failure, asked: bool, left: int) -> str:
    """What speaks against a restart in the `left` places; empty if nothing."""
    budget = _budget(policy, failure.cause)
    if failure.cause == "refused":
        return "what was refused once is refused again"
    if asked:
        return "it was asked to stop, and failed before it had"
    if left < state.sizes[0]:
        return f"{left} places are left, and it needs {state.sizes[0]}"
    if state.again >= policy.repeats and failure.cause != "lost":
        return f"step {failure.step} fails in the same way {state.again} times in a row, so another try would not help"
    if state.spent[failure.cause] > budget:
        return f"recovery.{failure.cause}={budget} restarts without a new checkpoint are used up"
    return ""


def _budget(policy: Recovery, cause: Cause) -> int:
    budgets = {"killed": policy.killed, "raised": policy.raised, "hung": policy.hung, "corrupt": policy.corrupt}
    budgets["lost"] = policy.killed  # as many ranks as a machine has, ended from outside
    return budgets.get(cause, 0)


def _kind(failure: Failure) -> tuple[Cause, int, str]:
    return failure.cause, failure.step, failure.message


def _only(state: State, phase: Phase) -> None:
    if state.phase != phase:
        raise IllegalMove(f"this happens to a run that is {phase}, and it is {state.phase}")
