"""No tracker: the run folder is enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainkit.errors import Problem
from trainkit.protocols import RunInfo, TrackerSession


@dataclass(frozen=True, kw_only=True)
class NoTracker:
    """Opens nothing."""

    def problems(self) -> Sequence[Problem]:
        return ()

    def open(self, info: RunInfo) -> TrackerSession | None:
        return None

    def held(self, folder: Path) -> Sequence[int] | None:
        return None
