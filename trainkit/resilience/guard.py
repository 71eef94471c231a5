"""Which steps are bad, and what follows. Pure: no torch, no disk, no clock.

    good step   trained
    bad step    discarded by all ranks: weights, moments and averages stay, its samples count as skipped
    `patience` bad ones in a row
                -> back to the newest checkpoint, made while steps were good, and on from there without the bad ones:
                   training the good ones again heals a state that was damaged after it
                -> if that leads to the same checkpoint once more, without all steps from it to the last bad one, as
                   PaLM was trained (Chowdhery et al., 2022, arXiv:2204.02311, section 5.1)
                -> after `rollbacks` of both together the run ends, and says what was seen

A rank judges for itself and asks no other: what it judges by is summed over all ranks, and equal on each to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from trainkit.errors import TooManyBadSteps
from trainkit.settings import Anomaly

WINDOW, LEAST = 64, 16
"""Losses that a new one is compared with: so many of the newest good steps, and none before there are so few."""

SIGMA = 1.4826
"""Standard deviation over median absolute deviation, of a normal distribution."""

FLOOR = 0.01
"""Of the median, below which no deviation counts: a loss that hardly moves would make a spike of a ripple."""


@dataclass(slots=True)
class Health:
    """What of this a checkpoint holds.

    bad       bad steps in a row, up to the newest
    skipped   steps that are not to be trained
    losses    of the newest good steps, where spikes are looked for
    """

    bad: int = 0
    skipped: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


class Guard:
    """Judges the steps of one run."""

    def __init__(self, settings: Anomaly) -> None:
        self.settings = settings
        self._why = ""
        self._gone_back: list[int] = []  # to the checkpoints of these steps

    def spike(self, health: Health, loss: float) -> str | None:
        """Why a step of this `loss` (of the whole global batch) is bad; None if it is not."""
        if not math.isfinite(loss):
            return f"its loss is {loss}"
        losses, most = health.losses, self.settings.spike
        above = deviations(loss, losses)
        if most is not None and len(losses) >= LEAST and above > most:
            return f"its loss {loss:.4g} is {above:.1f} deviations above {median(losses):.4g}, the median before it"
        losses.append(loss)
        del losses[:-WINDOW]
        return None

    def bad(self, health: Health, why: str) -> None:
        """Count a bad step."""
        health.bad += 1
        self._why = why

    def gives_up(self, health: Health) -> bool:
        """Whether the run has to go back."""
        return health.bad >= self.settings.patience

    def may_go_back(self) -> bool:
        """Whether the run has not gone back often enough yet."""
        return len(self._gone_back) < self.settings.rollbacks

    def go_back(self, health: Health, saved: int | None, step: int) -> list[int]:
        """The steps to skip from the checkpoint of step `saved` on (None: there is none); `step` is the newest bad one.
        Raises TooManyBadSteps if the run has gone back often enough, or cannot."""
        first = step - health.bad + 1
        told = f"steps {first} to {step} are bad: of the last one, {self._why}"
        if saved is None:
            raise TooManyBadSteps(f"{told}\n    there is no checkpoint to go back to; {REMEDY}")
        if not self.may_go_back():
            times = (
                f"; the run had gone back to step {' and '.join(map(str, self._gone_back))}" if self._gone_back else ""
            )
            raise TooManyBadSteps(f"{told}{times}\n    the checkpoint of step {saved} is intact; {REMEDY}")
        again = saved in self._gone_back
        self._gone_back.append(saved)
        return list(range(saved + 1 if again else first, step + 1))


REMEDY = (
    "a lower optimizer.lr or train.clip_norm or a longer schedule.warmup may help; which samples they were is in "
    "events.jsonl and in the ledger"
)


def deviations(loss: float, losses: Sequence[float]) -> float:
    """How many robust standard deviations `loss` lies above the median of `losses` (median absolute deviation; Iglewicz
    and Hoaglin, How to Detect and Handle Outliers, 1993); 0 where there are none."""
    if not losses:
        return 0.0
    middle = median(losses)
    spread = SIGMA * median(abs(value - middle) for value in losses)
    return (loss - middle) / max(spread, FLOOR * abs(middle), 1e-12)
