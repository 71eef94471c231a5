"""Which checkpoints may go. Pure, without torch."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainkit.checkpoint.manifest import committed, read_trainer, step_folder, steps


def superseded(
    folder: Path, saved: int, keep: int, keep_every: int | None, best: Path | None, damaged: Collection[int]
) -> list[Path]:
    """All checkpoints up to step `saved`, which is committed, but the newest `keep`, the first of every `keep_every`
    steps, and `best`.

    `damaged` steps do not count as kept. One that is newer than `saved` was passed over when the run went on: it is
    left for a person to look at, until the run saves that step again.
    """
    old = [step for step in steps(folder) if step <= saved]
    good = [step for step in committed(folder) if step <= saved and step not in damaged]
    kept = {step_folder(folder, step) for step in staying(good, keep, keep_every)} | {best}
    return [path for path in (step_folder(folder, step) for step in old) if path not in kept]


def staying(good: Sequence[int], keep: int, keep_every: int | None) -> set[int]:
    """Of the steps `good`, oldest first, those that stay whatever they are worth."""
    return {*good[-keep:], *milestones(good, keep_every)}


def milestones(good: Iterable[int], every: int | None) -> list[int]:
    """Of the steps `good`, in order, the first at or after each multiple of `every`, before the next multiple: where
    saves come by the clock, hardly one falls on a multiple."""
    first: dict[int, int] = {}
    for step in good:
        if every is not None and step >= every:
            first.setdefault(step // every, step)
    return list(first.values())


def best(folder: Path, metric: str, mode: str, damaged: Collection[int] = ()) -> Path | None:
    """The checkpoint with the lowest (`mode` 'min') or highest `metric`; None if none was evaluated.

    A checkpoint carries the newest evaluation before it. Of equals the oldest is therefore the one that was evaluated.
    """
    scores = {step: score(step_folder(folder, step), metric) for step in committed(folder) if step not in damaged}
    step = best_of(scores, mode)
    return None if step is None else step_folder(folder, step)


def best_of(scores: Mapping[int, float | None], mode: str) -> int | None:
    """The step with the lowest (`mode` 'min') or highest score, the first of equals; `scores` oldest first."""
    known = {step: value for step, value in scores.items() if value is not None}
    return (max if mode == "max" else min)(known, key=known.__getitem__) if known else None


def score(path: Path, metric: str) -> float | None:
    """`metric` of the checkpoint `path`; None if it has none, or not a finite one, or cannot be read any more."""
    try:
        return value(read_trainer(path), metric)
    except (OSError, ValueError):
        return None


def value(trainer: Any, metric: str) -> float | None:
    """`metric` in the trainer's state of a checkpoint; None as in score()."""
    try:
        found = trainer["metrics"].get(metric)
    except (LookupError, AttributeError, TypeError):
        return None
    return found if isinstance(found, int | float) and math.isfinite(found) else None
