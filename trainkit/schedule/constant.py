"""A constant learning rate after a linear warm-up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trainkit.errors import Problem
from trainkit.schedule._shape import Length, phase_problems, ramp, steps


@dataclass(frozen=True, kw_only=True)
class Constant:
    """Up over `warmup`, then flat."""

    warmup: Length

    def factor(self, step: int, total: int) -> float:
        return ramp(step, steps(self.warmup, total))

    def problems(self, total: int | None) -> Sequence[Problem]:
        return phase_problems(total, warmup=self.warmup)
