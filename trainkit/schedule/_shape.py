"""What the schedules share: the linear warm-up and its check."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from annotated_types import Ge

from trainkit.errors import Problem

Length = Annotated[float, Ge(0)]
"""The length of a phase: a number of steps, or, below 1, a fraction of the run."""


def steps(length: float, total: int) -> int:
    """`length` in steps of a run of `total` steps."""
    return round(length * total) if length < 1 else round(length)


def ramp(step: int, warmup: int) -> float:
    """1/warmup at step 0, 1 from step warmup-1 on: no step is spent at a learning rate of zero."""
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def line(step: int, first: int, last: int, floor: float) -> float:
    """1 up to step `first`, then straight down to `floor` at step `last`."""
    done = min(1.0, max(0.0, (step - first) / max(1, last - first)))
    return 1.0 - (1.0 - floor) * done


def phase_problems(total: int | None, **phases: float) -> Sequence[Problem]:
    """The phases of a schedule must fit into the run."""
    if total is None or sum(steps(length, total) for length in phases.values()) <= total:
        return ()
    names = " + ".join(f"schedule.{name}" for name in phases)
    return [
        Problem(
            names,
            " + ".join(str(length) for length in phases.values()),
            f"longer than the run, which has train.steps={total}",
            "shorten it (a number below 1 is a fraction of the run), or train for more steps",
        )
    ]
