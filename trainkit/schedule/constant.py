"""A constant learning rate after a linear warm-up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from trainkit.errors import Problem
from trainkit.schedule._shape import phase_problems, ramp


@dataclass(frozen=True, kw_only=True)
class Constant:
    """`warmup` steps up, then flat."""

    warmup: Annotated[int, Ge(0)]

    def factor(self, step: int, total: int) -> float:
        return ramp(step, self.warmup)

    def problems(self, total: int | None) -> Sequence[Problem]:
        return phase_problems(total, warmup=self.warmup)
