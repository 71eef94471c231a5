"""A cosine decay after a linear warm-up (Loshchilov and Hutter, 2017, arXiv:1608.03983, without restarts)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from trainkit.errors import Problem
from trainkit.schedule._shape import line, phase_problems, ramp


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """`warmup` steps up, then half a cosine that would reach `floor` one step after the last."""

    warmup: Annotated[int, Ge(0)]
    floor: Annotated[float, Ge(0), Le(1)]

    def factor(self, step: int, total: int) -> float:
        left = line(step, self.warmup, total, 0.0)
        return ramp(step, self.warmup) * (self.floor + (1.0 - self.floor) * 0.5 * (1.0 - math.cos(math.pi * left)))

    def problems(self, total: int | None) -> Sequence[Problem]:
        return phase_problems(total, warmup=self.warmup)
