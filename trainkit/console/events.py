"""One line of an event, for a person."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from trainkit.secrets import without_login

TOLD = (
    "launch",
    "stop",
    "asked",
    "failure",
    "straggler",
    "bad_step",
    "rollback",
    "restart",
    "requeue",
    "give_up",
    "end",
)
"""The events that say how a run went."""

_ELSEWHERE = ("event", "time", "traceback", "path", "log", "versions")


def describe(event: Mapping[str, Any]) -> str:
    """When, what, and the facts that fit on a line."""
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event["time"]))
    told = ", ".join(f"{key} {value}" for key, value in event.items() if key not in _ELSEWHERE)
    return f"{when}  {event['event']:8}  {without_login(told)}"
