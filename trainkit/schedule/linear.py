"""A linear decay after a linear warm-up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from trainkit.errors import Problem
from trainkit.schedule._shape import Length, line, phase_problems, ramp, steps


@dataclass(frozen=True, kw_only=True)
class Linear:
    """Up over `warmup`, then a straight line that would reach `floor` one step after the last."""

    warmup: Length
    floor: Annotated[float, Ge(0), Le(1)]

    def factor(self, step: int, total: int) -> float:
        return ramp(step, steps(self.warmup, total)) * line(step, steps(self.warmup, total), total, self.floor)

    def problems(self, total: int | None) -> Sequence[Problem]:
        return phase_problems(total, warmup=self.warmup)
