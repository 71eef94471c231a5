"""One run of a sweep: what it is called, what differs, and what became of it. Its run folder is the truth."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trainkit.runfolder import RunFolder, read_lines

LONGEST = 100  # of a folder's name, which many file systems end at 255 bytes


@dataclass(frozen=True, slots=True)
class Member:
    """`name`: of its folder in that of the sweep; `values`: what differs, by key, as it would be typed."""

    name: str
    values: Mapping[str, str]

    def words(self, root: Path) -> list[str]:
        """Those that it adds to the words of the sweep in the folder `root`."""
        return [*(f"{key}={value}" for key, value in self.values.items()), f"run.dir={root / self.name}"]


def named(values: Mapping[str, str], number: int | None = None) -> Member:
    """The member with `values`: lr=0.0001_seed=1, with as much of each key as tells it from the others. What a file
    system or a shell could stumble over is replaced, and then a hash keeps two names apart. `number` comes first, where
    a sweep may come to the same values again."""
    last = [key.rpartition(".")[2] for key in values]
    short = {key: name if last.count(name) == 1 else key for key, name in zip(values, last, strict=True)}
    safe = {key: re.sub(r"[^A-Za-z0-9._+-]", "-", value) for key, value in values.items()}
    full = "_".join(f"{short[key]}={value}" for key, value in safe.items())
    name = full[:LONGEST]
    if name != full or safe != values:
        name += "-" + hashlib.sha256(repr([*values.items()]).encode()).hexdigest()[:6]
    return Member(name if number is None else f"{number}_{name}", dict(values))


@dataclass(frozen=True, slots=True)
class Result:
    """`status`: done, failed, stopped, killed, refused as its summary says it; pruned; `unfinished`: it has no summary;
    `waiting`: nothing is there. `value`: the metric's last one, which may be no finite number."""

    status: str
    step: int = 0
    value: float | None = None
    message: str = ""

    @property
    def counts(self) -> bool:
        """Whether it is to be compared with others."""
        return self.status == "done" and self.value is not None and math.isfinite(self.value)

    @property
    def failed(self) -> bool:
        return self.status in ("failed", "killed", "refused")


def result(folder: RunFolder, metric: str) -> Result:
    """Of the member that lives in `folder`."""
    if not folder.events.exists():
        return Result("waiting")
    status = json.loads(folder.summary.read_text())["status"] if folder.summary.exists() else "unfinished"
    rows = [*read_lines(folder.metrics)]
    values = [row[metric] for row in rows if metric in row]
    value = float(values[-1]) if values else None
    failures = [event["message"] for event in read_lines(folder.events) if event["event"] == "failure"]
    message = failures[-1] if failures and status != "done" else ""
    return Result(status, rows[-1]["step"] if rows else 0, value, message)


def evaluations(rows: Sequence[Mapping[str, float]], metric: str) -> list[float]:
    """The metric's values during the training, in order: the n-th of one member compares with the n-th of another."""
    return [row[metric] for row in rows if metric in row and row["step"] > 0]
