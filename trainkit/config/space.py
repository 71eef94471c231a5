"""What a sweep tries for one key."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Either some `values`, each as it would be typed; those of a range are `step` apart, which is 0 for others. Or,
    with no `values`, all numbers from `low` to `high`: `log`: evenly in their logarithm; `whole`: integers only."""

    key: str
    values: tuple[str, ...] = ()
    step: float = 0.0
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False

    @property
    def ends(self) -> tuple[str, ...]:
        """Every value, or the two ends of an interval: what is wrong shows in one of them."""
        return self.values or (self.text(self.low), self.text(self.high))

    def text(self, number: float) -> str:
        """A number of the interval as it would be typed: six digits tell any two apart that a run could."""
        return str(int(number)) if self.whole else str(float(f"{number:.6g}"))
