"""Where a run stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainkit.resilience.guard import Health


@dataclass(slots=True)
class Progress:
    """Where a run stands; with the weights and moments, all that a checkpoint holds.

    samples  data position: samples consumed by all ranks together
    best     best eval_loss so far; `stale`: evaluations in a row that did not better it
    health   of the newest steps, and which are skipped
    """

    step: int = 0
    samples: int = 0
    best: float | None = None
    stale: int = 0
    health: Health = field(default_factory=Health)

    @classmethod
    def read(cls, saved: Mapping[str, Any]) -> Progress:
        """From what a checkpoint holds."""
        return cls(**{**saved, "health": Health(**saved["health"])} if "health" in saved else saved)
