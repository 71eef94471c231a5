"""Warm-up, stable, decay (Hu et al., MiniCPM, 2024, arXiv:2404.06395; linear in the decay phase)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le

from trainkit.errors import Problem
from trainkit.schedule._shape import Length, line, phase_problems, ramp, steps


@dataclass(frozen=True, kw_only=True)
class Wsd:
    """Up over `warmup`, then flat, then a straight line to `floor` over the last `decay`."""

    warmup: Length
    decay: Length
    floor: Annotated[float, Ge(0), Le(1)]

    def factor(self, step: int, total: int) -> float:
        return ramp(step, steps(self.warmup, total)) * line(step, total - steps(self.decay, total), total, self.floor)

    def problems(self, total: int | None) -> Sequence[Problem]:
        return phase_problems(total, warmup=self.warmup, decay=self.decay)
