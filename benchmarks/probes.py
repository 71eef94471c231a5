"""What is read at the beginning of every step of a training, and per step in between.

    seconds   of the wall
    calls     of Python functions, by sys.setprofile
    traffic   collectives, bytes of their tensors, and of these bytes what was summed
    memory    the most bytes that were allocated at once

Only the first is noisy. A probe is a context; within, it yields the function that reads it.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from tests.conformance.meters import Peak, Traffic

Reading = tuple[float, ...]
Probe = Callable[[], AbstractContextManager[Callable[[], Reading]]]
WARM = 4
"""Steps before the first that counts: optimizers make their state, frameworks order their buckets."""


class Marks:
    """The readings of `read`, one taken by every call."""

    def __init__(self, read: Callable[[], Reading]) -> None:
        self.read = read
        self.seen: list[Reading] = []

    def __call__(self) -> None:
        self.seen.append(self.read())

    def per_step(self) -> Reading:
        counted = self.seen[WARM:]
        return tuple((last - first) / (len(counted) - 1) for first, last in zip(counted[0], counted[-1], strict=True))


@contextmanager
def seconds() -> Iterator[Callable[[], Reading]]:
    yield lambda: (time.perf_counter(),)


@contextmanager
def calls() -> Iterator[Callable[[], Reading]]:
    total = 0

    def profile(frame: Any, event: str, argument: Any) -> None:
        nonlocal total
        total += event == "call"

    sys.setprofile(profile)
    try:
        yield lambda: (total,)
    finally:
        sys.setprofile(None)


@contextmanager
def traffic() -> Iterator[Callable[[], Reading]]:
    with Traffic() as seen, seen.of_horovod():
        yield lambda: (seen.calls.total(), seen.bytes.total(), seen.summed())


@contextmanager
def memory() -> Iterator[Callable[[], Reading]]:
    gc.collect()
    with Peak() as seen:
        yield lambda: (seen.bytes,)
