"""Whether a whole job starts again: why it ended, and how often that has happened."""

from __future__ import annotations

from math import inf
from typing import Any

import pytest

from trainkit.resilience.requeue import against, cause

BUDGET = {"preempted": 3, "timeout": 3, "node": 2, "crash": 1}
LAUNCH = {"event": "launch", "time": 100.0}
STOP = {"event": "stop", "time": 200.0, "step": 7}


def failed(why: str, step: int = 3, message: str = "it broke") -> dict[str, Any]:
    return {"event": "failure", "time": 150.0, "cause": why, "step": step, "message": message}


def requeued(why: str, saved: int) -> dict[str, Any]:
    return {"event": "requeue", "time": 150.0, "cause": why, "saved": saved}


@pytest.mark.parametrize(
    ("events", "code", "end", "why"),
    [
        ([LAUNCH], 0, None, None),  # done
        ([LAUNCH], 2, None, None),  # refused before any step
        ([LAUNCH, STOP], 75, 200.0 + 120 + 89, "timeout"),
        ([LAUNCH, STOP], 75, 200.0 + 120 + 91, "preempted"),
        ([LAUNCH, STOP], 75, inf, "preempted"),
        ([LAUNCH, STOP], 75, None, "timeout"),  # Slurm cannot be asked: that is the likelier one
        ([LAUNCH, {"event": "asked", "time": 180.0}, STOP], 75, 210.0, None),  # by a person
        ([LAUNCH, failed("lost")], 1, None, "node"),
        ([LAUNCH, failed("killed")], 1, None, "crash"),
        ([LAUNCH, failed("refused")], 1, None, None),
        ([LAUNCH, failed("lost"), failed("raised")], 1, None, "crash"),  # the last one counts
        ([LAUNCH], 1, 210.0, "timeout"),  # ended from outside before it could save
    ],
)
def test_why_it_ended(events: list[dict[str, Any]], code: int, end: float | None, why: str | None) -> None:
    assert cause(events, code, end, 120.0) == why


def test_a_budget_is_for_restarts_in_a_row() -> None:
    before = [requeued("preempted", 5)] * 3
    assert "launcher.restarts.preempted=3 without a new checkpoint are used up" in against(
        BUDGET, before, "preempted", 5, 2
    )
    assert against(BUDGET, before, "preempted", 6, 2) == ""  # a new checkpoint gives it back
    assert against(BUDGET, before, "timeout", 5, 2) == ""  # each cause has its own
    assert against(BUDGET, [*before, requeued("node", 6)], "preempted", 6, 2) == ""


def test_the_same_failure_again_is_not_tried_again() -> None:
    again = [failed("raised"), requeued("crash", -1), failed("raised")]
    generous = {**BUDGET, "crash": 9}
    assert against(generous, again, "crash", -1, 2) == "step 3 fails in the same way every time"
    assert against(generous, again, "crash", -1, 3) == ""
    assert against(generous, [failed("raised"), failed("raised", step=4)], "crash", -1, 2) == ""
    assert against(generous, [failed("lost"), failed("lost")], "node", -1, 2) == ""  # the machine's fault
