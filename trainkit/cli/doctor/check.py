"""What a check has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Check:
    """A `fault` keeps runs from working, a `warning` makes them slow or fragile; `remedy`: what to do about it."""

    what: str
    level: Literal["ok", "warning", "fault"]
    found: str
    remedy: str = ""


def least(what: str, have: float, low: tuple[float, float], found: str, remedy: str) -> Check:
    """Judge something of which there should be enough: below the first of `low` it is a fault, below the second a
    warning."""
    if have >= low[1]:
        return Check(what, "ok", found)
    return Check(what, "fault" if have < low[0] else "warning", found, remedy)
