"""Where a row of blocks is cut into stages: pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise


def balanced(sizes: Sequence[int], stages: int, before: int = 0, after: int = 0) -> list[int]:
    """Cut blocks of `sizes` parameters into contiguous stages with a block each or more; the first stage holds `before`
    more, the last `after` more. The largest stage is as small as it can be, and among such cuts the sizes are as equal
    as they can be (least sum of squares).

    Returns where the stages begin, and the end: stage s has the blocks [bounds[s], bounds[s + 1]).
    Raises ValueError where there are more stages than blocks.
    """
    if not 1 <= stages <= len(sizes):
        raise ValueError(f"{len(sizes)} blocks cannot be cut into {stages} stages")
    sums = [0, *accumulate(sizes)]

    def load(stage: int, first: int, end: int) -> int:
        own = sums[end] - sums[first]
        return own + before * (stage == 0) + after * (stage == stages - 1)

    largest, _ = _best(len(sizes), stages, lambda cost, *part: max(cost, load(*part)))

    def squares(cost: float, *part: int) -> float:
        return cost + load(*part) ** 2 if load(*part) <= largest else math.inf

    return _best(len(sizes), stages, squares)[1]


def _best(blocks: int, stages: int, join: Callable[..., float]) -> tuple[float, list[int]]:
    """The cheapest cut, by dynamic programming over the stages. `join(cost, stage, first, end)` is the cost with that
    stage after one of `cost` for those before it."""
    best: list[tuple[float, list[int]] | None] = [(0, [0]), *[None] * blocks]
    for stage in range(stages):
        longer: list[tuple[float, list[int]] | None] = [None] * (blocks + 1)
        for end in range(stage + 1, blocks - (stages - stage - 1) + 1):
            options = [
                (join(found[0], stage, first, end), [*found[1], end])
                for first in range(stage, end)
                if (found := best[first]) is not None
            ]
            longer[end] = min(options)
        best = longer
    whole = best[blocks]
    if whole is None:
        raise ValueError(f"{blocks} blocks cannot be cut into {stages} stages")
    return whole


def given(cut: Sequence[int], blocks: int) -> list[int]:
    """The bounds of stages that begin at the blocks 0 and `cut`. Raises ValueError where a stage would be empty."""
    bounds = [0, *cut, blocks]
    if any(first >= end for first, end in pairwise(bounds)):
        raise ValueError(f"should name blocks between 1 and {blocks - 1}, each after the one before")
    return bounds
