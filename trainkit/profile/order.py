"""What a profile is to record, as the command tells it to the ranks: RUN/profile/. Imports no torch.

RUN/profile/order.json    written before the ranks start; a run without it trains as ever
RUN/profile/rank_R.json   what rank R did: a Chrome trace, which ui.perfetto.dev shows
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from trainkit.runfolder import RunFolder, replace_text

FILE = "order.json"


@dataclass(frozen=True, kw_only=True)
class Order:
    """`steps` steps, after `warmup` others, on every rank or on rank 0."""

    warmup: int
    steps: int
    every_rank: bool

    def write(self, folder: RunFolder) -> None:
        folder.profile.mkdir(parents=True)
        replace_text(folder.profile / FILE, json.dumps(asdict(self)))


def ordered(folder: RunFolder) -> bool:
    """Whether this run is there to be profiled."""
    return (folder.profile / FILE).exists()


def read(folder: RunFolder) -> Order:
    return Order(**json.loads((folder.profile / FILE).read_text()))


def trace(folder: RunFolder, rank: int) -> Path:
    return folder.profile / f"rank_{rank}.json"
