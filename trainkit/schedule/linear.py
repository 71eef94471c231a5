"""A linear decay after a linear warm-up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from trainkit.errors import Problem
from trainkit.schedule._shape import line, phase_problems, ramp


@dataclass(frozen=True, kw_only=True)
class Linear:
    """`warmup` steps up, then a straight line that would reach `floor` one step after the last."""

    warmup: Annotated[int, Ge(0)]
    floor: Annotated[float, Ge(0), Le(1)]

    def factor(self, step: int, total: int) -> float:
        return ramp(step, self.warmup) * line(step, self.warmup, total, self.floor)

    def problems(self, total: int | None) -> Sequence[Problem]:
        return phase_problems(total, warmup=self.warmup)
