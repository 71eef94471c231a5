"""Small runs in this process that copy their checkpoints."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conformance.settings import make
from tests.unit.checkpoint.objects import PATIENCE_S, URL
from trainkit import main
from trainkit.resilience.pulse import Lifeline
from trainkit.resilience.stop import StopFlag
from trainkit.runfolder import RunFolder, read_lines


def run(root: Path, url: str | None = URL, attempt: int = 1, at: Callable[[int, StopFlag], None] | None = None) -> str:
    """12 steps that save every 4th; `at` is called with the number of each step before it is trained."""
    root.mkdir(exist_ok=True)
    flag = StopFlag()

    def beat(step: int, section: str, waited: float = 0.0) -> None:
        if section == "training" and at is not None:
            at(step, flag)

    settings = make(str(root), steps=12, eval_every=6, checkpoint={"every": 4, "keep": 2, "dir": url})
    return main.fit(main.with_data(settings), RunFolder(root), attempt, Lifeline(flag, beat))


def events(root: Path, kind: str) -> list[dict[str, Any]]:
    return [event for event in read_lines(root / "events.jsonl") if event["event"] == kind]


def same(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return [(row["step"], row["loss"], row["grad_norm"]) for row in rows]


def wait(condition: Callable[[], bool]) -> None:
    """Look until `condition` holds."""
    gap, looks = threading.Event(), int(PATIENCE_S / 0.01)
    for _ in range(looks):
        if condition():
            return
        gap.wait(0.01)
    raise TimeoutError("it never happened")
