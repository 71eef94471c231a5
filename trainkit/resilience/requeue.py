"""Whether a whole job starts again. Pure: no scheduler, no disk.

    preempted  somebody else needed the nodes          timeout  its time limit was near
    node       a machine was lost that it needs        crash    anything else, when restarts within the job were over

A budget is per cause and for restarts in a row: a new checkpoint gives all of them back. So a run of weeks under a time
limit of hours starts again as often as it takes, and one that gets nowhere ends. What fails twice in the same way in
the same step is not tried a third time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Cause = Literal["preempted", "timeout", "node", "crash"]
NEAR_S = 90.0  # Slurm looks at time limits every 30 s, and saving takes its time


def cause(events: Sequence[Mapping[str, Any]], code: int, end_time: float | None, warned_s: float) -> Cause | None:
    """Why a command of which these are the `events` (from its `launch` on) ended with exit code `code` although the run
    is not done; None: it is not to start again. `end_time`: when the time limit ends the job, if that is known."""
    kinds = [event["event"] for event in events]
    if code in (0, 2) or "asked" in kinds:
        return None
    failures = [event for event in events if event["event"] == "failure"]
    if code == 75 or not failures:  # without a failure it was ended from outside
        now = max(float(event["time"]) for event in events) if events else 0.0
        near = end_time is None or end_time - now < warned_s + NEAR_S
        return "timeout" if near else "preempted"
    last = failures[-1].get("cause")
    if last == "refused":
        return None
    return "node" if last == "lost" else "crash"


def against(
    budget: Mapping[str, int], before: Sequence[Mapping[str, Any]], why: Cause, saved: int, repeats: int
) -> str:
    """What speaks against starting again; empty if nothing. `before`: all events of the run folder; `saved`: step of
    the newest checkpoint, -1 for none."""
    spent = 0
    for event in reversed([event for event in before if event["event"] == "requeue"]):
        if event["saved"] != saved:
            break
        spent += event["cause"] == why
    if spent >= budget[why]:
        return f"launcher.restarts.{why}={budget[why]} without a new checkpoint are used up"
    kinds = [(e.get("cause"), e.get("step"), e["message"]) for e in before if e["event"] == "failure"]
    again = len(kinds) >= repeats > 1 and len({*kinds[-repeats:]}) == 1
    if why == "crash" and again:
        return f"step {kinds[-1][1]} fails in the same way every time"
    return ""
