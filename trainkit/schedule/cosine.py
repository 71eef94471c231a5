"""A cosine decay after a linear warm-up (Loshchilov and Hutter, 2017, arXiv:1608.03983, without restarts)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from trainkit.errors import Problem
from trainkit.schedule._shape import Length, line, phase_problems, ramp, steps


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """Up over `warmup`, then half a cosine that would reach `floor` one step after the last."""

    warmup: Length
    floor: Annotated[float, Ge(0), Le(1)]

    def factor(self, step: int, total: int) -> float:
        left = line(step, steps(self.warmup, total), total, 0.0)
        return ramp(step, steps(self.warmup, total)) * (
            self.floor + (1.0 - self.floor) * 0.5 * (1.0 - math.cos(math.pi * left))
        )

    def problems(self, total: int | None) -> Sequence[Problem]:
        return phase_problems(total, warmup=self.warmup)
